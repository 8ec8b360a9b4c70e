"""The console command `sat-peft`: finds the subcommand, parses its options and runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import tyro

from sat_peft import __version__
from sat_peft.commands import (
    check_data,
    command_line,
    convert,
    count,
    demo,
    evaluate,
    export,
    label_studio,
    predict,
    recipe,
    report,
    run,
    train,
)
from sat_peft.errors import unknown_choice

COMMANDS = {
    "run": run,
    "train": train,
    "recipe": recipe,
    "check-data": check_data,
    "count": count,
    "predict": predict,
    "evaluate": evaluate,
    "report": report,
    "export": export,
    "convert": convert,
    "label-studio": label_studio,
    "demo": demo,
}


def overview() -> str:
    """What `sat-peft --help` tells: every command and the first line of its description."""
    lines = [f"  {name:<14}{command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sat-peft COMMAND [OPTIONS]",
            "",
            "Boxes from image labels: Spatial-Aware Token on frozen Vision Transformers.",
            "",
            *lines,
            "",
            "`sat-peft COMMAND --help` lists the options of a command, `sat-peft --version` tells the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Runs one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status; None counts as 0.

    Raises:
        SystemExit: after the help of a command, or with status 2 after a mistake, printed without a traceback.
    """
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "--version"):
        print(__version__ if name == "--version" else overview())
        return 0
    if name not in COMMANDS:
        print(f"error: {unknown_choice('command', name, COMMANDS)}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    if command is train:
        parse = partial(train.parse, options)
    else:
        parse = partial(tyro.cli, command.Config, prog=f"sat-peft {name}", description=command.__doc__, args=options)
    return command_line.run(command.main, parse, interrupted=command.INTERRUPTED)
