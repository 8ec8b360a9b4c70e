"""Damages files of every kind that the package reads, and fails where a reader raises anything but a `UsageError`.

    python scripts/fuzz_readers.py
    python scripts/fuzz_readers.py --count 100000 --readers coco yolo --seed 1

A mutation is of bytes (flipped, cut, repeated, replaced), of a word or number (swapped for one that has broken readers
before), or of a file (missing, a folder, in another encoding). Half of the data sets are read with bad entries skipped.
Prints every kind of failure once, with the mutation that leads to it, and exits with status 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fuzz_mutations import mutate_file


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Args:
        make: writes sound files below a folder.
        read: reads them; whatever it raises but a `UsageError` is a failure.
        targets: patterns of the files that are damaged.
        cost: how many other mutations one takes as long as.
    """

    make: Callable[[Path], None]
    read: Callable[[Path, random.Random], None]
    targets: tuple[str, ...] = ("**/*",)
    cost: int = 1


def _image(file: Path, **options) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), (len(str(file)) * 7 % 256, 90, 30)).save(file, **options)


def _exported(layout: str) -> Callable[[Path], None]:
    """PartScenes in a layout, with two classes."""

    def make(root: Path) -> None:
        from scene_writers import export_scenes

        root.rmdir()
        export_scenes(root, layout, scenes_per_class=2, num_classes=2, image_size=32, splits=("train", "test"))

    return make


def _load(source: str) -> Callable[[Path, random.Random], None]:
    def read(root: Path, draw: random.Random) -> None:
        from sat_peft.data.sources import Problems, load_source

        skip = draw.random() < 0.5
        for split in ("train", "test"):
            load_source(source, split, root=root, problems=Problems(skip=skip, read_images=skip))

    return read


def _make_coco(root: Path) -> None:
    for split in ("train", "test"):
        names = [f"{number}.png" for number in range(4)]
        for name in names:
            _image(root / split / name)
        content = {
            "images": [{"id": i, "file_name": name, "width": 24, "height": 16} for i, name in enumerate(names)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": i % 2, "bbox": [1, 2, 9, 7], "iscrowd": 0} for i in range(4)
            ],
            "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content))


def _make_voc(root: Path) -> None:
    for split in ("train", "test"):
        for number in range(4):
            _image(root / split / f"{number}.png")
            name = "cat" if number % 2 else "dog"
            (root / split / f"{number}.xml").write_text(
                "<?xml version='1.0' encoding='utf-8'?><annotation><size><width>24</width><height>16</height></size>"
                f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>"
                "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
            )


def _make_yolo(root: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            _image(root / "images" / split / f"{number}.png")
            label = root / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{number % 2} .5 .5 .25 .5\n")
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\nnc: 2\n"
    )


def _make_folder(root: Path) -> None:
    rows = []
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(2):
                _image(root / split / name / f"{number}.png")
                rows.append({"file_name": f"{split}/{name}/{number}.png", "objects": {"bbox": [[1, 2, 9, 7]]}})
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "".join(f'cat/{number}.png,"[1, 2, 9, 7]"\n' for number in range(2))
    (root / "test" / "metadata.csv").write_text(f"file_name,bbox\n{table}")


def _make_pictures(root: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x0132] = 6, 72.0, "2026:01:01 00:00:00"
    for suffix in ("jpg", "png", "webp", "tif", "avif", "gif", "bmp"):
        options = {} if suffix in ("gif", "bmp") else {"exif": exif.tobytes()}
        _image(root / f"picture.{suffix}", **options)


def _read_pictures(root: Path, draw: random.Random) -> None:
    from sat_peft.data.decoding import decode_image, read_head
    from sat_peft.errors import UsageError

    for file in sorted(root.iterdir()):
        for read in (read_head, decode_image):
            try:
                read({"bytes": None, "path": str(file)}, file.name)
            except UsageError:
                continue


def _make_run(root: Path) -> None:
    from sat_peft.files.outputs import write_json_atomic

    figures = {"gt_known": 50.0, "top1_loc": 40.0, "top5_loc": None, "top1_cls": 60.0}
    results = {"protocol": "original", "threshold": 0.4, "threshold_source": "validation", "training_images": 8}
    results |= {"test_images": 4, "methods": {"sat": figures}, "thresholds": {"sat": 0.4}}
    config = {"data": "part_scenes", "data_root": None, "seed": 0, "backbone": "vit", "weights": None}
    adapter = {"peft_type": "SAT", "num_classes": 2, "class_names": ["cat", "dog"], "num_spatial_blocks": 2}
    adapter |= {"backbone": {"name": "vit_tiny_patch16_224", "img_size": [32, 32], "mean": [0.5, 0.5, 0.5]}}
    (root / "adapter").mkdir(parents=True)
    write_json_atomic(root / "config.json", config)
    write_json_atomic(root / "status.json", {"status": "interrupted"})
    write_json_atomic(root / "results.json", results)
    write_json_atomic(root / "set_aside.json", {"test": ["a", "b"]})
    write_json_atomic(root / "adapter" / "adapter_config.json", adapter)
    steps = [{"method": "SAT", "step": step, "learning_rate": 0.1, "total": 1 / step} for step in (1, 2, 3)]
    (root / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))


