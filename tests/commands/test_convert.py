"""Released checkpoints become folders that PEFT and `sat-peft evaluate` read; what is no checkpoint is refused."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from sat_peft import load_adapter
from sat_peft.backbones import create_backbone
from sat_peft.commands.console import main
from sat_peft.errors import UsageError
from sat_peft.runs.reference_checkpoint import convert_reference_checkpoint, read_reference_checkpoint

ROOT = Path(__file__).parents[2]
BACKBONE = "sat_peft_test_reference"
NUM_CLASSES, THRESHOLD, EPOCH = 7, 0.35, 29


# Read by `register_model`; the tag is the default one, as every family of timm has it.
default_cfgs = generate_default_cfgs(
    {f"{BACKBONE}.other_weights": {"input_size": (3, 224, 224), "classifier": "head", "first_conv": "patch_embed.proj"}}
)


@register_model
def sat_peft_test_reference(pretrained=False, **kwargs) -> VisionTransformer:
    """The geometry of the recorded model (tests/golden/README.md)."""
    arguments = {"img_size": 224, "patch_size": 16, "embed_dim": 24, "depth": 12, "num_heads": 3}
    return build_model_with_cfg(VisionTransformer, BACKBONE, pretrained, **(arguments | kwargs))


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(ROOT / "tests" / "golden" / "sat_model.npz") as archive:
        return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}


@pytest.fixture
def content(golden) -> dict:
    """A released checkpoint of the recorded model: trained with DataParallel, hence `module.`."""
    weights = {
        f"module.{name.removeprefix('weight/')}": value for name, value in golden.items() if name.startswith("weight/")
    }
    return {"model": weights, "best_thr": THRESHOLD, "epoch": EPOCH}


def write(content: object, path: Path) -> Path:
    """Writes a checkpoint as the published code does, in torch's format of before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def checkpoint(content, tmp_path) -> Path:
    return write(content, tmp_path / "best_gt.pth.tar")


def assert_refused(path: Path, message: str, backbone: str = BACKBONE, **options) -> None:
    """Converting raises `message`, and leaves nothing behind."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(UsageError, match=message):
        convert_reference_checkpoint(path, backbone, path.parent / "converted", **options)
    assert sorted(path.parent.iterdir()) == before


def test_logits_and_maps_are_those_of_the_published_model(checkpoint, golden, tmp_path):
    folder, _ = convert_reference_checkpoint(checkpoint, BACKBONE, tmp_path / "converted")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the adapter's record is of these very weights
        backbone = create_backbone(BACKBONE, weights=folder / "backbone.safetensors")
        model = PeftModel.from_pretrained(backbone, str(folder)).eval()
    with torch.no_grad():
        output = model(golden["images"].float())
    for name in ("logits", "maps"):
        difference = (output[name] - golden[name]).abs().max() / golden[name].abs().max()
        assert difference <= 1e-5, name


def test_the_folder_records_what_the_weights_and_the_file_tell(checkpoint, tmp_path):
    folder, read = convert_reference_checkpoint(checkpoint, BACKBONE, tmp_path / "new" / "converted")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "backbone.safetensors",
        "reference.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["converted"]
    assert (read.num_classes, read.depth, read.threshold, read.epoch) == (NUM_CLASSES, 12, THRESHOLD, EPOCH)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["num_classes"], config["num_spatial_blocks"]) == (NUM_CLASSES, 3)
    assert config["backbone"]["name"] == BACKBONE
    assert config["backbone"]["pretrained_tag"] is None
    record = json.loads((folder / "reference.json").read_text())
    assert (record["threshold"], record["epoch"]) == (THRESHOLD, EPOCH)
    assert record["threshold_source"] == "oracle: chosen on the test set by the released code"
    card = (folder / "README.md").read_text()
    assert "0.35 (oracle: chosen on the test set by the released code)" in card
    assert "backbone.safetensors" in card
    assert str(tmp_path) not in card + json.dumps(record) + json.dumps(config)


def test_every_weight_is_in_one_of_the_two_files(checkpoint, content, tmp_path):
    folder, _ = convert_reference_checkpoint(checkpoint, BACKBONE, tmp_path / "converted")
    weights = {name.removeprefix("module."): value for name, value in content["model"].items()}
    backbone, adapter = (load_file(folder / name) for name in ("backbone.safetensors", "adapter_model.safetensors"))
    for name, key in {
        "loc_token": "norm_pre.sat_token",
        "loc_embed": "norm_pre.sat_pos_embed",
        "head.weight": "norm.sat_head.weight",
        "head.bias": "norm.sat_head.bias",
    }.items():
        assert torch.equal(adapter.pop(f"base_model.model.{key}"), weights.pop(name)), name
    assert adapter == {}
    del weights["weight"]  # the blur kernel of the loss
    assert backbone.keys() == weights.keys()
    assert all(torch.equal(backbone[name], value) for name, value in weights.items())


def test_the_command_that_is_told_evaluates_the_folder(checkpoint, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "converted"
    main(["convert", str(checkpoint), "--backbone", BACKBONE, "--output", str(folder)])
    said = capsys.readouterr().out
    assert "7 classes, epoch 29" in said
    assert "own threshold is 0.35. The released code chose it on the test set" in said
    # The arguments of the printed command, with its two blanks filled in.
    command = next(line for line in said.splitlines() if "sat-peft" in line)
    arguments = command.partition("sat-peft")[2]
    results = tmp_path / "results"
    arguments = arguments.replace("DATA", str(write_images(tmp_path / "data"))).replace("RESULTS", str(results)).split()

    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the weights of this")
            main([*arguments, "--bootstrap", "0", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    protocol = json.loads((results / "results.json").read_text())["protocols"]["sat"]
    assert protocol["image_size"] == [224, 224]
    # Not the threshold of the checkpoint, unless it is asked for.
    assert protocol["methods"]["sat"]["threshold_source"] == "fixed: default of protocol sat"


def write_images(root: Path) -> Path:
    """One JPEG of noise for each class and split; those for the test have boxes."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(NUM_CLASSES):
        for split in ("train", "test"):
            file = root / split / f"class_{index}" / "0.jpg"
            file.parent.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (240, 300, 3), dtype=np.uint8)).save(file)
        rows.append({"file_name": f"class_{index}/0.jpg", "objects": {"bbox": [[40, 30, 150, 120]]}})
    (root / "test" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_other_backbones_are_refused_and_the_shapes_named(checkpoint):
    assert_refused(checkpoint, r"cls_token has shape \(1, 1, 24\), the model \(1, 1, 192\)", "deit_tiny_patch16_224")
    assert_refused(checkpoint, r"unknown: blocks.6.norm1.weight, .* and \d+ more; cls_token has shape", "test_vit")
    assert_refused(checkpoint, "unknown backbone 'deit_huge'", "deit_huge")
    assert_refused(checkpoint, "num_spatial_blocks=13 is more than the 12 blocks", num_spatial_blocks=13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].pop("module.loc_token"), "is no SAT checkpoint: it holds no loc_token"),
        (lambda c: c["model"].pop("module.head.bias"), "is no SAT checkpoint: it holds no head.bias"),
        (lambda c: c["model"].pop("module.norm.bias"), "missing: norm.bias"),
        (lambda c: c["model"].update({"module.extra": torch.zeros(1)}), "unknown: extra"),
        (lambda c: c["model"].update({"module.head.weight": torch.zeros(7, 24)}), r"head of shape \(7, 24\)"),
        (lambda c: c["model"].update({"module.head.bias": torch.zeros(9)}), r"head.weight has shape \(7, 24, 3, 3\)"),
        (lambda c: c["model"].update({"module.weight": torch.ones(1, 1, 3, 3)}), "blurs with another kernel"),
        (lambda c: c["model"].update({"module.norm.bias": 3}), "'module.norm.bias' is int, not a tensor"),
        (lambda c: c.update(best_thr=35), "best_thr=35, which is no threshold"),
        (lambda c: c.update(best_thr=[0.3]), r"best_thr=\[0.3\], which is no threshold"),
        (lambda c: c.update(epoch="last"), "epoch='last', which is no number"),
    ],
)
def test_contents_that_are_no_sat_checkpoint_are_refused(change, message, content, tmp_path):
    change(content)
    assert_refused(write(content, tmp_path / "checkpoint.pth.tar"), message)


