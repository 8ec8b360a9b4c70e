"""What an evaluation leaves behind, and the folder that it is in.

results.json             settings and figures; written last: a folder without it holds no whole evaluation
table.md                 the figures as Markdown, one table per protocol
accuracy_PROTOCOL.png    accuracy against the threshold of the maps
iou_PROTOCOL.png         histogram of the IoU of the images
records_PROTOCOL.jsonl   one line per method and image
curves.json              the numbers behind the accuracy curves
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import Evaluation
from sat_peft.evaluation.figures import FIGURES
from sat_peft.evaluation.standing import standing
from sat_peft.evaluation.trained import TrainedMeasurement
from sat_peft.files.outputs import (
    FolderLock,
    check_unlocked,
    check_writable,
    is_unfinished,
    remove_unfinished,
    write_json_atomic,
    write_text_atomic,
)
from sat_peft.files.shared_paths import without_absolute_paths
from sat_peft.options.choices import TTA_IN_WORDS
from sat_peft.report.curves import draw_iou_histograms, draw_threshold_curves
from sat_peft.report.tables import percent, text_table

_FILES = (
    *("results.json", "table.md", "curves.json", "records_*.jsonl", "accuracy_*.png", "iou_*.png"),
    # Drawn from the others by `sat-peft report`.
    "report.html",
)

ORACLE_WARNING = (
    "**Oracle thresholds: they were chosen on the very images that are evaluated here. These figures are an upper "
    "bound and do not compare with figures whose threshold was chosen elsewhere.**"
)


def image_record(method: str, evaluation: Evaluation, position: int, image_id: str, label: str) -> dict:
    """What was found in the image `evaluation.images[position]`, and what there was to find, in evaluation pixels."""
    image = evaluation.images[position]
    found = {name: values[position].tolist() for name, values in evaluation.result.per_image.items()}
    identity = {"image_id": image_id, "label": label, "method": method}
    return found | identity | {"label_rank": image.label_rank, "true_boxes": image.boxes.tolist()}


def evaluation_contents(about: Mapping, measurement: TrainedMeasurement) -> tuple[dict, dict, dict]:
    """`results`, `curves` and `records` as `write_evaluation` takes them; `about` are settings, told without paths."""
    protocols, curves, records = {}, {}, {}
    for one in measurement.protocols:
        name = one.protocol.name
        evaluations = {method: each.evaluation for method, each in one.methods.items() if each.evaluation}
        protocols[name] = {
            "source": one.protocol.source,
            "image_size": list(one.image_size),
            "ten_crop": one.ten_crops,
            "oracle": any(each.result.threshold_source.startswith("oracle") for each in evaluations.values()),
            "standing": standing(one.methods),
            "methods": {method: each.entry() for method, each in one.methods.items()},
        }
        curves[name] = {method: each.result.per_threshold for method, each in evaluations.items()}
        records[name] = [
            image_record(method, each, position, measurement.image_ids[image.index], measurement.labels[image.index])
            for method, each in evaluations.items()
            for position, image in enumerate(each.images)
        ]
    counts = {
        "num_images": len(measurement.image_ids),
        "num_classes": measurement.num_classes,
        "skipped": measurement.problems.report(),
    }
    # The results are for sharing; the run's paths.json tells where its data lies.
    return without_absolute_paths({**about, **counts}) | {"protocols": protocols}, curves, records


def check_evaluation_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Raises `UsageError` unless an evaluation may be written to `folder`.

    What an evaluation that was broken off left there may be replaced, a whole one with `overwrite`.
    """
    check_writable(folder)
    check_unlocked(folder)
    names = sorted(path.name for path in folder.iterdir() if not is_unfinished(path)) if folder.is_dir() else []
    foreign = [name for name in names if not any(fnmatch(name, known) for known in _FILES)]
    if foreign:
        raise UsageError(
            f"the output folder {str(folder)!r} holds files that are no part of an evaluation "
            f"({', '.join(foreign[:5])}). Name another with --output."
        )
    if "results.json" in names and not overwrite:
        raise UsageError(
            f"the output folder {str(folder)!r} already holds an evaluation. Name another with --output, or replace it "
            "with --overwrite."
        )


