"""The few-shot recipe as a user runs it: launched, refused, interrupted, and repeated."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from flags import as_flags
from PIL import Image
from tiny_folder import CLASSES, write_folder

from sat_peft.errors import UsageError

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "few_shot.py"


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """The recipe takes every core it may use. With one, runs have one thread, and tests beside them keep theirs."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def options(tiny) -> dict:
    return tiny | {"steps": 4, "shots": (2,), "tune": "none", "learning_rate": 5e-4}


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("few_shot")


def launch(options: dict) -> list[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    return [*launcher, str(RECIPE), *as_flags(options)]


def environment(*first: Path) -> dict:
    paths = [*map(str, first), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def launched(options, tmp_path_factory) -> tuple[Path, str]:
    """The run folder and the terminal output of a launched run."""
    folder = tmp_path_factory.mktemp("runs") / "launched"
    command = launch(options | {"output": folder})
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return folder, run.stdout


@pytest.mark.slow
def test_launched_run_leaves_a_complete_run_folder(launched, options):
    folder, _ = launched
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "paths.json", "versions.json", "status.json", "image_ids.json", "metrics.jsonl", "adapter"),
        *("results.json", "examples.png", "baselines"),
        *("report.html", "gallery", "measurement.json", "parameters.json"),
    }
    assert read(folder, "status.json") == {"status": "finished"}
    config = read(folder, "config.json")
    assert config["shots"] == [2]
    assert config["weights"] == options["weights"].name
    assert read(folder, "paths.json")["weights"] == str(options["weights"])
    assert config["learning_rate"] == 5e-4  # defaults are recorded too
    image_ids = read(folder, "image_ids.json")
    assert len(image_ids) == len(set(image_ids)) == 6
    assert all((Path(options["data"]) / image_id).is_file() and image_id.startswith("train/") for image_id in image_ids)
    assert [(line["method"], line["step"]) for line in metrics(folder)] == [
        (method, step) for method in ("SAT", "CAM") for step in range(1, 5)
    ]
    # Ten steps of warm-up to 5e-4, of which these are the first four.
    assert [line["learning_rate"] for line in metrics(folder)[:4]] == pytest.approx([0, 5e-5, 1e-4, 1.5e-4])
    adapter = {path.name for path in (folder / "adapter").iterdir()}
    assert adapter == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    with Image.open(folder / "examples.png") as picture:
        assert picture.format == "PNG"


def test_launched_run_reports_figures_of_three_methods(launched):
    folder, output = launched
    results = read(folder, "results.json")
    assert results["protocol"] == "original"
    assert results["threshold_source"].startswith("validation")
    assert results["test_images"] == 9
    # Token, position embedding and 3x3 head for 3 classes at width 64.
    assert results["trainable_parameters"] == 64 + 64 + 3 * (9 * 64 + 1)
    assert results["seconds"] > 0
    assert set(results["methods"]) == {"sat", "cam", "centre_box"}
    for figures in results["methods"].values():
        assert set(figures) == {"gt_known", "top1_loc", "top5_loc", "top1_cls"}
        assert all(0 <= value <= 100 for value in figures.values())
        assert figures["top1_loc"] <= figures["top5_loc"] == figures["gt_known"]  # three classes are within five
    # The command at the end is one that a reader of a copied recipe has too, without a clone.
    closing = f"  sat-peft evaluate --run {folder}"
    for words in ("GT-known Loc", "centre box", "Run folder", "1,859", "validation: best iou30+iou50+iou70", closing):
        assert words in output
    assert "localises best here" in results["standing"]
    assert results["standing"] in output


@pytest.mark.slow
def test_same_seed_gives_the_same_numbers(launched, options, recipe, tmp_path):
    folder, _ = launched
    recipe.main(recipe.Config(**options, output=tmp_path / "same"))
    assert metrics(tmp_path / "same") == metrics(folder)
    first, second = read(folder, "results.json"), read(tmp_path / "same", "results.json")
    assert first | {"seconds": 0} == second | {"seconds": 0}
    assert (tmp_path / "same/adapter/adapter_model.safetensors").read_bytes() == (
        folder / "adapter/adapter_model.safetensors"
    ).read_bytes()


