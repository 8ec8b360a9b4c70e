"""The prediction as a user runs it: launched, continued, killed, refused."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from processes import run_processes
from tiny_run import CLASSES, THRESHOLD, write_run

from sat_peft.commands import predict
from sat_peft.commands.console import main as console
from sat_peft.cpu import join_processes
from sat_peft.errors import UsageError

pytestmark = pytest.mark.usefixtures("threads")

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "predict.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("predict"))


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("ant/1.jpg", "bee & wasp/1.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def environment(*first: Path) -> dict:
    paths = [*map(str, first), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ACCELERATE_USE_CPU": "true"}


def launch(*arguments, processes: int = 1) -> list[str]:
    launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    if processes > 1:
        # On one machine without a GPU, `accelerate launch` starts one process, whatever it is told.
        # The dashes keep torchrun from taking --run for an option of its own.
        launcher = ["torch.distributed.run", "--nproc_per_node", str(processes), "--standalone", "--"]
    return [sys.executable, "-m", *launcher, str(RECIPE), *map(str, arguments)]


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_launched_recipe_writes_into_the_run_and_says_what_it_did(run, photos):
    (photos / "broken.jpg").write_bytes(b"nothing")
    command = launch(photos, "--run", run, "--formats", "jsonl", "coco", "yolo", "--overlays")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    output = run / "predictions"
    assert [row["image_id"] for row in rows(output)] == ["ant/1.jpg", "bee & wasp/1.jpg"]
    assert {row["threshold"] for row in rows(output)} == {THRESHOLD}
    assert (output / "overlays" / "ant" / "1.jpg").is_file()
    assert len((output / "yolo" / "labels" / "ant" / "1.txt").read_text().split()) == 5
    for words in (
        f"threshold {THRESHOLD} (validation: best)",
        str(output / "coco.json"),
        "warning: 1 of 3 images skipped, listed in skipped.jsonl; broken.jpg:",
    ):
        assert words in done.stdout
    assert "predicting" in done.stderr


def _predict_in_a_process(config: predict.Config) -> None:
    join_processes()
    predict.main(config)


@pytest.mark.slow
def test_two_processes_share_the_images_and_give_the_same_file(run, photos, tmp_path):
    for number in range(9):
        Image.effect_noise((30 + number, 40), 90).convert("RGB").save(photos / "ant" / f"{number}.png")
    options = {"run": run, "num_workers": 0, "batch_size": 2, "formats": ("jsonl",)}
    predict.main(predict.Config(paths=(str(photos),), output=tmp_path / "one", **options))
    run_processes(_predict_in_a_process, predict.Config(paths=(str(photos),), output=tmp_path / "two", **options))
    assert {path.name for path in (tmp_path / "two").glob("journal-*")} == {"journal-0.jsonl", "journal-1.jsonl"}
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [(row["image_id"], row["boxes"]) for row in one] == [(row["image_id"], row["boxes"]) for row in two]


@pytest.mark.slow
def test_killed_recipe_goes_on(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(300):
        Image.effect_noise((60, 60), 90).convert("RGB").save(tmp_path / "photos" / f"{number:03}.png")
    output = tmp_path / "out"
    arguments = ("--run", run, "--output", output, "--batch-size", 1, "--num-workers", 0, "--maps")
    command = [sys.executable, str(RECIPE), str(tmp_path / "photos"), *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    journal = output / "journal-0.jsonl"
    try:
        deadline = time.monotonic() + 240
        while not (journal.exists() and journal.stat().st_size > 2000):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    done = journal.read_bytes().count(b"\n")
    assert 0 < done < 300
    assert not (output / "coco.json").exists()
    options = {"run": run, "output": output, "batch_size": 64, "num_workers": 0, "maps": True}
    predict.main(predict.Config(paths=(str(tmp_path / "photos"),), **options))
    assert [row["image_id"] for row in rows(output)] == [f"{number:03}.png" for number in range(300)]
    assert len(json.loads((output / "coco.json").read_text())["annotations"]) == 300
    assert journal.read_bytes().count(b"\n") == 300
    assert len(list((output / "maps").iterdir())) == 300


def test_labels_from_folders_and_a_given_threshold(run, photos, tmp_path, capsys):
    options = {"classes": "folder", "threshold": 0.6, "num_workers": 0}
    predict.main(predict.Config(paths=(str(photos),), run=run, output=tmp_path / "out", **options))
    assert [row["label"] for row in rows(tmp_path / "out")] == CLASSES[:2]
    assert "threshold 0.6 (fixed: given)" in capsys.readouterr().out
    predict.main(predict.Config(paths=(str(photos),), run=run, output=tmp_path / "out", **options))
    assert "2 images were done before" in capsys.readouterr().out


def test_folders_that_the_run_knows_by_other_names(run, photos, tmp_path):
    """Its classes.json tells; the given class is also told where the class is predicted."""
    trained = Path(shutil.copytree(run, tmp_path / "run"))
    (trained / "classes.json").write_text(json.dumps({"n01": CLASSES[0], "n02": CLASSES[1]}))
    (photos / "ant").rename(photos / "n01")
    shutil.copytree(photos / "n01", photos / "others")
    for classes in ("folder", "predicted"):
        options = {"run": trained, "output": tmp_path / classes, "classes": classes, "num_workers": 0}
        named = [photos / name for name in ("n01", CLASSES[1], *(["others"] if classes == "predicted" else []))]
        predict.main(predict.Config(paths=tuple(map(str, named)), **options))
    found = {row["image_id"]: row for row in rows(tmp_path / "folder")}
    assert [found[name]["label"] for name in ("n01/1.jpg", f"{CLASSES[1]}/1.jpg")] == CLASSES[:2]
    given = {row["image_id"]: row["given_label"] for row in rows(tmp_path / "predicted")}
    assert given == {"n01/1.jpg": CLASSES[0], f"{CLASSES[1]}/1.jpg": CLASSES[1], "others/1.jpg": None}


@pytest.mark.parametrize(("arguments", "file"), [([], "2.xml"), (["--no-flat"], "ant/2.xml"), (["--flat"], "2.xml")])
def test_flat_or_not(run, photos, tmp_path, arguments, file):
    (photos / "ant" / "1.jpg").rename(photos / "ant" / "2.jpg")
    given = ["predict", str(photos), "--run", str(run), "--output", str(tmp_path / "out"), "--formats", "voc"]
    assert console([*given, "--num-workers", "0", *arguments]) is None
    assert (tmp_path / "out" / "voc" / file).is_file()


def test_a_data_set_with_its_own_classes(run, tmp_path, capsys):
    for name in ("bee & wasp/2.png", "ant/1.png"):
        file = tmp_path / "data" / "test" / name
        file.parent.mkdir(parents=True)
        Image.effect_noise((50, 40), 90).convert("RGB").save(file)
    shutil.copytree(tmp_path / "data" / "test", tmp_path / "data" / "train")
    options = {"data": str(tmp_path / "data"), "run": run, "output": tmp_path / "out", "num_workers": 1, "maps": True}
    predict.main(predict.Config(classes="data", **options))
    assert [(row["image_id"], row["label"]) for row in rows(tmp_path / "out")] == [
        ("test/ant/1.png", "ant"),
        ("test/bee & wasp/2.png", "bee & wasp"),
    ]
    assert (tmp_path / "out" / "maps" / "test" / "ant" / "1.png").is_file()
    assert f"2 images of test of {tmp_path / 'data'}" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"other settings .*root 'test of .*' there, 'train of .*labels 'given' there"):
        predict.main(predict.Config(split="train", **options))
    with pytest.raises(UsageError, match="has no validation split"):
        predict.main(predict.Config(split="validation", **options))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "part_scenes"}, "image files and --classes folder do not go with --data"),
        ({"data_root": Path("x")}, "--data-root goes with a data set, and none is named. Name it with --data"),
        ({"year": "2012", "keep_difficult": True}, "--keep-difficult, --year goes with a data set, and none is named"),
        ({"classes": "data"}, "Name it with --data"),
        ({"paths": ()}, "name at least one image file"),
        ({"run": None}, "either a run folder with --run or an adapter"),
        ({"adapter": Path("x")}, "either a run folder with --run or an adapter"),
        ({"run": None, "adapter": Path("x"), "output": None}, "name a folder with --output"),
        ({"paths": ("gone",)}, "'gone' does not exist"),
        ({"threshold": 3.0}, "between 0 and 1"),
        ({"flat": True, "no_flat": True}, "--flat and --no-flat exclude each other"),
        ({"classes": "folder"}, r"images lie in no folder .* first 'c/1\.jpg'"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(run, photos, tmp_path, changes, words):
    (photos / "c").mkdir()
    (photos / "ant" / "1.jpg").rename(photos / "c" / "1.jpg")
    options = {"paths": (str(photos),), "run": run, "output": tmp_path / "out"}
    with pytest.raises(UsageError, match=words):
        predict.main(predict.Config(**options | changes))
    assert not (tmp_path / "out").exists()


def test_mistake_is_printed_without_a_traceback_and_exits_with_2(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(RECIPE), "gone", "--run", str(run)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().startswith("error: the input 'gone' does not exist")


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [
        ("--help", 0, "Folder for the predictions"),
        ("--formats=coca", 2, "coco"),
        ("--multy", 2, "--multi"),
    ],
)
def test_help_and_mistyped_options_are_answered_without_the_heavy_imports(tmp_path, argument, code, words):
    for package in ("torch", "timm", "datasets", "accelerate", "peft"):
        (tmp_path / f"{package}.py").write_text(f"raise RuntimeError('{package} was imported')")
    command = [sys.executable, str(RECIPE), "photos", argument]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=200, check=False)
    output = done.stdout + done.stderr
    assert "was imported" not in output
    assert done.returncode == code, output
    assert words in output
