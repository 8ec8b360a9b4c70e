"""The loop of `recipes/predict.py`: image files in, a folder of predictions out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import tqdm

from sat_peft.data.threads import in_order
from sat_peft.data.writing import Prediction, PredictionSet, check_format, check_names, write_format, writers
from sat_peft.data.writing.files import text_file_replacement
from sat_peft.data.writing.names import picture_paths, shared_annotation
from sat_peft.data.writing.predictions import LOCAL_FILES
from sat_peft.errors import UsageError
from sat_peft.files.outputs import FolderLock, is_disk_full
from sat_peft.localization import covers_image
from sat_peft.localization.scoring import check_min_area
from sat_peft.prediction.folder import MAPS, MASKS, OVERLAYS, SKIPPED, check_prediction_folder, open_prediction_folder
from sat_peft.prediction.found import PROTOCOL, Localization
from sat_peft.prediction.inputs import ImageFiles
from sat_peft.prediction.journal import Journal, JournalWriter, repair
from sat_peft.prediction.localizer import Localizer
from sat_peft.prediction.pictures import map_picture, mask_picture, overlay, save_picture, thumbnail


@dataclass(frozen=True)
class PredictionSummary:
    """What a prediction came to.

    Args:
        images: number of images.
        done_before: how many of them had a prediction in the folder already.
        failures: images without a prediction -> why.
        whole_image_boxes: how many images have a box that is the whole image.
        seconds: seconds of decoding, forward passes and scoring, by the wall clock.
        files: what was written, the paths of formats and of the list of failures.
    """

    images: int
    done_before: int
    failures: dict[str, str]
    whole_image_boxes: int
    seconds: float
    files: list[Path]


def _read_sample(images: ImageFiles, index: int, resize: Callable, thumbnails: bool) -> dict:
    """An image with what is told about it. One that cannot be read is a sample with an `error`."""
    try:
        image = images.decode(index)
    except Exception as error:  # decoders raise what they like on a damaged file, which must not end the run
        known = isinstance(error, UsageError)
        return {"index": index, "error": str(error) if known else f"{type(error).__name__}: {error}"}
    sample = {"index": index, "pixels": resize(image), "size": (image.shape[2], image.shape[1])}
    return sample | {"thumbnail": thumbnail(image)} if thumbnails else sample


def predict(
    localizer: Localizer,
    images: ImageFiles,
    output: Path,
    accelerator: Accelerator,
    *,
    labels: Sequence[int] | None = None,
    formats: Sequence[str] = ("jsonl",),
    multi: bool = False,
    min_area: float = 0.01,
    maps: bool = False,
    masks: bool = False,
    overlays: bool = False,
    given_labels: Sequence[str | None] | None = None,
    flat: bool | None = None,
    image_root_url: str = LOCAL_FILES,
    strict: bool = False,
    overwrite: bool = False,
    batch_size: int = 64,
    num_workers: int = 0,
) -> PredictionSummary:
    """Localises the objects of many images and writes what it finds into a folder.

    Called again with the same settings, it goes on where a killed run stopped, with images that have come since, and
    with those that could not be read. Formats are written at the end from the journal, in the order of the images.

    Args:
        localizer: the trained model.
        images: found by `find_images`, or another object with its attributes; several threads call its `decode`.
        output: the folder.
        accelerator: `Accelerator` of the run; every process takes its share of the images.
        labels: class index of every image, to localise; by default the classes are predicted.
        formats: names of `sat_peft.data.writing.writers()`. Those that the folder has already are written anew.
        multi, min_area: see `Localizer`.
        maps: also write the maps as 8-bit PNG in the size of the images.
        masks: also write the regions of the boxes as PNG, 0 or 255, and their outlines into formats that take polygons.
        overlays: also write pictures of map and boxes on the image.
        given_labels: name of the given class of every image, None where it is not known; it is told beside the
            predicted one. By default that of `labels`.
        flat: write the files of formats that have one for every image into one folder; by default where the names
            of all images differ without their folders and suffixes.
        image_root_url: what Label Studio finds the root folder of the images under.
        strict: stop at the first image that cannot be read, instead of listing it.
        overwrite: remove predictions that are in the folder.
        batch_size: images per process and forward pass.
        num_workers: threads that read images, per process; 0 reads them in between.

    Raises:
        UsageError: the folder holds something else, a number out of range, names that a format cannot hold, an
            unreadable image with `strict`, a full disk (what is done stays).
    """
    for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}.")
    check_min_area(min_area)
    if flat is None:
        flat = shared_annotation((image_id.casefold() for image_id in images.image_ids), flat=True) is None
    for name in formats:
        check_format(name, images.image_ids, flat=flat)
    check_names(localizer.class_names, "class name")
    settings = {
        "root": str(images.root),
        "adapter": localizer.fingerprint,
        "class_names": localizer.class_names,
        "image_size": list(localizer.data_config.image_size),
        "protocol": PROTOCOL,
        "threshold": localizer.threshold.value,
        "threshold_source": localizer.threshold.source,
        "tta": localizer.tta,
        "labels": "predicted" if labels is None else "given",
        "multi": multi,
        "min_area": min_area if multi else None,
        "maps": maps,
        "masks": masks,
        "overlays": overlays,
    }
    lock = None
    try:
        if accelerator.is_main_process:
            check_prediction_folder(output)
            output.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(output)
            open_prediction_folder(output, settings, overwrite=overwrite)
            repair(output)
        accelerator.wait_for_everyone()
        journal = Journal(output)
        todo = [index for index, image_id in enumerate(images.image_ids) if image_id not in journal]
        # Nobody writes before everybody has read, or the shares would not be those of one and the same list.
        accelerator.wait_for_everyone()
        share = todo[accelerator.process_index :: accelerator.num_processes]
        batches = (share[first : first + batch_size] for first in range(0, len(share), batch_size))
        # Threads instead of the processes of a DataLoader: decoders let the model's thread run, and processes would
        # have to be started, copy the memory that this one goes on to write to, and hand over all pixels.
        loaded = in_order(
            lambda batch: [_read_sample(images, index, localizer.resize, overlays) for index in batch],
            batches,
            workers=num_workers,
            ahead=num_workers,
        )
        picture_path = picture_paths(images.image_ids)
        start = time.perf_counter()
        with (
            closing(loaded),
            JournalWriter(output, accelerator.process_index) as writer,
            tqdm(total=len(share), desc="predicting", unit=" images") as bar,
        ):
            for samples in loaded:
                read = [sample for sample in samples if "error" not in sample]
                failures = {images.image_ids[each["index"]]: each["error"] for each in samples if "error" in each}
                if strict and failures:
                    raise UsageError(next(iter(failures.values())))
                known = None if labels is None else [labels[sample["index"]] for sample in read]
                sizes = [sample["size"] for sample in read]
                found = []
                if read:
                    pixels = torch.stack([sample.pop("pixels") for sample in read])
                    # Here, for the whole batch at once and where the model is, it costs a fraction of what it costs
                    # image by image.
                    inputs = localizer.normalize(pixels.to(localizer.device))
                    found = localizer.localize_inputs(inputs, sizes, known, multi=multi, min_area=min_area)
                image_ids = [images.image_ids[sample["index"]] for sample in read]
                # Pictures come before the line that says that the image is done.
                for image_id, sample, localization in zip(image_ids, read, found, strict=True):
                    if maps:
                        save_picture(map_picture(localization), output / MAPS / picture_path(image_id, ".png"), "PNG")
                    if masks:
                        save_picture(mask_picture(localization), output / MASKS / picture_path(image_id, ".png"), "PNG")
                    if overlays:
                        picture = overlay(localization, sample["thumbnail"])
                        save_picture(picture, output / OVERLAYS / picture_path(image_id, ".jpg"), "JPEG")
                predictions = [_prediction(*pair, masks) for pair in zip(image_ids, found, strict=True)]
                writer.write(predictions, failures)
                bar.update(len(samples))
        seconds = time.perf_counter() - start
        accelerator.wait_for_everyone()
        failures, whole, files = {}, 0, []
        if accelerator.is_main_process:
            if given_labels is None and labels is not None:
                given_labels = [localizer.class_names[label] for label in labels]
            known = zip(images.image_ids, given_labels or (), strict=given_labels is not None)
            settings = {
                "labels_given": labels is not None,
                "given_labels": {image_id: label for image_id, label in known if label is not None},
                "flat": flat,
                "image_root": images.root if isinstance(images, ImageFiles) else None,
                "image_root_url": image_root_url,
                "model_version": localizer.version,
            }
            failures, whole, files = _write_results(localizer, images, output, formats, settings)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UsageError(
            f"no space is left for {str(output)!r} ({error.strerror}). What is done is kept: free some space and give "
            "the same command again, and it goes on."
        ) from error
    finally:
        if lock is not None:
            lock.release()
    return PredictionSummary(len(images.image_ids), len(images.image_ids) - len(todo), failures, whole, seconds, files)


def _prediction(image_id: str, found: Localization, masks: bool) -> Prediction:
    return Prediction(
        image_id=image_id,
        image_size=found.image_size,
        label=found.label,
        label_index=found.label_index,
        score=found.score,
        boxes=found.boxes.tolist(),
        predicted_label=found.predicted_label,
        # A hundredth of a pixel, as lines of a journal should not be longer than they must.
        polygons=[[np.round(each, 2).tolist() for each in region] for region in found.polygons()] if masks else None,
    )


class _Rows:
    """The predictions of a journal, read anew each time they are iterated."""

    def __init__(self, journal: Journal, image_ids: Sequence[str]):
        self.journal, self.image_ids = journal, image_ids

    def __iter__(self):
        return self.journal.predictions(self.image_ids)


def _write_results(
    localizer: Localizer, images: ImageFiles, output: Path, formats: Sequence[str], settings: dict
) -> tuple[dict[str, str], int, list[Path]]:
    """Writes the formats and the list of failures; returns the failures, how many boxes are the whole image, and the
    paths.
    """
    journal = Journal(output)
    failures = {image_id: journal.failures[image_id] for image_id in images.image_ids if image_id in journal.failures}
    predictions = PredictionSet(
        _Rows(journal, images.image_ids),
        localizer.class_names,
        PROTOCOL,
        localizer.threshold.value,
        localizer.threshold.source,
        **settings,
    )
    # A format of an earlier call must not fall behind the journal.
    wanted = [name for name, writer in writers().items() if name in formats or (output / writer.path).exists()]
    files = [write_format(name, output, predictions) for name in wanted]
    skipped = output / SKIPPED
    if failures:
        with text_file_replacement(skipped) as file:
            for image_id, reason in failures.items():
                file.write(json.dumps({"image_id": image_id, "error": reason}, ensure_ascii=False) + "\n")
        files.append(skipped)
    else:
        skipped.unlink(missing_ok=True)
    whole = sum(bool(covers_image(np.array(found.boxes[:1]), found.image_size)[0]) for found in predictions.predictions)
    return failures, whole, files
