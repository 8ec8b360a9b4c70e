"""Chooses the images that are shown, and draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sat_peft.data.loaders import ImageRows, collate
from sat_peft.evaluation.evaluator import Evaluation, Method
from sat_peft.localization import localize, to_score_map
from sat_peft.report.examples import Example, draw_examples

_PROTOCOL = "original"


def _examples(method: Method, rows: ImageRows, indices: list[int], threshold: float, device, title: Callable):
    """Examples of the rows `indices`, in their own pixels."""
    batch = collate([rows[index] for index in indices])
    with torch.inference_mode():
        maps = method(batch["images"].to(device), batch["labels"].to(device))[1]
    examples = []
    for index, raw, size, boxes in zip(
        indices, maps.float().cpu().numpy(), batch["image_sizes"].tolist(), batch["boxes"], strict=True
    ):
        examples.append(
            Example(
                image=rows.decode(index).permute(1, 2, 0).numpy(),
                scores=to_score_map(raw, protocol=_PROTOCOL, image_size=size),
                predicted=localize(raw, protocol=_PROTOCOL, threshold=threshold, image_size=size),
                true=boxes.numpy(),
                title=title(index),
            )
        )
    return examples


def draw_best_and_worst(
    path: Path, method: Method, rows: ImageRows, evaluation: Evaluation, device: torch.device, *, columns: int = 5
) -> None:
    """Writes a PNG with the images of the highest and of the lowest IoU; without boxes, with the first images.

    Args:
        path: path of the PNG.
        method: the method that was evaluated, under protocol `original`.
        rows: the evaluated images.
        evaluation: evaluation of `method` on `rows`.
        device: device of the method's model.
        columns: images in a row.
    """
    names = rows.rows.features["label"].names
    labels = rows.rows["label"]
    threshold = evaluation.result.threshold
    iou = dict(zip(evaluation.result.per_image["image_id"].tolist(), evaluation.result.per_image["iou"], strict=True))
    if not evaluation.num_with_boxes:
        shown = [image.index for image in evaluation.images[: 2 * columns]]

        def title(index: int) -> str:
            return names[labels[index]]

        groups = {"Examples (no true boxes)": shown[:columns], " ": shown[columns:]}
    else:
        order = sorted(iou, key=iou.__getitem__, reverse=True)
        count = min(columns, max(1, len(order) // 2))
        middle = (len(order) - count) // 2

        def title(index: int) -> str:
            return f"{names[labels[index]]}\nIoU {iou[index]:.2f}"

        groups = {
            "Highest IoU": order[:count],
            "Around the median": order[middle : middle + count],
            "Lowest IoU": order[::-1][:count],
        }
    draw_examples(
        path,
        {
            heading: _examples(method, rows, indices, threshold, device, title) if indices else []
            for heading, indices in groups.items()
        },
    )
