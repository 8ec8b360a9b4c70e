"""Reads back what a run left in its folder, whatever of it is there."""

from __future__ import annotations

import base64
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sat_peft.errors import UsageError
from sat_peft.evaluation.measure import Measured
from sat_peft.evaluation.registry import method_titles
from sat_peft.files import check_values, is_folder
from sat_peft.files.shared_paths import without_absolute_paths
from sat_peft.report.curves import iou_histogram
from sat_peft.runs.reader import RunReader

# Images that the gallery of a page lists; the tables count all.
MAX_LISTED = 5000
# Of metrics.jsonl: what is no term of a loss.
_NO_LOSS = ("method", "step", "epoch", "learning_rate")


@dataclass(frozen=True)
class Measurement:
    """Figures of several methods on the same images under one protocol.

    Args:
        protocol: its name.
        split: the evaluated split.
        num_images, num_classes: of the split; None where the folder does not tell.
        bootstrap: resamples behind the confidence intervals.
        methods: name -> `title`, `threshold`, `threshold_source`, `summary` and `confidence_intervals`.
        source: where the protocol comes from.
        oracle: the thresholds were chosen on the evaluated images.
        ten_crop: classes are those of ten crops.
        measured: the images have true boxes.
        standing: which method localises best, in a sentence.
        curves: name -> `per_threshold` of a `LocalizationResult`.
        iou_histograms: name -> `iou_histogram`.
    """

    protocol: str
    split: str
    num_images: int | None
    num_classes: int | None
    bootstrap: int
    methods: dict[str, dict]
    source: str = ""
    oracle: bool = False
    ten_crop: bool = False
    measured: bool = True
    standing: str | None = None
    curves: dict[str, dict] = field(default_factory=dict)
    iou_histograms: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """The images that a page shows.

    Args:
        about: gallery.json.
        records: records of records.jsonl, in its order, at most `MAX_LISTED`: all that have pictures, of the others
            some at equal distances. With `thumbnail` (base64 of a JPEG), `maps` (base64 of uint8 (h, (1 + K) w), the
            localisation map and those of the blocks side by side) and `grid` [h, w]; None where there is no picture.
    """

    about: dict
    records: list[dict]


@dataclass(frozen=True)
class ClassFigures:
    """How the images of one class came out; figures in percent, None where they were not measured."""

    name: str
    images: int
    gt_known: float | None
    top1_loc: float | None
    top1_cls: float | None
    mean_iou: float | None


@dataclass
class RunRecord:
    """All that a run folder tells. Empty or None is what it does not hold; `damaged` names files that are unreadable.

    Args:
        losses: method -> term -> (steps, values).
        classes: classes of the run's gallery, else of the first method of the evaluation.
    """

    name: str
    status: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    losses: dict[str, dict[str, tuple[list, list]]] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    classes: list[ClassFigures] = field(default_factory=list)
    gallery: Gallery | None = None
    damaged: list[str] = field(default_factory=list)


class _ClassCounts:
    """Adds up the records of each class."""

    def __init__(self):
        self._rows = defaultdict(lambda: defaultdict(list))

    def add(self, record: dict) -> None:
        values = self._rows[record["label"]]
        for name in ("correct", "top1_correct", "iou"):
            if record.get(name) is not None:
                values[name].append(record[name])
        values["top1_cls"].append(record["label_rank"] == 0)

    def figures(self) -> list[ClassFigures]:
        def percent(values: list) -> float | None:
            return 100 * float(np.mean(values)) if values else None

        return [
            ClassFigures(
                name,
                images=len(values["top1_cls"]),
                gt_known=percent(values["correct"]),
                top1_loc=percent(values["top1_correct"]),
                top1_cls=percent(values["top1_cls"]),
                mean_iou=percent(values["iou"]),
            )
            for name, values in sorted(self._rows.items())
        ]


