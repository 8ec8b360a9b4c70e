"""The console command: its overview, what it passes on, mistakes, and how fast it answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sat_peft import __version__
from sat_peft.commands.console import COMMANDS, main
from sat_peft.commands.recipe import RECIPES

ROOT = Path(__file__).parents[2]


def test_overview_names_every_command_with_what_it_does(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        told = capsys.readouterr().out
        for name, command in COMMANDS.items():
            assert f"  {name} " in told
            assert command.__doc__.splitlines()[0] in told


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_unknown_command_suggests_close_ones(capsys):
    assert main(["predct"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unknown command 'predct'. Did you mean 'predict'" in captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_its_own_name_and_a_line_for_interruptions(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: sat-peft {name} ")
    assert COMMANDS[name].INTERRUPTED


def test_options_reach_the_command_and_its_status_comes_back():
    count = ["count", "--backbone", "test_vit", "--num-classes", "5", "--tune", "none", "--json", "--at-most"]
    assert [main([*count, budget]) for budget in ("1", "1_000_000")] == [1, 0]


def test_mistake_in_a_command_is_a_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "nowhere")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("\nerror: ")


@pytest.mark.parametrize(
    ("module", "arguments", "status"),
    [
        ("sat_peft", ["--help"], 0),
        *(("sat_peft", [name, "--help"], 0) for name in COMMANDS),
        *(("sat_peft", ["train", name, "--help"], 0) for name in RECIPES),
        ("sat_peft", ["train", "few_shot", "--shot", "x"], 2),
        ("sat_peft", ["evaluate", "--protocol", "x"], 2),
    ],
)
def test_help_and_mistyped_options_are_answered_without_the_heavy_imports(tmp_path, module, arguments, status):
    for package in ("torch", "timm", "datasets", "accelerate", "peft", "cv2", "numpy"):
        (tmp_path / f"{package}.py").write_text(f"raise RuntimeError('{package} was imported')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == status, done.stderr
    assert "was imported" not in done.stdout + done.stderr