def write_evaluation(folder: Path, results: Mapping, curves: Mapping, records: Mapping[str, Sequence[Mapping]]) -> None:
    """Writes the files of an evaluation. Each is written whole or not at all, and results.json comes last.

    Args:
        folder: made where it does not exist; files of an earlier evaluation are removed first.
        results: `protocols` -> protocol -> `methods` -> method -> `title`, `threshold`, `threshold_source`,
            `summary` and `confidence_intervals`, beside the settings that `markdown` prints.
        curves: protocol -> method -> `per_threshold` of a `LocalizationResult`.
        records: protocol -> one mapping per method and image, with `method` and `iou`.

    Raises:
        UsageError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        _write(folder, results, curves, records)


def _write(folder: Path, results: Mapping, curves: Mapping, records: Mapping[str, Sequence[Mapping]]) -> None:
    # The mark of a whole evaluation goes first and comes last.
    (folder / "results.json").unlink(missing_ok=True)
    for pattern in _FILES:
        for file in folder.glob(pattern):
            file.unlink()
    remove_unfinished(folder)
    write_text_atomic(folder / "curves.json", json.dumps(curves) + "\n")
    for protocol, rows in records.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text_atomic(folder / f"records_{protocol}.jsonl", lines)
        methods = results["protocols"][protocol]["methods"]
        drawn = {name: methods[name] for name in curves[protocol]}
        where = f"protocol {protocol}, {results['split']} split, {results['num_images']} images"
        draw_threshold_curves(
            folder / f"accuracy_{protocol}.png",
            {
                method["title"]: (curves[protocol][name]["threshold"], curves[protocol][name]["gt_known"])
                for name, method in drawn.items()
            },
            {method["title"]: method["threshold"] for method in drawn.values()},
            title=where,
        )
        draw_iou_histograms(
            folder / f"iou_{protocol}.png",
            {method["title"]: [row["iou"] for row in rows if row["method"] == name] for name, method in drawn.items()},
            title=where,
        )
    write_text_atomic(folder / "table.md", markdown(results))
    write_json_atomic(folder / "results.json", results)


def _cell(method: Mapping, figure: str) -> str:
    value, interval = method["summary"].get(figure), method["confidence_intervals"].get(figure)
    return percent(value) + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if value is not None and interval else "")


def protocol_table(protocol: Mapping) -> str:
    """The Markdown table of one protocol: a row per method, figures in percent with their intervals.

    Figures that are defined for no method have no column.
    """
    methods = protocol["methods"].values()
    shown = {
        figure: title
        for figure, title in FIGURES.items()
        if any(method["summary"].get(figure) is not None for method in methods)
    }
    rows = [
        [
            method["title"],
            *(_cell(method, figure) for figure in shown),
            "–" if method["threshold"] is None else f"{method['threshold']:.3g}",
        ]
        for method in methods
    ]
    return text_table(rows, ["method", *shown.values(), "threshold"], markdown=True)


def _notes(results: Mapping, protocol: Mapping) -> list[str]:
    methods = protocol["methods"].values()
    sources = list(dict.fromkeys(m["threshold_source"] for m in methods if m["threshold_source"] is not None))
    notes = [protocol["standing"]] if protocol.get("standing") else []
    notes.append(f"Thresholds: {'; '.join(sources)}.")
    if protocol["oracle"]:
        notes.append(ORACLE_WARNING)
    if any(method["summary"].get("max_box_acc_v2") is not None for method in methods):
        notes.append("MaxBoxAcc and MaxBoxAccV2 take, by definition, the best threshold of the evaluated images.")
    if protocol["ten_crop"]:
        notes.append("Classes: mean softmax of ten crops; maps: centre crop.")
    if augmentation := TTA_IN_WORDS[results.get("tta", "none")]:
        notes.append(f"Maps and classes: {augmentation}.")
    if results["bootstrap"]:
        notes.append(f"In brackets: 95 % intervals of {results['bootstrap']} bootstrap samples of the images.")
    return notes


def markdown(results: Mapping) -> str:
    """The figures of an evaluation as a Markdown document, from the content of results.json."""
    parts = [
        "# Evaluation",
        f"{results['split'].capitalize()} split of `{results['data']}`: {results['num_images']} images, "
        f"{results['num_classes']} classes. Backbone `{results['backbone']}`, adapter `{results['adapter']}`. Percent.",
    ]
    for name, protocol in results["protocols"].items():
        height, width = protocol["image_size"]
        parts += [
            f"## Protocol `{name}`",
            f"{protocol['source']}. Input {height} x {width} pixels.",
            protocol_table(protocol),
            *_notes(results, protocol),
        ]
    return "\n\n".join(parts) + "\n"
