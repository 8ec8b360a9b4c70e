"""The golden inputs and figures of the two public implementations."""

import json
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent.parent / "golden"


def load(name):
    with np.load(_FOLDER / f"{name}.npz") as archive:
        golden = {key: archive[key] for key in archive.files}
    golden["boxes"] = [np.array(boxes, dtype=float) for boxes in json.loads(str(golden["boxes"]))]
    return golden


def load_sat():
    golden = load("sat_evaluator")
    golden["columns"] = json.loads(str(golden["columns"]))
    return golden


def load_wsol():
    golden = load("wsolevaluation")
    golden["results"] = json.loads(str(golden["results"]))
    shape = golden["mask_shape"]
    for name in ("masks", "ignore"):
        golden[name] = np.unpackbits(golden[name], count=shape.prod()).reshape(shape).astype(bool)
    return golden