def _read_run(root: Path, draw: random.Random) -> None:
    from sat_peft.errors import UsageError
    from sat_peft.options.training import RunOptions
    from sat_peft.prediction.found import PROTOCOL
    from sat_peft.prediction.localizer import find_trained
    from sat_peft.report.model_card import write_model_card
    from sat_peft.report.page import write_report
    from sat_peft.runs.folder import RunFolder, check_output
    from sat_peft.runs.reader import RunReader

    def resume(folder: Path) -> None:
        check_output(folder, {}, resume=True)
        RunFolder(folder, {}, resume=True).forget_metrics("SAT", after=2)

    def configuration(folder: Path) -> None:
        from sat_peft.commands.command_line import read_config

        read_config(folder, RunOptions)

    def threshold(folder: Path) -> None:
        RunReader(folder).threshold(PROTOCOL)

    for read in (find_trained, threshold, write_model_card, write_report, configuration, resume):
        try:
            read(root)
        except UsageError:
            continue


def _make_prediction(root: Path) -> None:
    from sat_peft.data.writing import Prediction
    from sat_peft.prediction.folder import open_prediction_folder
    from sat_peft.prediction.journal import JournalWriter

    open_prediction_folder(root, {"threshold": 0.5, "class_names": ["cat", "dog"]})
    with JournalWriter(root, 0) as writer:
        found = [Prediction(f"{n}.jpg", (24, 16), "cat", 0, 0.5, [[1.0, 2.0, 9.0, 9.0]]) for n in range(3)]
        writer.write(found, {"x.jpg": "damaged"})


def _read_prediction(root: Path, draw: random.Random) -> None:
    from sat_peft.data.writing import PredictionSet, write_format, writers
    from sat_peft.prediction.folder import open_prediction_folder
    from sat_peft.prediction.journal import Journal, repair

    open_prediction_folder(root, {"threshold": 0.5, "class_names": ["cat", "dog"]})
    repair(root)
    journal = Journal(root)
    found = list(journal.predictions(sorted(journal._places)))
    predictions = PredictionSet(found, ["cat", "dog"], "original", 0.5, "fixed")
    write_format(draw.choice(sorted(set(writers()) - {"voc", "yolo"})), root, predictions)


def _make_mat(root: Path) -> None:
    import numpy as np
    from scipy.io import savemat

    cells = np.empty((2, 1), object)
    cells[:, 0] = ["n1-cat/a.png", "n2-dog/b.png"]
    for split in ("train", "test"):
        savemat(root / f"{split}_list.mat", {"file_list": cells, "labels": np.array([[1], [2]], float)})
    for folder, name in (("n1-cat", "a"), ("n2-dog", "b")):
        _image(root / "Images" / folder / f"{name}.png")
        annotation = root / "Annotation" / folder / name
        annotation.parent.mkdir(parents=True)
        annotation.write_text(
            f"<annotation><object><name>{folder}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>"
        )


def _make_checkpoint(root: Path) -> None:
    import torch

    state = {"step": 1, "epoch": 0, "batch": 1, "parameters": {"a": torch.ones(3)}, "optimizer": {}, "scheduler": {}}
    torch.save(state | {"generators": [{"cpu": torch.get_rng_state()}]}, root / "SAT.pt")


def _read_checkpoint(root: Path, draw: random.Random) -> None:
    from sat_peft.training.loop import read_state

    read_state(root / "SAT.pt")


def _make_weights(root: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, root / "weights.safetensors")


def _read_weights(root: Path, draw: random.Random) -> None:
    from sat_peft.files import read_safetensors

    read_safetensors(root / "weights.safetensors")


def _tiny_backbone():
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=0)


def _make_adapter(root: Path) -> None:
    from peft import get_peft_model

    from sat_peft import SatConfig, save_adapter

    shutil.rmtree(root)
    save_adapter(get_peft_model(_tiny_backbone(), SatConfig(num_classes=2, num_spatial_blocks=1, r=2)), root)


def _read_adapter(root: Path, draw: random.Random) -> None:
    from sat_peft import load_adapter

    load_adapter(_tiny_backbone(), root)


def _make_cache(root: Path) -> None:
    import numpy as np

    np.save(root / "cache.npy", np.ones((4, 3, 2), np.float16))


