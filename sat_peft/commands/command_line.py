"""What every recipe and command does with its command line: presets, configurations of earlier runs, and mistakes."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import io
import logging
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from sat_peft.cpu import join_processes
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import check_values, is_folder, read_json_object
from sat_peft.files.outputs import full_place, is_disk_full
from sat_peft.files.paths import shown_path
from sat_peft.files.shared_paths import with_recorded_paths
from sat_peft.options.presets import default_preset
from sat_peft.options.training import RUN_FIELDS
from sat_peft.runs.folder import is_new
from sat_peft.runs.reader import RunReader
from sat_peft.runs.termination import Terminated, heed_sigterm

if TYPE_CHECKING:
    from sat_peft.prediction.localizer import Localizer

AUTO = "auto"
# Of the system, where a file or folder may not be written or cannot be.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Told after Ctrl-C or SIGTERM in a training.
RESUMABLE = "what the run wrote so far is readable in its folder; go on with --resume FOLDER"


def read_config(path: Path, kind: type) -> dict[str, Any]:
    """The fields of a config.json that a recipe wrote, as values of the dataclass `kind`, without `RUN_FIELDS`.

    Raises:
        UsageError: no such file, no configuration of this recipe, or a field that `kind` does not have.
    """
    if is_folder(path):
        path = path / "config.json"
    if not os.path.exists(path):
        if RunReader(path.parent).status() is not None:
            raise UsageError(
                f"nothing was computed in {shown_path(path.parent)!r} yet. Give the command that started it again."
            )
        raise UsageError(f"the configuration {shown_path(path)!r} does not exist. Name the config.json of a run.")
    values = read_json_object(path, "the configuration of a run")
    values = with_recorded_paths(values, path)
    hints = typing.get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise UsageError(
            f"{path} has fields that this recipe does not know: {', '.join(unknown[:5])}. It was written by another "
            "recipe or version."
        )
    check_values(path, values, hints)
    return {name: _of_json(value, hints[name]) for name, value in values.items() if name not in RUN_FIELDS}


def _of_json(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and (hint is Path or Path in typing.get_args(hint)):
        return Path(value)
    return value


def localizer_of(options: Any, *, device: Any = None) -> Localizer:
    """The trained model that a command's `TrainedOptions` name, with its options `threshold` and `tta`.

    Args:
        options: configuration of the command.
        device: see `Localizer`.

    Raises:
        UsageError: see `TrainedOptions.trained_folder` and `Localizer.from_pretrained`.
    """
    # With torch and PEFT, which reading a command line does without.
    from sat_peft.prediction.localizer import Localizer

    return Localizer.from_pretrained(
        options.trained_folder(),
        backbone=options.backbone,
        weights=options.weights,
        threshold=options.threshold,
        tta=options.tta,
        device=device,
    )


def parse(
    kind: type,
    presets: Mapping[str, dict],
    *,
    description: str,
    arguments: list[str] | None = None,
    prog: str | None = None,
) -> Any:
    """Parses the command line into the dataclass `kind`, whose fields include `preset`, `config` and `resume`.

    What the command line does not give comes from the configuration of an earlier run (`--config`, or the folder of
    `--resume`), else from the preset (without one, that of the data), else from the defaults of `kind`.

    Raises:
        UsageError: an unknown preset, an unreadable configuration, or a resumed run whose configuration was changed.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("preset", "config", "resume", "data", "difficulty", "output"):
        early.add_argument(f"--{name}")
    given, _ = early.parse_known_args(arguments)
    if given.resume == AUTO:
        arguments = _resume_or_start(sys.argv[1:] if arguments is None else arguments, given)
        given, _ = early.parse_known_args(arguments)
    if given.preset is not None and given.preset not in presets:
        raise unknown_choice("preset", given.preset, presets)
    earlier = given.config or given.resume
    preset = given.preset or (None if earlier else default_preset(given.data or kind.data, given.difficulty))
    defaults = dict(presets[preset]) if preset else {}
    if given.config is not None and given.resume is not None:
        raise UsageError("--resume takes the configuration of the run itself; leave out --config.")
    recorded = read_config(Path(earlier), kind) if earlier else {}
    default = kind(**(defaults | {"preset": preset} | recorded))
    options = tyro.cli(kind, description=description, default=default, args=arguments, prog=prog)
    if given.resume is not None:
        for name, value in recorded.items():
            if same_place(getattr(options, name), value):
                # The folder that was given then, from where it was given: the run goes on with what it recorded.
                options = dataclasses.replace(options, **{name: value})
            elif getattr(options, name) != value:
                raise UsageError(
                    f"the run {given.resume} was started with {name} {value!r}; it cannot go on with "
                    f"{getattr(options, name)!r}. Leave out the option, or start anew with --config {given.resume}."
                )
        if options.output is not None and not same_place(options.output, options.resume):
            raise UsageError(f"a resumed run goes on in its own folder; leave out --output {options.output}.")
        options = dataclasses.replace(options, output=options.resume)
    return options


def _resume_or_start(arguments: Sequence[str], given: argparse.Namespace) -> list[str]:
    """The command line with what `--resume auto` means: the folder of --output if a run is unfinished there, else
    nothing. Ends the process where the run is finished.
    """
    if given.output is None:
        raise UsageError(f"--resume {AUTO} goes on in the folder of --output; name one.")
    folder = Path(given.output)
    if RunReader(folder).status() == "finished":
        print(f"{folder}: finished before")
        sys.exit(0)
    place = next(number for number, text in enumerate(arguments) if text.partition("=")[0] == "--resume")
    rest = [*arguments[:place], *arguments[place + (1 if "=" in arguments[place] else 2) :]]
    return rest if is_new(folder) else [*rest, "--resume", str(folder)]


def same_place(first: Any, second: Any) -> bool:
    """Whether two values of a configuration are the same path, relative or absolute."""
    both = isinstance(first, str | Path) and isinstance(second, str | Path)
    return both and os.path.abspath(first) == os.path.abspath(second)


@contextmanager
def messages_on_stdout() -> Iterator[None]:
    """Prints what the package logs, in the main process of a launch."""
    handler, logger = logging.StreamHandler(sys.stdout), logging.getLogger("sat_peft")
    handler.addFilter(lambda record: _is_main_process())
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _is_main_process() -> bool:
    # By what launchers set: before there is a process group, and after its end, torch knows of no ranks.
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def run(main: Callable[[Any], int | None], options: Callable[[], Any], *, interrupted: str) -> int | None:
    """Calls `main(options())` in the processes of the launch.

    A user's mistake is told in a line and exits with status 2, Ctrl-C says what is left.

    Args:
        main: main function of a recipe or command.
        options: parses the command line.
        interrupted: what is told after Ctrl-C.

    Returns:
        What `main` returns: the exit status, or None.
    """
    settings = None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of classes and files may have characters that a console or a redirection of few cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        settings = options()
        heed_sigterm()
        join_processes()
        with messages_on_stdout():
            return main(settings)
    except UsageError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        print(f"\ninterrupted; {interrupted}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM if isinstance(error, Terminated) else 1)
    except Exception as error:  # libraries tell of a full disk by errors of their own
        if is_disk_full(error):
            place = full_place(error, getattr(settings, "output", None))
            what = f"no space is left for {place}. Free some space and give the same command again"
        elif isinstance(error, OSError) and error.errno in _REFUSED:
            what = (
                f"the system refuses {error.filename or 'a file'!r} ({error.strerror}). Name another place, or correct "
                "its permissions"
            )
        else:
            raise
        print(f"\nerror: {what}.", file=sys.stderr)
        sys.exit(2)
