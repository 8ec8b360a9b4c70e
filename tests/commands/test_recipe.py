"""Copies of the training recipes: the same file, never over another, refused by name; and what a wheel holds."""

import shutil
import subprocess
import sys
import zipfile
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


@pytest.mark.slow
def test_wheel_holds_the_recipes_and_the_command(tmp_path):
    pytest.importorskip("setuptools", reason="builds a wheel without isolation, which needs setuptools")
    source = tmp_path / "source"
    # Building writes beside the sources.
    source.mkdir()
    for name in ("sat_peft", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path]
    done = subprocess.run([*build, source], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in RECIPES:
            recipe = archive.read(f"sat_peft/recipes/{name}.py")
            assert recipe == (ROOT / "recipes" / f"{name}.py").read_bytes()
        shipped = [path for path in (ROOT / "recipes" / "accelerate").iterdir() if path.suffix in (".yaml", ".md")]
        assert shipped
        for path in shipped:
            assert archive.read(f"sat_peft/recipes/accelerate/{path.name}") == path.read_bytes()
        [points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert b"sat-peft = sat_peft.commands.console:main" in archive.read(points)