def read_run(folder: str | Path) -> RunRecord:
    """Reads a run folder, or a folder that recipes/evaluate.py wrote.

    Raises:
        UsageError: `folder` is neither.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise UsageError(f"{str(folder)!r} is no folder; name the folder of a run.")
    reader = RunReader(folder, tolerant=True)
    results = reader.json("results.json")
    evaluation_alone = "protocols" in results
    if not evaluation_alone and not any(map(reader.has, ("status.json", "config.json"))):
        raise UsageError(
            f"{str(folder)!r} is no run folder: it holds neither status.json nor config.json. Name a folder that a "
            "recipe left."
        )
    run = RunRecord(
        name=folder.resolve().name,
        # The page is for sharing; status.json keeps the whole reason.
        status=without_absolute_paths(reader.json("status.json")),
        config=without_absolute_paths(reader.json("config.json")),
        versions=reader.json("versions.json"),
        parameters=reader.json("parameters.json"),
        results=results,
        damaged=reader.damaged,
    )
    with reader.reading("metrics.jsonl"):
        run.losses = _losses(reader.lines("metrics.jsonl"))
    counts = _ClassCounts()
    with reader.reading("gallery"):
        run.gallery = _gallery(reader, counts)
    with reader.reading("measurement.json"):
        run.measurements += _own_measurement(reader, {} if evaluation_alone else results)
    prefix = "" if evaluation_alone else "evaluation/"
    with reader.reading(f"{prefix}results.json"):
        run.measurements += _evaluations(reader, prefix, None if run.gallery else counts)
    with reader.reading("gallery"):
        run.classes = counts.figures()
    return run


def _losses(lines: Iterable[dict]) -> dict[str, dict[str, tuple[list, list]]]:
    losses: dict = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for line in lines:
        for name, value in line.items():
            if name not in _NO_LOSS and isinstance(value, int | float):
                steps, values = losses[line.get("method", "training")][name]
                steps.append(line.get("step", len(steps)))
                values.append(value)
    return losses


def _own_measurement(reader: RunReader, results: dict) -> list[Measurement]:
    known = reader.json("measurement.json")
    if known:
        check_values(reader.folder, known, typing.get_type_hints(Measurement))
        return [Measurement(**known | {"standing": results.get("standing")})]
    if not results.get("methods"):
        return []
    # What a run tells without measurement.json: the figures alone.
    methods = {}
    for name, figures in results["methods"].items():
        threshold = results.get("thresholds", {}).get(name)
        source = results.get("threshold_source") if threshold is not None else None
        chosen = {"threshold": threshold, "threshold_source": source}
        methods[name] = Measured(method_titles().get(name, name), figures).entry() | chosen
    return [
        Measurement(
            protocol=results["protocol"],
            split="test",
            num_images=results.get("test_images"),
            num_classes=None,
            bootstrap=0,
            methods=methods,
            measured=any(figures.get("gt_known") is not None for figures in results["methods"].values()),
            standing=results.get("standing"),
        )
    ]


def _evaluations(reader: RunReader, prefix: str, counts: _ClassCounts | None) -> Iterator[Measurement]:
    """What recipes/evaluate.py wrote below `prefix`; the classes of its first method are counted in `counts`."""
    results, curves = reader.json(f"{prefix}results.json"), reader.json(f"{prefix}curves.json")
    for protocol, section in results.get("protocols", {}).items():
        iou = defaultdict(list)
        for record in reader.lines(f"{prefix}records_{protocol}.jsonl"):
            iou[record["method"]].append(record["iou"])
            if counts is not None and record["method"] == next(iter(section["methods"])):
                counts.add(record)
        counts = None
        yield Measurement(
            protocol=protocol,
            split=results["split"],
            num_images=results["num_images"],
            num_classes=results["num_classes"],
            bootstrap=results["bootstrap"],
            methods=section["methods"],
            source=section["source"],
            oracle=section["oracle"],
            ten_crop=section["ten_crop"],
            standing=section.get("standing"),
            curves=curves.get(protocol, {}),
            iou_histograms={method: iou_histogram(values) for method, values in iou.items()},
        )


def _gallery(reader: RunReader, counts: _ClassCounts) -> Gallery | None:
    about = reader.json("gallery/gallery.json")
    if not about:
        return None
    without_picture = about["num_images"] - sum(about["pictured"].values())
    room = max(1, MAX_LISTED - sum(about["pictured"].values()))
    step = max(1, -(-without_picture // room))
    records, passed = [], 0
    for record in reader.lines("gallery/records.jsonl"):
        counts.add(record)
        if record["picture"] is None:
            passed += 1
            if passed % step:
                continue
        records.append(record | _picture(reader, record))
    return Gallery(about, records)


def _picture(reader: RunReader, record: dict) -> dict:
    """The pictures of a record as the page wants them; without what somebody removed or broke."""
    name, none = record["picture"], {"thumbnail": None, "maps": None, "grid": None}
    # The name becomes a path, so it is held to the form that it is written in.
    if name is None or not name.isdecimal():
        return none
    folder = reader.folder / "gallery"
    try:
        thumbnail = (folder / f"{name}.jpg").read_bytes()
        with Image.open(folder / f"{name}.png", formats=("PNG",)) as image:
            maps = np.asarray(image.convert("L"))
    except Exception:  # decoders raise what they like on a damaged file
        reader.damaged.append(f"gallery/{name}")
        return none
    grid = [maps.shape[0], maps.shape[1] // len(record["map_ranges"])]
    return {"thumbnail": _base64(thumbnail), "maps": _base64(maps.tobytes()), "grid": grid}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
