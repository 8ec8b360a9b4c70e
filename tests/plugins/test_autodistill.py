"""The base model for autodistill, in autodistill's own labelling of a folder."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_run import CLASSES, write_run

from sat_peft import Localizer
from sat_peft.errors import UsageError

pytest.importorskip("autodistill.detection", reason="the base model needs autodistill, of the extra `autodistill`")

import supervision
from autodistill.detection import CaptionOntology

from sat_peft.plugins.autodistill import SpatialAwareToken


@pytest.fixture(scope="module")
def localizer(tmp_path_factory) -> Localizer:
    return Localizer.from_pretrained(write_run(tmp_path_factory.mktemp("autodistill")))


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(5):
        picture = generator.integers(0, 255, (60 + 10 * number, 90, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def test_folder_is_labelled_as_the_localizer_says(localizer, images, tmp_path):
    base = SpatialAwareToken(localizer, multi=True)
    dataset = base.label(str(images), extension=".png", output_folder=str(tmp_path / "labelled"))
    assert dataset.classes == CLASSES
    for path, _, annotations in dataset:
        [found] = localizer(path, multi=True)
        np.testing.assert_allclose(annotations.xyxy, found.boxes, rtol=1e-6)
        assert annotations.class_id.tolist() == [found.label_index] * len(found.boxes)
        assert annotations.confidence == pytest.approx(found.score)
    written = yaml.safe_load((tmp_path / "labelled" / "data.yaml").read_text())
    assert written["names"] == CLASSES
    lines = [
        line
        for split in ("train", "valid")
        for file in sorted((tmp_path / "labelled" / split / "labels").glob("*.txt"))
        for line in file.read_text().splitlines()
    ]
    assert len(lines) == sum(len(annotations) for _, _, annotations in dataset) >= 5


@pytest.mark.parametrize("form", [str, Path, Image.open, lambda path: np.array(Image.open(path))[..., ::-1]])
def test_image_may_come_in_every_form(localizer, images, form):
    path = images / "3.png"
    [found] = localizer(path)
    detections = SpatialAwareToken(localizer).predict(form(path))
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_allclose(detections.xyxy, found.box[None], rtol=1e-6)


def test_ontology_renames_classes_and_leaves_others_out(localizer, images):
    path = images / "0.png"
    [found] = localizer(path)
    others = [name for name in CLASSES if name != found.label]
    renamed = CaptionOntology({others[0]: "another", found.label: "a thing"})
    detections = SpatialAwareToken(localizer, renamed).predict(path)
    assert (detections.class_id.tolist(), detections.data["class_name"].tolist()) == ([1], ["a thing"])
    longer = SpatialAwareToken(localizer, CaptionOntology({found.label: 20 * "long"})).predict(path)
    assert longer.data["class_name"].tolist() == [20 * "long"]
    base = SpatialAwareToken(localizer)
    base.set_ontology(CaptionOntology({name: name for name in others}))
    assert len(base.predict(path)) == 0


def test_class_that_the_model_lacks_is_refused(localizer):
    with pytest.raises(UsageError, match="unknown class 'bea'"):
        SpatialAwareToken(localizer, CaptionOntology({"bea": "bee"}))


def test_run_folder_is_taken_by_its_name(localizer, tmp_path):
    assert SpatialAwareToken(write_run(tmp_path)).ontology.classes() == CLASSES
