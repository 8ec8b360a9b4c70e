"""What a recipe leaves in its run folder for the report, beside config.json, versions.json and metrics.jsonl.

parameters.json        `ParameterCount` of the model
measurement.json       the figures of all methods, their curves over the threshold and their histograms of IoU
gallery/               of the method that the run is about:
  gallery.json         what it is; an incomplete folder is never there
  records.jsonl        one line per image
  NUMBER.jpg           thumbnails of the images in their evaluation view, for a bounded number of images
  NUMBER.png           their maps, small and side by side: the localisation map, then those of the blocks
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from sat_peft.evaluation.evaluator import Evaluation
from sat_peft.evaluation.measure import BOOTSTRAP, Measured
from sat_peft.files.outputs import write_json_atomic
from sat_peft.localization import Protocol, get_protocol
from sat_peft.report.curves import iou_histogram
from sat_peft.report.evaluation import image_record

# Together they keep the page below 25 MB, whatever the images show.
MAX_PICTURES = 800
_THUMBNAIL_SIDE = 160
_JPEG_QUALITY = 70
_MAX_GRID_SIDE = 32


def measurement(
    methods: Mapping[str, Measured], *, num_classes: int, split: str = "test", bootstrap: int = BOOTSTRAP
) -> dict:
    """The content of measurement.json.

    Args:
        methods: methods by name; all of the same images under the same protocol, the first with an evaluation.
        num_classes: number of classes C.
        split: the evaluated split.
        bootstrap: number of resamples that the evaluations were made with; 0 for none.
    """
    evaluations = {name: each.evaluation for name, each in methods.items() if each.evaluation}
    first = next(iter(evaluations.values()))
    measured = first.num_with_boxes > 0
    protocol = get_protocol(first.result.protocol)
    shown = evaluations if measured else {}
    return {
        "split": split,
        "num_images": len(first.images),
        "num_classes": num_classes,
        "bootstrap": bootstrap,
        "protocol": protocol.name,
        "source": protocol.source,
        "ten_crop": False,
        "oracle": first.result.threshold_source.startswith("oracle"),
        "measured": measured,
        "methods": {name: each.entry() for name, each in methods.items()},
        "curves": {name: each.result.per_threshold for name, each in shown.items()},
        "iou_histograms": {name: iou_histogram(each.result.per_image["iou"]) for name, each in shown.items()},
    }


def choose_pictured(evaluation: Evaluation, limit: int) -> dict[str, list[int]]:
    """Which images of a set get a picture: reason -> positions in `evaluation.images`.

    All where they are at most `limit`. Otherwise a quarter each for the lowest IoU, for the middle and for the highest,
    and the rest at equal distances over the data set; without true boxes, all at equal distances.
    """
    count = len(evaluation.images)
    if count <= limit:
        return {"all": list(range(count))}
    chosen: dict[str, list[int]] = {}
    rest = np.arange(count)
    if evaluation.num_with_boxes:
        order = np.argsort(evaluation.result.per_image["iou"], kind="stable")
        quarter = limit // 4
        middle = (count - quarter) // 2
        chosen = {
            "lowest IoU": order[:quarter].tolist(),
            "around the median": order[middle : middle + quarter].tolist(),
            "highest IoU": order[count - quarter :].tolist(),
        }
        rest = np.setdiff1d(rest, np.concatenate(list(chosen.values())))
    number = limit - sum(map(len, chosen.values()))
    spread = np.linspace(0, len(rest) - 1, number).round().astype(int)
    return chosen | {"evenly spread": rest[spread].tolist()}


class MapPictures:
    """Sees the maps of an evaluation and keeps them as pictures of a few kB, for the gallery of what was evaluated.

    Attributes:
        found: row of the image -> PNG, and the values of each map that are drawn black and white.
    """

    def __init__(self):
        self.found: dict[int, tuple[bytes, list[tuple[float, float]]]] = {}

    def __call__(self, indices: list[int], maps: torch.Tensor, block_maps: torch.Tensor | None = None) -> None:
        """Keeps the maps (B, h, w) of some rows, and the block maps (K, B, h', w') beside them where there are some."""
        shrink = min(1, _MAX_GRID_SIDE / max(maps.shape[1:]))
        size = [max(1, round(side * shrink)) for side in maps.shape[1:]]
        blocks = [] if block_maps is None else [block_maps.float().cpu().transpose(0, 1)]
        # Refined maps are finer than those of the blocks: beside each other, all are of one size.
        stacks = torch.cat([F.interpolate(each, size, mode="area") for each in (maps[:, None], *blocks)], 1).numpy()
        self.found |= {index: _encode_maps(stack) for index, stack in zip(indices, stacks, strict=True)}

    def gather(self, accelerator: Accelerator) -> None:
        """Takes in what the other processes have seen."""
        if accelerator.num_processes > 1:
            self.found = dict(gather_object(list(self.found.items())))


def _encode_maps(maps: np.ndarray) -> tuple[bytes, list[tuple[float, float]]]:
    """The maps (n, h, w) side by side as an 8-bit PNG, each stretched from its least to its greatest value."""
    maps = np.nan_to_num(maps)
    low, high = maps.min((1, 2)), maps.max((1, 2))
    spread = np.where(high > low, high - low, 1)
    grey = np.round(255 * (maps - low[:, None, None]) / spread[:, None, None]).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(grey), axis=1)).save(buffer, "PNG")
    return buffer.getvalue(), list(zip(low.tolist(), high.tolist(), strict=True))


def _thumbnail(image: Image.Image, protocol: Protocol) -> bytes:
    """A small JPEG of what `protocol` shows of the image."""
    if protocol.image.resize:
        height, width = protocol.image.resize
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        rows, columns = protocol.image.crop_slices
        image = image.crop((columns.start, rows.start, columns.stop, rows.stop))
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


@contextmanager
def _replacement_folder(path: Path) -> Iterator[Path]:
    """An empty sibling of `path`, which takes the place of `path` at the end or is removed after an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    # A run that was killed here may have left one.
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_gallery(
    run_folder: str | Path,
    pictures: MapPictures,
    loader: DataLoader,
    evaluation: Evaluation,
    accelerator: Accelerator,
    *,
    protocol: str | Protocol,
    title: str = "SAT",
    max_pictures: int = MAX_PICTURES,
) -> None:
    """Writes the folder `gallery` of a run. An older gallery is replaced when the new one is whole.

    Every process calls it; the main process writes.

    Args:
        run_folder: folder of the run.
        pictures: has seen the maps of `evaluation`.
        loader: the prepared loader that `evaluation` was made with.
        evaluation: evaluation of the method that the run is about.
        accelerator: `Accelerator` of the run.
        protocol: that of the evaluation; it decides which part of an image is seen.
        title: title of the method.
        max_pictures: most images that get a thumbnail and maps; the records are of all.
    """
    pictures.gather(accelerator)
    if not accelerator.is_main_process:
        return
    protocol, rows = get_protocol(protocol), loader.dataset
    names = rows.rows.features["label"].names
    image_ids, labels = rows.rows["image_id"][:], rows.rows["label"][:]
    measured = evaluation.num_with_boxes > 0
    chosen = choose_pictured(evaluation, max_pictures)
    pictured = {position for group in chosen.values() for position in group}
    with _replacement_folder(Path(run_folder) / "gallery") as folder:
        with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
            for position, image in enumerate(evaluation.images):
                line = image_record(title, evaluation, position, image_ids[image.index], names[labels[image.index]])
                if not measured:
                    line |= dict.fromkeys(("iou", "correct", "top1_correct", "top5_correct"))
                line |= {"predicted": names[image.predicted], "score": image.score, "size": image.size}
                line |= {"picture": None, "map_ranges": None}
                if position in pictured:
                    maps, ranges = pictures.found[image.index]
                    line |= {"picture": f"{image.index:06}", "map_ranges": ranges}
                    thumbnail = _thumbnail(to_pil_image(rows.decode(image.index)), protocol)
                    (folder / f"{line['picture']}.jpg").write_bytes(thumbnail)
                    (folder / f"{line['picture']}.png").write_bytes(maps)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        about = {
            "title": title,
            "protocol": protocol.name,
            "threshold": evaluation.result.threshold,
            "threshold_source": evaluation.result.threshold_source,
            "measured": measured,
            "num_images": len(evaluation.images),
            "pictured": {reason: len(group) for reason, group in chosen.items()},
        }
        write_json_atomic(folder / "gallery.json", about)
