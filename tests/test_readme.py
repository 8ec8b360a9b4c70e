"""The examples of every README, as they stand there: programs are run, command lines are parsed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from tiny_run import write_run

from sat_peft.commands import recipe, train
from sat_peft.commands.console import COMMANDS

ROOT = Path(__file__).parents[1]
_ROOMS = [path for name in ("recipes", "scripts", "sat_peft") for path in sorted((ROOT / name).rglob("README.md"))]
# The modules of `metrics` have cards of their own form.
READMES = [ROOT / "README.md", *(path for path in _ROOMS if "metrics" not in path.parts)]
_RECIPE = re.compile(r"recipes/(few_shot|full_data|low_param)\.py\b")


def programs() -> list:
    """The Python blocks of all READMEs."""
    return [
        pytest.param(block, id=f"{readme.relative_to(ROOT)}-{number}")
        for readme in READMES
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL))
    ]


def command_lines() -> Iterator[str]:
    """What stands in shell blocks and between backticks and starts a command of this project, one at a time."""
    for readme in READMES:
        text = readme.read_text("utf-8")
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [*(line for block in blocks for line in block.splitlines()), *inline]:
            for command in line.replace("\n", " ").split("&&"):
                yield command.strip()


def found(pattern: str) -> list[str]:
    return sorted({line for line in command_lines() if re.match(pattern, line)})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What the programs find where they are run: a trained run, images, and folders of classes."""
    for name in ("photos/ant/1.jpg", "photos/ant/2.png", "photos/bee/1.jpg", "one.jpg", "two.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((120, 90), 90).convert("RGB").save(tmp_path / name)
    (tmp_path / "runs").mkdir()
    write_run(tmp_path / "runs").rename(tmp_path / "runs/mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("program", programs())
def test_program_runs(program, folder, capsys):
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    names = {
        "images": torch.rand(2, 3, 96, 96),
        "labels": torch.tensor([3, 17]),
        "maps": generator.random((4, 14, 14)),
        "boxes": [np.array([[20.0, 30.0, 120.0, 150.0]])] * 4,
    }
    exec(compile(program.replace("range(150)", "range(2)"), "README.md", "exec"), names)
    if "range(150)" in program:
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
        assert names["loss"].total.isfinite()
        assert names["found"].label in ("ant", "bee")
        assert "trainable params" in capsys.readouterr().out


def test_readmes_hold_the_programs_that_are_expected():
    """Else a changed form of the blocks would leave nothing to run."""
    assert len(READMES) >= 7
    assert len(programs()) >= 5


@pytest.mark.parametrize("line", found("sat-peft "))
def test_command_line_is_understood(line):
    name, *arguments = shlex.split(line)[1:]
    arguments = [argument for argument in arguments if argument != "…"]
    assert name in COMMANDS, line
    if not arguments:  # the mention of a command
        return
    if name == "train":
        if len(arguments) > 1:
            train.parse(arguments)
        assert arguments[0] in recipe.RECIPES
    else:
        tyro.cli(COMMANDS[name].Config, args=arguments)


@pytest.mark.parametrize("line", found(r"(python|accelerate launch) .*(scripts|recipes)/\w+\.py"))
def test_script_and_its_flags_exist(line):
    words = shlex.split(line)
    place = next(number for number, word in enumerate(words) if word.endswith(".py"))
    file = ROOT / words[place]
    assert file.is_file(), line
    if _RECIPE.search(line):
        assert not words[place + 1 :] or train.parse([file.stem, *words[place + 1 :]])
        return
    source = file.read_text("utf-8")
    for word in words[place + 1 :]:
        if word.startswith("--"):
            flag = word.partition("=")[0]
            assert flag in source or re.search(rf"\b{flag[2:].replace('-', '_')}\b", source), (line, flag)


def test_links_lead_somewhere():
    for readme in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", readme.read_text("utf-8")):
            assert target.startswith("https://") or (readme.parent / target).exists(), (readme, target)
