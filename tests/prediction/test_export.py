"""Exported models, used without this package."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_run import CLASSES, THRESHOLD, write_run

from sat_peft import Localizer
from sat_peft.commands.export import Config, main
from sat_peft.errors import UsageError
from sat_peft.prediction import export as export_module
from sat_peft.prediction.export import export_onnx, export_program

pytestmark = pytest.mark.skipif(torch.__version__ < export_module.OLDEST_TORCH, reason="this torch exports no model")
METADATA = {
    "class_names": CLASSES,
    "image_size": [64, 64],
    "protocol": "original",
    "threshold": THRESHOLD,
    "threshold_source": "validation: best",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def localizer(run) -> Localizer:
    return Localizer.from_pretrained(run, device="cpu")


def expected(localizer, count: int) -> tuple:
    images = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        output = localizer.model(images)
    return images, output.logits.numpy(), output.maps.numpy()


def check_metadata(found: dict, localizer: Localizer) -> None:
    config = localizer.data_config
    assert {name: found[name] for name in METADATA} == METADATA
    assert (found["mean"], found["std"], found["interpolation"]) == (
        *(list(config.mean), list(config.std)),
        config.interpolation,
    )


@pytest.fixture(scope="module")
def onnx_file(localizer, tmp_path_factory) -> Path:
    return export_onnx(localizer, tmp_path_factory.mktemp("onnx") / "new" / "model.onnx")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_runtime_agrees_for_any_batch(localizer, onnx_file, count):
    images, logits, maps = expected(localizer, count)
    session = onnxruntime.InferenceSession(str(onnx_file))
    found_logits, found_maps = session.run(["logits", "maps"], {"images": images.numpy()})
    np.testing.assert_allclose(found_logits, logits, atol=1e-4)
    np.testing.assert_allclose(found_maps, maps, atol=1e-4)


def test_onnx_model_names_its_parts_and_stands_alone(localizer, onnx_file):
    assert [path.name for path in onnx_file.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(onnx_file))
    [given] = session.get_inputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, 64, 64], "tensor(float)")
    assert [(out.name, out.shape) for out in session.get_outputs()] == [
        ("logits", ["batch", 3]),
        ("maps", ["batch", 4, 4]),
    ]
    properties = {entry.key: json.loads(entry.value) for entry in onnx.load(onnx_file).metadata_props}
    check_metadata(properties, localizer)


def test_program_agrees_for_any_batch_and_carries_its_metadata(localizer, tmp_path):
    path = export_program(localizer, tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    for count in (1, 4):
        images, logits, maps = expected(localizer, count)
        found_logits, found_maps = program(images)
        np.testing.assert_allclose(found_logits.numpy(), logits, atol=1e-4)
        np.testing.assert_allclose(found_maps.numpy(), maps, atol=1e-4)
    check_metadata(json.loads(extra["metadata.json"]), localizer)


@pytest.mark.parametrize("tta", ["flip", "flip-edges"])
def test_augmentation_is_part_of_the_program(run, tmp_path, tta):
    augmented = Localizer.from_pretrained(run, device="cpu", tta=tta)
    extra = {"metadata.json": ""}
    program = torch.export.load(export_program(augmented, tmp_path / "model.pt2"), extra_files=extra).module()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    _, maps = program(images)
    torch.testing.assert_close(program(images.flip(-1))[1].flip(-1), maps, atol=1e-4, rtol=0)
    expected = [found.map for found in augmented.localize_inputs(images, [(64, 64)] * 3)]
    np.testing.assert_allclose(maps.numpy(), np.stack(expected), atol=1e-4)
    assert json.loads(extra["metadata.json"])["tta"] == tta


def test_onnx_refines_maps_too(run, tmp_path):
    augmented = Localizer.from_pretrained(run, device="cpu", tta="edges")
    session = onnxruntime.InferenceSession(str(export_onnx(augmented, tmp_path / "model.onnx")))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    _, maps = session.run(None, {"images": images.numpy()})
    expected = [found.map for found in augmented.localize_inputs(images, [(64, 64)] * 2)]
    np.testing.assert_allclose(maps, np.stack(expected), atol=1e-4)


def test_localizer_goes_on_working(localizer, tmp_path):
    before = localizer.model(torch.ones(1, 3, 64, 64)).maps
    export_program(localizer, tmp_path / "model.pt2")
    assert torch.equal(localizer.model(torch.ones(1, 3, 64, 64)).maps, before)


def test_model_that_does_not_agree_is_not_written(localizer, tmp_path, monkeypatch):
    (tmp_path / "model.pt2").write_bytes(b"an earlier one")
    monkeypatch.setattr(export_module, "TOLERANCE", -1.0)
    with pytest.raises(UsageError, match=r"does not agree .* its logits differ by .* Nothing was written"):
        export_program(localizer, tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_bytes() == b"an earlier one"


def test_missing_package_is_named_with_the_extra(localizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"'onnxruntime' is missing; `pip install 'sat_peft\[export\]'`"):
        export_onnx(localizer, tmp_path / "model.onnx")


def test_command_writes_the_file_and_says_so(run, tmp_path, capsys):
    main(Config(format="torch-export", output=tmp_path / "model.pt2", run=run, threshold=0.125, tta="flip"))
    assert "agrees with the model to 0.0001" in capsys.readouterr().out
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    stored = json.loads(extra["metadata.json"])
    assert (stored["threshold"], stored["tta"]) == (0.125, "flip")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": None}, "either a run folder with --run"),
        ({"output": Path("model.pt")}, r"'model\.pt' must end in \.onnx"),
        ({"output": Path("folder.onnx")}, "is a folder"),
    ],
)
def test_mistakes_are_named(run, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match=words):
        main(Config(**{"format": "onnx", "output": Path("model.onnx"), "run": run} | changes))


def test_torch_that_exports_no_such_model_is_refused_and_nothing_is_written(localizer, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "OLDEST_TORCH", "99")
    with pytest.raises(UsageError, match="Export it with torch 99 or newer"):
        export_program(localizer, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
