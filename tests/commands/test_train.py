"""`sat-peft train`: the recipe itself, in this process, with its help and its mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest

from sat_peft.commands.console import main
from sat_peft.commands.recipe import RECIPES
from sat_peft.commands.train import parse

ROOT = Path(__file__).parents[2]


def test_help_lists_the_recipes(capsys):
    for arguments in (["train"], ["train", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code
        told = capsys.readouterr().out
        assert all(f"\n  {name} " in told for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_help_of_a_recipe_is_under_the_name_of_the_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", name, "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: sat-peft train {name} ")
    assert "--learning-rate" in told


def test_options_and_presets_reach_the_recipe():
    training = parse(["full_data", "--preset", "cub", "--epochs", "3"])
    [config] = training.args
    assert (config.preset, config.epochs) == ("cub", 3)
    assert Path(sys.modules[training.func.__module__].__file__).samefile(ROOT / "recipes" / "full_data.py")


def test_unknown_recipe_suggests_a_close_one(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "few-shot"])
    assert end.value.code == 2
    assert "unknown recipe 'few-shot'. Did you mean 'few_shot'" in capsys.readouterr().err


@pytest.mark.slow
def test_mistake_is_the_last_line(tmp_path):
    command = [sys.executable, "-m", "sat_peft", "train", "few_shot", "--data", "nowhere"]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the data folder 'nowhere' does not exist")
