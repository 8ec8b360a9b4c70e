"""A page to try a trained model on: drop an image, see class, map and box, move the threshold, download the box.

Baselines that were trained with the run stand beside SAT, for the class that SAT predicts and at the same threshold; an
evaluation gives every method the threshold that is best for it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import torch

from sat_peft.data.decoding import decode_image
from sat_peft.errors import UsageError
from sat_peft.evaluation.measure import augmented
from sat_peft.evaluation.registry import baselines
from sat_peft.evaluation.trained import baseline_methods, trained_baselines
from sat_peft.files.outputs import write_json_atomic
from sat_peft.localization import localize
from sat_peft.prediction.found import PROTOCOL, Localization
from sat_peft.prediction.localizer import Localizer, find_trained
from sat_peft.prediction.pictures import overlay, thumbnail

if TYPE_CHECKING:
    import gradio


@dataclass(frozen=True)
class Found:
    """What all methods found in one image, kept while its threshold is moved.

    Args:
        name: of the image file.
        thumbnail: (h, w, 3) uint8 the image as it is drawn on.
        localizations: by the title of the method; SAT is the first.
    """

    name: str
    thumbnail: np.ndarray
    localizations: dict[str, Localization]


class Methods:
    """SAT and the baselines of a run, which `titles` names.

    Args:
        folder: run folder of a training recipe, or the folder of an adapter.
        threshold: where the threshold of the maps starts; by default the one that the run chose, else the protocol's.
        backbone, weights: see `Localizer.from_pretrained`.

    Raises:
        UsageError: no trained model there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threshold: float | None = None,
        backbone: str | None = None,
        weights: Path | None = None,
    ):
        origin = {"backbone": backbone, "weights": weights}
        self.sat = Localizer.from_pretrained(folder, threshold=threshold, **origin)
        trained = find_trained(folder, **origin)
        names = [name for name in trained_baselines(trained) if baselines()[name].localizer]
        # A backbone of its own, since SAT's carries the adapter.
        methods = baseline_methods(trained, trained.create_backbone(), names, self.sat.device) if names else ()
        # As they were measured beside SAT.
        self.baselines = {baselines()[name].title: augmented(method, self.sat.tta) for name, method in methods}
        self.titles = ["SAT", *self.baselines]

    def __call__(self, file: str) -> Found:
        """Class and maps of an image file."""
        image = decode_image({"path": file}, Path(file).name)
        inputs = self.sat.transform(image)[None]
        [sat] = self.sat.localize_inputs(inputs, [(image.shape[2], image.shape[1])])
        localizations = {"SAT": sat}
        inputs, label = inputs.to(self.sat.device), torch.tensor([sat.label_index], device=self.sat.device)
        for title, method in self.baselines.items():
            with torch.inference_mode():
                logits, maps = method(inputs, label)
            score = logits.float().softmax(-1)[0, sat.label_index].item()
            localizations[title] = replace(sat, map=maps[0].float().cpu().numpy(), score=score)
        return Found(Path(file).name, thumbnail(image), localizations)


def boxes_at(found: Found, threshold: float) -> Found:
    """The same maps with the boxes that another threshold reads off them."""
    localizations = {}
    for title, one in found.localizations.items():
        box = localize(one.map, protocol=PROTOCOL, threshold=threshold, image_size=one.image_size)
        localizations[title] = replace(one, box=box, boxes=box[None])
    return replace(found, localizations=localizations)


def record(found: Found, threshold: float) -> dict:
    """What is downloaded: boxes are [x0, y0, x1, y1], half open, 0-based, in pixels of the upright image."""
    sat = found.localizations["SAT"]
    width, height = sat.image_size
    return {
        "image_id": found.name,
        "width": width,
        "height": height,
        "label": sat.label,
        "score": sat.score,
        "box": sat.box.tolist(),
        "protocol": PROTOCOL,
        "threshold": threshold,
        "boxes_by_method": {title: one.box.tolist() for title, one in found.localizations.items()},
    }


def build_page(methods: Methods, title: str, downloads: Path) -> gradio.Blocks:
    """The page, ready to launch.

    Args:
        methods: what is shown.
        title: of the page.
        downloads: folder for the files that are downloaded.
    """
    import gradio

    def localize_image(file: str | None, threshold: float):
        if file is None:
            return None, None, *draw(None, threshold)
        try:
            found = methods(file)
        except UsageError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        sat = found.localizations["SAT"]
        return found, {sat.label: sat.score}, *draw(found, threshold)

    def draw(found: Found | None, threshold: float):
        """Pictures, the record and the file to download, in the order of `results`."""
        if found is None:
            return *[None] * len(methods.titles), None, gradio.DownloadButton(value=None, interactive=False)
        found = boxes_at(found, threshold)
        pictures = [overlay(one, found.thumbnail) for one in found.localizations.values()]
        told = record(found, threshold)
        file = downloads / uuid4().hex / f"{Path(found.name).stem}.json"
        file.parent.mkdir()
        write_json_atomic(file, told)
        return *pictures, told, gradio.DownloadButton(value=file, interactive=True)

    # Uploads and downloads are gone after an hour.
    with gradio.Blocks(title=f"{title} · sat_peft", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown("# Boxes from image labels\nDrop an image: its class, where the model looks, and the box.")
        kept = gradio.State()
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                # No mode: the file itself is read, by the code that reads images everywhere in the package.
                image = gradio.Image(
                    type="filepath", image_mode=None, label="Image", sources=["upload", "clipboard"], elem_id="image"
                )
                label = gradio.Label(label="Class", elem_id="class")
                threshold = gradio.Slider(
                    0,
                    1,
                    value=methods.sat.threshold.value,
                    step=0.01,
                    label="Threshold of all maps",
                    elem_id="threshold",
                )
                download = gradio.DownloadButton("Download the box (JSON)", interactive=False, elem_id="download")
            with gradio.Column(scale=2, min_width=280):
                pictures = []
                with gradio.Row():
                    for name in methods.titles:
                        with gradio.Column(min_width=240):
                            # A label of the picture itself would cover the class that is drawn there.
                            gradio.Markdown(f"**{name}**")
                            pictures.append(
                                gradio.Image(
                                    show_label=False, interactive=False, buttons=["fullscreen"], elem_classes="map"
                                )
                            )
                told = gradio.JSON(label="Box [x0, y0, x1, y1] in pixels of the image", elem_id="box")
        results = [*pictures, told, download]
        image.change(localize_image, [image, threshold], [kept, label, *results])
        threshold.change(draw, [kept, threshold], results, trigger_mode="always_last", show_progress="hidden")
    return page


def serve(methods: Methods, title: str, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serves the page until it is interrupted, and prints where it is.

    Args:
        methods: what is shown.
        title: of the page.
        host: address that the page is served at.
        port: by default the first free one from 7860 on.

    Raises:
        UsageError: no page can be served there.
    """
    import gradio

    # Fonts of the system, so that the page asks no other server for them.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with tempfile.TemporaryDirectory() as downloads:
        page = build_page(methods, title, Path(downloads))
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                theme=theme,
                ssr_mode=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UsageError(f"no page at {host}, port {port or '7860 to 7959'}: {error}") from error
        print(f"The page is at {address}", flush=True)
        page.block_thread()