def test_second_run_in_the_folder_is_refused_unless_it_may_overwrite(options, recipe, tmp_path):
    config = {**options, "steps": 1, "output": tmp_path / "run"}
    recipe.main(recipe.Config(**config))
    with pytest.raises(UsageError, match=r"already holds a run.*--overwrite"):
        recipe.main(recipe.Config(**config, seed=1))
    assert read(tmp_path / "run", "config.json")["seed"] == 0
    first = metrics(tmp_path / "run")
    recipe.main(recipe.Config(**config, seed=1, overwrite=True))
    assert read(tmp_path / "run", "config.json")["seed"] == 1
    second = metrics(tmp_path / "run")
    assert len(first) == len(second) == 2
    assert first != second


def test_without_boxes_localisation_is_not_measured_but_classification_is(options, recipe, tmp_path, said):
    data = write_folder(tmp_path / "data", boxes=False)
    recipe.main(recipe.Config(**options | {"data": str(data), "steps": 1}, output=tmp_path / "run"))
    results = read(tmp_path / "run", "results.json")
    assert set(results["methods"]) == {"sat", "cam"}
    for figures in results["methods"].values():
        assert figures["gt_known"] is figures["top1_loc"] is figures["top5_loc"] is None
        assert 0 <= figures["top1_cls"] <= 100
    assert results["threshold_source"] == "unsupervised: Otsu's threshold of the maps, no boxes used"
    assert set(results["health"]["figures"]) >= {"mean_area", "whole_image_boxes"}
    assert results["standing"] is None
    output = said.text
    assert "not measured (the test split has no boxes)" in output
    assert "localises best" not in output
    assert "–" in output
    assert (tmp_path / "run/examples.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shots": (4,)}, r"3 classes have fewer than 4 training images: .*\(3\).*Use at most --shots 3"),
        ({"shots": (0,)}, "shots must be at least 1"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"drop_path": 1.5}, "drop_path_rate must be at least 0"),
        ({"threshold": 30.0}, "between 0 and 1"),
        ({"data": "nowhere"}, "'nowhere' does not exist, nor is it a source"),
        ({"backbone": "test_vitt"}, r"unknown backbone 'test_vitt'\. Did you mean test_vit"),
        ({"weights": Path("gone.safetensors")}, "do not exist"),
        ({"image_size": 70}, "nearest sizes that are: 64 and 80"),
        ({"num_spatial_blocks": 7}, r"num_spatial_blocks=7 is more than the 6 blocks.*from 1 to 6"),
    ],
)
def test_mistakes_are_answered_before_a_run_folder_exists(options, recipe, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        recipe.main(recipe.Config(**options | changes, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_unreadable_image_fails_the_run_and_is_named(options, recipe, tmp_path):
    data = Path(shutil.copytree(options["data"], tmp_path / "data"))
    for path in (data / "train" / CLASSES[1].name).iterdir():
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UsageError, match=rf"'train/{CLASSES[1].name}/\d\.jpg' cannot be read.*Repair the file"):
        recipe.main(recipe.Config(**options | {"data": str(data)}, output=tmp_path / "run"))
    status = read(tmp_path / "run", "status.json")
    assert status["status"] == "failed"
    assert "cannot be read" in status["reason"]


def test_diverging_loss_stops_the_run_and_says_what_to_change(options, recipe, tmp_path):
    with pytest.raises(UsageError, match=r"the loss diverged at step \d .*Lower --learning-rate \(it is 1e\+06\)"):
        recipe.main(recipe.Config(**options | {"learning_rate": 1e6}, warmup_steps=0, output=tmp_path / "run"))
    assert read(tmp_path / "run", "status.json")["status"] == "failed"
    assert not (tmp_path / "run/adapter").exists()


def test_mistake_is_printed_without_a_traceback_and_exits_with_2(options, tmp_path, monkeypatch, capsys):
    changed = options | {"data": tmp_path / "nowhere", "output": tmp_path / "run"}
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *as_flags(changed)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.strip().startswith("error: the data folder")
    assert "Traceback" not in error


@pytest.mark.slow
def test_interrupted_run_says_so_and_its_files_are_readable(options, tmp_path):
    folder = tmp_path / "run"
    command = launch(options | {"output": folder, "steps": 100_000})
    # Tests in the background of a shell ignore the signal, and so would what they start.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    # A session of its own, so that the signal reaches launcher and recipe alike, as Ctrl-C in a terminal does.
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: (folder / "metrics.jsonl").exists() and len(metrics(folder)) >= 3, process)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        wait_for(lambda: read(folder, "status.json")["status"] != "running")
    finally:
        signal.signal(signal.SIGINT, handler)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert read(folder, "status.json") == {"status": "interrupted"}
    assert "interrupted; what the run wrote so far is readable" in output
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    # A fast machine has taken enough steps for a checkpoint.
    assert {path.name for path in folder.iterdir()} - {"checkpoint"} == {
        *("config.json", "paths.json", "versions.json", "status.json", "image_ids.json", "metrics.jsonl")
    }


def start(options: dict, processes: int) -> subprocess.Popen:
    """A training that goes on for ever. One process without a launcher, as batch systems signal the process itself."""
    # `accelerate launch --cpu` starts one process whatever --num_processes says; torchrun starts two.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), str(RECIPE)]
    command += as_flags(options | {"steps": 100_000, "threads": 1})
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_after_sigterm_the_same_command_goes_on_with_the_next_step(options, tmp_path, processes):
    folder = tmp_path / "run"
    taken = []
    for _ in range(2):
        process = start(options | {"output": folder}, processes)
        try:
            wait_for(lambda: (folder / "metrics.jsonl").exists() and len(metrics(folder)) >= len(taken) + 3, process)
            process.terminate()
            _, error = process.communicate(timeout=120)
        finally:
            process.kill()
        # Of several processes the launcher's own.
        assert process.returncode == (128 + signal.SIGTERM if processes == 1 else 1)
        assert "interrupted; what the run wrote so far is readable" in error
        assert read(folder, "status.json") == {"status": "interrupted"}
        taken[:] = [line["step"] for line in metrics(folder)]
        assert taken == list(range(1, len(taken) + 1))
        state = torch.load(folder / "checkpoint" / "SAT.pt", weights_only=True)
        assert (state["step"], len(state["generators"])) == (taken[-1], processes)
    for name in ("config.json", "versions.json", "image_ids.json"):
        assert read(folder, name)


@pytest.mark.slow
def test_a_run_of_which_a_process_is_killed_says_how_to_go_on(options, tmp_path):
    folder = tmp_path / "run"
    process = start(options | {"output": folder}, 2)
    try:
        wait_for(lambda: (folder / "metrics.jsonl").exists() and len(metrics(folder)) >= 3, process)
        (second,) = (each for each in psutil.Process(process.pid).children() if each.environ().get("RANK") == "1")
        second.kill()
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    # Whichever comes first in the first process: the lost connection, or the launcher's SIGTERM.
    assert read(folder, "status.json")["status"] in ("failed", "interrupted")
    assert re.search(r"(another process of this run has ended|interrupted).*go on with --resume", error)
    assert "gloo" not in json.dumps(read(folder, "status.json"))


def wait_for(condition, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited for two minutes"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the run ended early:\n{process.communicate()[0]}")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [
        ("--help", 0, "Labelled training images per class"),
        ("--shot=3", 2, "--shots"),
        ("--preset=cubs", 2, "cub"),
        ("--tune=lara", 2, "none"),
    ],
)
def test_help_and_mistyped_options_are_answered_without_the_heavy_imports(tmp_path, argument, code, words):
    for package in ("torch", "timm", "datasets", "accelerate", "peft"):
        (tmp_path / f"{package}.py").write_text(f"raise RuntimeError('{package} was imported')")
    command = [sys.executable, str(RECIPE), argument]
    run = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    output = run.stdout + run.stderr
    assert "was imported" not in output
    assert run.returncode == code, output
    assert words in output