class _CacheSource:
    """What a cache of ones is compared with."""

    dtype = "float16"

    def __len__(self) -> int:
        return 4

    def batches(self, places):
        import numpy as np

        yield np.ones((len(places), 3, 2), np.float16)


def _read_cache(root: Path, draw: random.Random) -> None:
    from sat_peft.data.feature_cache import _problem

    _problem(root / "cache.npy", _CacheSource())


READERS = {
    "coco": Reader(_make_coco, _load("coco"), ("*.json",)),
    "voc": Reader(_make_voc, _load("voc"), ("**/*.xml",)),
    "yolo": Reader(_make_yolo, _load("yolo"), ("**/*.txt", "data.yaml", "data.yaml", "data.yaml")),
    "folder": Reader(_make_folder, _load("folder"), ("metadata.jsonl", "test/metadata.csv")),
    "cub": Reader(_exported("cub"), _load("cub"), ("**/*.txt",), 2),
    "fgvc_aircraft": Reader(_exported("fgvc_aircraft"), _load("fgvc_aircraft"), ("**/*.txt",), 2),
    "ilsvrc": Reader(_exported("ilsvrc"), _load("ilsvrc"), ("**/*.xml", "**/*.csv", "**/*.txt"), 2),
    "wsol_metadata": Reader(_exported("wsol_metadata"), _load("wsol_metadata"), ("**/*.txt",), 2),
    "reference_lists_birds": Reader(_exported("reference_lists_birds"), _load("reference_lists"), ("**/*.txt",), 2),
    "reference_lists_cars": Reader(_exported("reference_lists_cars"), _load("reference_lists"), ("**/*.txt",), 2),
    "stanford_cars": Reader(_exported("stanford_cars_one_file"), _load("stanford_cars"), ("*.mat",), 20),
    "stanford_dogs": Reader(_make_mat, _load("stanford_dogs"), ("*.mat", "Annotation/*/*"), 20),
    "pictures": Reader(_make_pictures, _read_pictures),
    "run": Reader(_make_run, _read_run, cost=4),
    "prediction": Reader(_make_prediction, _read_prediction),
    "adapter": Reader(_make_adapter, _read_adapter, ("adapter_config.json", "*.safetensors"), 10),
    "feature_cache": Reader(_make_cache, _read_cache),
    "checkpoint": Reader(_make_checkpoint, _read_checkpoint),
    "safetensors": Reader(_make_weights, _read_weights),
}


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fuzz(name: str, count: int, seed: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Damages the files of one reader `count` times and yields (mutations, traceback) of every failure.

    Args:
        name: of `READERS`.
        count: of mutated inputs.
        seed: the same inputs for the same seed.
        folder: empty; where the files are.
    """
    from sat_peft.errors import UsageError

    reader = READERS[name]
    sound, damaged = folder / "sound", folder / "damaged"
    sound.mkdir(parents=True)
    with _quiet():
        reader.make(sound)
    for number in range(count):
        draw = random.Random(f"{name} {seed} {number}")
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(sound, damaged, symlinks=True)
        files = sorted({file for pattern in reader.targets for file in damaged.glob(pattern) if file.is_file()})
        # Each pattern has its turn, however many files it matches.
        pattern = [file for file in damaged.glob(draw.choice(reader.targets)) if file.is_file()]
        chosen = {draw.choice(sorted(pattern) or files) for _ in range(draw.choice((1, 1, 1, 2, 4)))}
        told = [mutate_file(file, draw) for file in sorted(chosen)]
        try:
            with _quiet():
                reader.read(damaged, draw)
        except UsageError:
            continue
        except Exception:
            yield f"{name}, seed {seed}, input {number}: {'; '.join(told)}", traceback.format_exc()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="mutated inputs of all readers (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS), help="those to test")
    arguments = parser.parse_args()
    weights = {name: 1 / READERS[name].cost for name in arguments.readers}
    kinds: dict[str, int] = {}
    for name, weight in weights.items():
        count = max(1, round(arguments.count * weight / sum(weights.values())))
        start, failures = time.perf_counter(), 0
        with tempfile.TemporaryDirectory(prefix="fuzz_readers-") as folder:
            for told, trace in fuzz(name, count, arguments.seed, Path(folder)):
                failures += 1
                places = [line for line in trace.splitlines() if "sat_peft" in line]
                kind = f"{places[-1].strip() if places else ''} {trace.splitlines()[-1][:60]}"
                kinds[kind] = kinds.get(kind, 0) + 1
                if kinds[kind] == 1:
                    print(f"\n{told}\n{trace}", flush=True)
        print(f"{name}: {count} inputs, {failures} failures, {time.perf_counter() - start:.0f} s", flush=True)
    if kinds:
        sys.exit(f"{sum(kinds.values())} failures of {len(kinds)} kinds")


if __name__ == "__main__":
    main()
