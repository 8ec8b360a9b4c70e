"""Kills commands at every moment they change a file, gives the same command again and compares with an undisturbed run.

    python scripts/survival.py                            every 5th moment of every command
    python scripts/survival.py --every 1 --commands few_shot

A child process is forked for each moment and ends, as by kill -9, right before its n-th change of a file or folder. In
between the folder must be readable, afterwards every file must be that of the undisturbed run, byte for byte, and
nothing else may be there. Data and backbone are tiny, so that one command takes about a second. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch: a process that has threads of its own cannot be forked.
os.environ["OMP_NUM_THREADS"] = "1"

import timm
import torch
import tyro
from safetensors.torch import save_file

from sat_peft.commands import command_line, evaluate, predict
from sat_peft.data.scenes import NOVEL_CLASSES, render_scene, scene_seed
from sat_peft.files import read_json
from sat_peft.options.presets import PRESETS
from sat_peft.recipes import few_shot, full_data

# What changes a folder: the moments at which a command is killed.
EVENTS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync")
KILLED = 9
COMMANDS = ("few_shot", "full_data", "sweep", "evaluate", "predict")


def prepare(folder: Path) -> None:
    """Writes a small folder of images with boxes and a small backbone into `folder`."""
    from PIL import Image

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), folder / "model.safetensors")
    for split, number in (("train", 2), ("validation", 1), ("test", 2)):
        rows = []
        for scene_class in NOVEL_CLASSES[:2]:
            (folder / "data" / split / scene_class.name).mkdir(parents=True)
            for index in range(number):
                scene = render_scene(scene_class, scene_seed(split, index), image_size=64)
                name = f"{scene_class.name}/{index}.png"
                Image.fromarray(scene.image).save(folder / "data" / split / name)
                x0, y0, x1, y1 = scene.box.tolist()
                rows.append({"file_name": name, "objects": {"bbox": [[x0, y0, x1 - x0, y1 - y0]]}})
        if split != "train":
            (folder / "data" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def command(name: str, folder: Path, output: Path, run: Path | None) -> Callable[[], object]:
    """The command `name` on what `prepare` wrote, from its command line on; `evaluate` and `predict` read `run`."""
    training = ["--data", folder / "data", "--weights", folder / "model.safetensors", "--backbone", "test_vit"]
    training += ["--preset", "part_scenes", "--image-size", 64, "--checkpoint-every", 1, "--threads", 1]
    training += ["--batch-size", 2, "--baselines", "cam", "centre_box", "--output", output]
    formats = ["--formats", "coco", "voc", "jsonl", "--overlays", "--batch-size", 2]
    arguments = {
        "few_shot": [*training, "--steps", 2],
        "sweep": [*training, "--steps", 1, "--trials", 2],
        "full_data": [*training, "--epochs", 2, "--class-readout"],
        "evaluate": ["--run", run, "--output", output, "--bootstrap", 10, "--threads", 1],
        "predict": [folder / "data" / "test", *formats, "--run", run, "--output", output, "--threads", 1],
    }[name]
    texts = [str(argument) for argument in arguments]
    if name in ("evaluate", "predict"):
        module = {"evaluate": evaluate, "predict": predict}[name]
        return lambda: module.main(tyro.cli(module.Config, args=texts))
    recipe, preset = (full_data, "full_data") if name == "full_data" else (few_shot, "few_shot")
    parsed = {"description": "", "arguments": texts}
    return lambda: recipe.main(command_line.parse(recipe.Config, PRESETS[preset], **parsed))


def kill_at(moment: int, folder: Path) -> None:
    """Ends this process right before its change of a file number `moment`, counted from 1; at 0 never. Opening a file
    below `folder` for writing is one too.
    """
    count = 0

    def change() -> None:
        nonlocal count
        count += 1
        if count == moment:
            os._exit(KILLED)

    for name in EVENTS:
        original = getattr(os, name)

        def changed(*arguments, _original=original, **options):
            change()
            return _original(*arguments, **options)

        setattr(os, name, changed)

    def audited(event: str, arguments: tuple) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and str(arguments[0]).startswith(str(folder)):
            change()

    sys.addaudithook(audited)
    changes["count"] = lambda: count


changes: dict[str, Callable[[], int]] = {}


def with_modules(call: Callable[[], object], file: Path) -> Callable[[], object]:
    """`call`, after which the names of all modules are written to `file`."""

    def recorded() -> None:
        call()
        file.write_text("\n".join(sys.modules), encoding="utf-8")

    return recorded


def import_modules(file: Path) -> None:
    """Imports the modules that `file` names, so that no child has to: that took most of its time."""
    for name in file.read_text(encoding="utf-8").splitlines():
        # Some are attributes of others, and none is needed.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def forked(call: Callable[[], object], moment: int, folder: Path, log: Path) -> tuple[int, int]:
    """(exit status, changes of files) of `call`, which writes `folder`, in a child that is killed at `moment`."""
    # A place of their own: what earlier processes left in the machine's is removed in time, and would be counted too.
    temporary = log.parent / "temporary"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # The seconds that a run took are the one thing that differs from run to run.
            time.perf_counter = lambda: 0.0
            tempfile.tempdir = str(temporary)
            kill_at(moment, folder)
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                try:
                    call()
                    status = 0
                except SystemExit as error:
                    status = error.code or 0
                except BaseException:
                    traceback.print_exc(file=output)
            log.write_text(output.getvalue(), encoding="utf-8")
            os.write(writer, str(changes["count"]()).encode())
        finally:
            os._exit(status if isinstance(status, int) else 1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        count = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), count


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def unreadable(folder: Path) -> list[str]:
    """Files of a folder that are not whole: JSON that does not parse. Names of unfinished files begin with a dot."""
    found = []
    for file in folder.rglob("*.json") if folder.exists() else ():
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            try:
                read_json(file)
            except ValueError as error:
                found.append(str(error))
    return found


def campaign(name: str, folder: Path, run: Path | None, moments: Callable[[int], list[int]]) -> dict:
    """Kills the command `name` at some moments.

    Args:
        name: of the command.
        folder: with what `prepare` wrote.
        run: finished run folder, for commands that read one.
        moments: those to kill at, of so many.

    Returns:
        `moments`, `kills`, and `faults`: what went wrong, in words.
    """
    log, output = folder / "log.txt", folder / "output" / name
    output.parent.mkdir(exist_ok=True)
    call = command(name, folder, output, run)
    for _ in range(2):  # the first time may make folders for caches of libraries; the second counts
        shutil.rmtree(output, ignore_errors=True)
        status, total = forked(call, 0, output, log)
        if status:
            raise SystemExit(f"{name} fails undisturbed:\n{log.read_text()}")
    expected, faults = content(output), []
    chosen = moments(total)
    for moment in chosen:
        shutil.rmtree(output)
        killed, _ = forked(call, moment, output, log)
        faults += [f"{name}, killed at {moment}: {text}" for text in unreadable(output)]
        status, _ = forked(call, 0, output, log)
        # A command that was killed in its very last moments has done its work, and says so.
        if killed != KILLED or (status and "already holds" not in log.read_text()):
            faults.append(f"{name}, killed at {moment} ({killed}): exit {status}\n{log.read_text()[-2000:]}")
            continue
        found = content(output)
        different = [each for each in expected.keys() | found.keys() if expected.get(each) != found.get(each)]
        if different:
            faults.append(f"{name}, killed at {moment}: {', '.join(sorted(different)[:5])} differ")
    return {"moments": total, "kills": len(chosen), "faults": faults}


def survive(names: list[str], moments: Callable[[int], list[int]]) -> Iterator[tuple[str, dict]]:
    """The campaigns of several commands, one after the other, with their names."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        run = folder / "run"
        modules = folder / "modules.txt"
        status, _ = forked(with_modules(command("few_shot", folder, run, None), modules), 0, run, folder / "log.txt")
        if status:
            raise SystemExit((folder / "log.txt").read_text())
        import_modules(modules)
        for name in names:
            yield name, campaign(name, folder, run, moments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="by default all")
    parser.add_argument("--every", type=int, default=5, help="kill at every n-th moment")
    parser.add_argument("--sample", type=int, help="kill at so many moments of each command, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="seed of --sample")
    options = parser.parse_args()

    def moments(total: int) -> list[int]:
        if options.sample is None:
            return list(range(1, total + 1, options.every))
        return sorted(random.Random(options.seed).sample(range(1, total + 1), min(options.sample, total)))

    print("| command | changes of files | kills | faults |\n| --- | ---: | ---: | ---: |", flush=True)
    faults = []
    for name, result in survive(options.commands, moments):
        faults += result["faults"]
        print(f"| {name} | {result['moments']} | {result['kills']} | {len(result['faults'])} |", flush=True)
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