def test_depth_decides_the_number_of_spatial_blocks(content, tmp_path):
    content["model"] = {name: value for name, value in content["model"].items() if ".blocks.1" not in name}
    path = write(content, tmp_path / "checkpoint.pth.tar")
    assert read_reference_checkpoint(path).depth == 9
    assert_refused(path, "has 9 blocks, and the published code masks those from the tenth on.*--num-spatial-blocks")


def test_a_checkpoint_from_before_the_first_evaluation_has_no_threshold(content, tmp_path):
    path = write(content | {"best_thr": 0}, tmp_path / "epoch_1.pth.tar")
    folder, read = convert_reference_checkpoint(path, BACKBONE, tmp_path / "converted")
    assert read.threshold is None
    record = json.loads((folder / "reference.json").read_text())
    assert (record["threshold"], record["threshold_source"]) == (None, None)
    assert "none recorded" in (folder / "README.md").read_text()


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["SAT_TEST_TRAP"],)


def test_code_in_a_file_is_refused_and_never_run(content, tmp_path, monkeypatch):
    monkeypatch.setenv("SAT_TEST_TRAP", str(tmp_path / "trap"))
    path = write(content | {"args": Harmful()}, tmp_path / "checkpoint.pth.tar")
    assert_refused(path, "needs code to be unpickled, which is refused")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "data", [b"", b"no checkpoint at all", b"\xff\xd8\xff\xe0 a photograph", bytes(range(256)) * 9]
)
def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(data)
    assert_refused(path, "cannot read .* as weights")


def test_a_file_that_is_cut_short_is_refused(checkpoint):
    data = checkpoint.read_bytes()
    for size in (len(data) // 2, 200):
        checkpoint.write_bytes(data[:size])
        assert_refused(checkpoint, "cannot read .* as weights")


def test_an_occupied_folder_is_refused_and_an_empty_one_taken(checkpoint, tmp_path):
    folder = tmp_path / "converted"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is no empty folder"):
        convert_reference_checkpoint(checkpoint, BACKBONE, folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    convert_reference_checkpoint(checkpoint, BACKBONE, folder)
    assert load_adapter(create_backbone(BACKBONE, weights=folder / "backbone.safetensors"), folder)


def test_a_failed_write_leaves_nothing(checkpoint, monkeypatch):
    before = sorted(checkpoint.parent.iterdir())

    def fail(*arguments, **settings):
        raise OSError("disk full")

    monkeypatch.setattr("sat_peft.runs.reference_checkpoint.save", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_reference_checkpoint(checkpoint, BACKBONE, checkpoint.parent / "converted")
    assert sorted(checkpoint.parent.iterdir()) == before


def test_a_mistake_is_said_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", str(tmp_path / "absent.pth.tar"), "--output", str(tmp_path / "converted")])
    assert end.value.code == 2
    assert "no reference weights at" in capsys.readouterr().err
