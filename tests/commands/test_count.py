"""Counting parameters: published numbers, agreement with PEFT, its output and its refusals."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import timm
from peft import get_peft_model

from sat_peft import SatConfig
from sat_peft.commands import count as command
from sat_peft.errors import UsageError

SCRIPT = Path(__file__).parents[2] / "scripts" / "count_parameters.py"


def count(backbone: str = "deit_small_patch16_224", num_classes: int = 1000, **options) -> dict:
    return command.count(command.Config(backbone=backbone, num_classes=num_classes, **options))


@pytest.mark.parametrize(
    ("size", "num_classes", "millions"),
    [("small", 1000, 25.12), ("small", 200, 22.36), ("tiny", 1000, 7.25), ("base", 1000, 92.71)],
)
def test_published_totals(size, num_classes, millions):
    for tune in ("none", "full"):
        counted = count(f"deit_{size}_patch16_224", num_classes, tune=tune)
        assert round(counted["total"] / 1e6, 2) == millions


def test_published_count_of_head_and_last_three_blocks():
    counted = count(tune="full")
    assert round(counted["trainable"] / 1e6, 2) == 8.78
    whole = [name for name, numbers in counted["components"].items() if numbers["frozen"] == 0]
    assert whole == ["block 9", "block 10", "block 11", "spatial token", "position embedding", "head"]


@pytest.mark.parametrize("options", [{"tune": "none"}, {"tune": "lora", "lora_rank": 3}, {"tune": "full"}], ids=str)
def test_counts_on_the_meta_device_are_those_of_a_real_model(options, capsys):
    counted = count("test_vit", 7, num_spatial_blocks=2, head="separable", **options)
    sat = SatConfig(
        num_classes=7, num_spatial_blocks=2, head="separable", tune=options["tune"], r=options.get("lora_rank", 8)
    )
    get_peft_model(timm.create_model("test_vit", num_classes=0), sat).print_trainable_parameters()
    printed = capsys.readouterr().out
    assert f"trainable params: {counted['trainable']:,} || all params: {counted['loaded']:,} ||" in printed
    sums = {key: sum(numbers[key] for numbers in counted["components"].values()) for key in ("trainable", "total")}
    assert sums == {key: counted[key] for key in sums}


def test_rank_belongs_to_lora_alone():
    assert count("test_vit", lora_rank=4)["lora_rank"] == 4
    assert count("test_vit", lora_rank=4)["trainable"] > count("test_vit", lora_rank=2)["trainable"]
    assert count("test_vit", tune="none", lora_rank=4)["lora_rank"] is None


def test_larger_images_lengthen_the_position_embedding():
    small, large = (count("test_vit", image_size=size) for size in (64, 128))
    assert (small["image_size"], large["image_size"]) == ([64, 64], [128, 128])
    assert large["total"] - small["total"] == (8 * 8 - 4 * 4) * 64  # tokens x width
    assert large["trainable"] == small["trainable"]


def test_table_shows_components_and_sums(capsys):
    config = command.Config(backbone="test_vit", num_classes=5, tune="full", num_spatial_blocks=2)
    assert command.main(config) == 0
    counted, lines = command.count(config), capsys.readouterr().out.splitlines()
    assert "5 classes, head conv3x3, K = 2, tune full" in lines[0]
    rows = {line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:] for line in lines[3:] if len(line.split()) > 3}
    for name, numbers in counted["components"].items():
        assert rows[name] == [f"{number:,}" for number in numbers.values()]
    assert rows["deployed model"][::2] == [f"{counted['trainable']:,}", f"{counted['total']:,}"]
    assert f"loaded             {counted['loaded']:,} (PEFT's total)" in lines


def run(monkeypatch, *arguments: str) -> int:
    """The exit status of the script as a program."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return end.value.code


def test_json_is_all_that_stdout_holds_and_the_budget_is_the_exit_status(monkeypatch, capsys):
    arguments = ["--backbone", "test_vit", "--num-classes", "5", "--tune", "none", "--json", "--at-most"]
    trainable = count("test_vit", 5, tune="none")["trainable"]
    for budget, status in ((trainable, 0), (trainable - 1, 1)):
        assert run(monkeypatch, *arguments, str(budget)) == status
        captured = capsys.readouterr()
        assert json.loads(captured.out)["trainable"] == trainable
        assert (f"more than {budget:,}" in captured.err) == (status == 1)


def test_a_mistake_is_said_in_one_line(monkeypatch, capsys):
    assert run(monkeypatch, "--backbone", "deit_smal_patch16_224", "--num-classes", "5") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unknown backbone 'deit_smal_patch16_224'. Did you mean deit_small_patch16_224" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "swin_tiny_patch4_window7_224"}, "SwinTransformer"),
        ({"backbone": "beit_base_patch16_224"}, "does not support Beit: its attention adds a relative position bias"),
        ({"num_spatial_blocks": 13}, "num_spatial_blocks=13 is more than the 12 blocks"),
        ({"num_spatial_blocks": 0}, "num_spatial_blocks must be a positive integer"),
        ({"num_classes": 0}, "num_classes must be a positive integer"),
        ({"lora_rank": 0}, r"r \(the rank of LoRA\) must be a positive integer, not 0"),
        ({"image_size": 100}, "not a multiple of the patch size"),
    ],
)
def test_what_cannot_be_counted_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        count(**options)
