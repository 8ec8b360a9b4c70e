"""What is found in an image, as masks, polygons and detections of other libraries."""

import builtins
import json

import numpy as np
import pytest
import supervision
from accelerate import Accelerator
from PIL import Image
from tiny_run import write_run

from sat_peft import Localization, Localizer
from sat_peft.errors import UsageError
from sat_peft.prediction.inputs import find_images
from sat_peft.prediction.predict import predict


def found(multi: bool = True) -> Localization:
    """A map with a large region on the left and a small one in the last corner of a 60 x 40 image."""
    raw = np.zeros((40, 60), np.float32)
    raw[5:35, 3:30] = 1
    raw[36:, 50:] = 1
    boxes = np.array([[3.0, 5.0, 30.0, 35.0], [50.0, 36.0, 60.0, 40.0]])[: 2 if multi else 1]
    return Localization("bee", 1, 0.75, boxes[0], boxes, raw, (60, 40), 0.5, "bee")


def test_masks_are_the_regions_of_the_boxes():
    masks = found().masks()
    assert masks.shape == (2, 40, 60)
    assert masks.sum(axis=(1, 2)).tolist() == [30 * 27, 4 * 10]
    assert found(multi=False).masks().shape == (1, 40, 60)
    assert [len(region) for region in found().polygons()] == [1, 1]


@pytest.mark.parametrize("masks", [False, True])
def test_detections_of_supervision(masks):
    detections = found().to_supervision(masks=masks)
    assert detections.xyxy.tolist() == found().boxes.tolist()
    assert detections.class_id.tolist() == [1, 1]
    assert detections.confidence.tolist() == [0.75, 0.75]
    assert detections["class_name"].tolist() == ["bee", "bee"]
    # What its own tools make of them: the boxes of the masks end at their last pixel.
    [first, _] = detections.area.tolist()
    assert first == 30 * 27
    if masks:
        assert supervision.mask_to_xyxy(detections.mask).tolist() == [[3, 5, 29, 34], [50, 36, 59, 39]]
    image = np.zeros((40, 60, 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(image.copy(), detections)
    assert drawn[5, 3:30].any(axis=-1).all()


def test_supervision_that_is_not_installed(monkeypatch):
    original = builtins.__import__

    def without(name, *rest):
        if name == "supervision":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'sat_peft\[supervision\]'"):
        found().to_supervision()


def test_a_folder_of_masks_and_formats_with_outlines(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (3, 4, 3), np.uint8)
        Image.fromarray(noise).resize((40 + number, 30)).save(photos / f"{number}.png")
    localizer, images = Localizer.from_pretrained(write_run(tmp_path), device="cpu"), find_images([photos])
    output, options = tmp_path / "out", {"multi": True, "formats": ("coco", "label_studio")}
    predict(localizer, images, output, Accelerator(cpu=True), masks=True, **options)
    coco = json.loads((output / "coco.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png", "2.png"]
    for image in coco["images"]:
        [expected] = localizer(photos / image["file_name"], multi=True)
        outlines = [each["segmentation"] for each in coco["annotations"] if each["image_id"] == image["id"]]
        for region, polygons in zip(outlines, expected.polygons(), strict=True):
            for points, polygon in zip(region, polygons, strict=True):
                np.testing.assert_allclose(np.reshape(points, (-1, 2)), polygon, atol=0.01)
        mask = np.array(Image.open(output / "masks" / image["file_name"]))
        assert set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask == 255, expected.masks().any(axis=0))
    assert "polygonlabels" in (output / "label_studio" / "tasks.json").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="masks True there, False here"):
        predict(localizer, images, output, Accelerator(cpu=True), **options)
