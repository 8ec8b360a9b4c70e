"""Copies of the training recipes: the same file, never over another, refused by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from sat_peft.commands.console import main
from sat_peft.commands.recipe import RECIPES, Config
from sat_peft.commands.recipe import main as copy_recipe
from sat_peft.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", RECIPES)
def test_copy_is_the_recipe(name, tmp_path, capsys):
    assert main(["recipe", name, str(tmp_path / "new" / "folder")]) is None
    copy = tmp_path / "new" / "folder" / f"{name}.py"
    assert copy.read_bytes() == (ROOT / "recipes" / copy.name).read_bytes()
    assert f"accelerate launch {copy}" in capsys.readouterr().out


def test_every_training_recipe_can_be_copied():
    training = {file.stem for file in (ROOT / "recipes").glob("*.py") if "update(" in file.read_text()}
    assert training == set(RECIPES)


def test_copy_answers_from_where_it_lies(tmp_path):
    copy_recipe(Config("few_shot", tmp_path))
    command = [sys.executable, str(tmp_path / "few_shot.py"), "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--shots" in done.stdout


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "few_shot.py").write_text("mine")
    with pytest.raises(UsageError, match=r"few_shot\.py' is there already"):
        copy_recipe(Config("few_shot", tmp_path))
    assert (tmp_path / "few_shot.py").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["few_shot.py"]


@pytest.mark.parametrize("folder", ["note.txt", "note.txt/below"])
def test_a_file_is_no_folder(tmp_path, folder):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"note\.txt' is a file"):
        copy_recipe(Config("few_shot", tmp_path / folder))


@pytest.mark.parametrize("name", ["few-shot", "few_shot.py", "../few_shot"])
def test_unknown_names_suggest_close_ones_and_write_nothing(name, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'few_shot'"):
        copy_recipe(Config(name, tmp_path / "new"))
    assert not (tmp_path / "new").exists()
