"""Files of an evaluation: what the tables say, and that no file is ever half written."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from sat_peft.errors import UsageError
from sat_peft.files.outputs import FolderLock
from sat_peft.report.evaluation import (
    ORACLE_WARNING,
    check_evaluation_folder,
    markdown,
    protocol_table,
    write_evaluation,
)

FILES = [
    "accuracy_original.png",
    "curves.json",
    "iou_original.png",
    "records_original.jsonl",
    "results.json",
    "table.md",
]
CURVES = {"original": {"sat": {"threshold": [0.1, 0.5, 0.9], "gt_known": [10.0, 50.0, 0.0]}}}
RECORDS = {"original": [{"method": "sat", "image_id": f"test/é/{i}", "iou": i / 4} for i in range(5)]}


def method(title: str, threshold: float | None = 0.5, **summary) -> dict:
    source = None if threshold is None else "fixed: given"
    figures = {"title": title, "threshold": threshold, "threshold_source": source, "summary": summary}
    return figures | {"confidence_intervals": {}}


def results(**changes) -> dict:
    sat = method("SAT", gt_known=50.0, top1_loc=None, px_ap=25.04)
    sat["confidence_intervals"] = {"gt_known": [40.06, 60.0]}
    protocol = {
        "source": "where it is from",
        "image_size": [64, 96],
        "ten_crop": False,
        "oracle": False,
        "methods": {"sat": sat, "centre_box": method("centre box", None, gt_known=30.0)},
    }
    settings = {"split": "test", "data": "DIR", "num_images": 5, "num_classes": 3, "backbone": "vit", "adapter": "A"}
    return {**settings, "bootstrap": 100, "protocols": {"original": protocol | changes}}


def test_table_has_a_column_for_every_figure_that_is_defined():
    assert protocol_table(results()["protocols"]["original"]) == (
        "| method     |      GT-known Loc |   PxAP |   threshold |\n"
        "|:-----------|------------------:|-------:|------------:|\n"
        "| SAT        | 50.0 [40.1, 60.0] |   25.0 |         0.5 |\n"
        "| centre box |              30.0 |      – |           – |"
    )


def test_document_names_split_size_threshold_source_and_intervals():
    text = markdown(results())
    assert "Test split of `DIR`: 5 images, 3 classes. Backbone `vit`, adapter `A`. Percent." in text
    assert "## Protocol `original`\n\nwhere it is from. Input 64 x 96 pixels." in text
    assert "Thresholds: fixed: given." in text
    assert "95 % intervals of 100 bootstrap samples" in text
    assert ORACLE_WARNING not in text
    assert "ten crops" not in text


def test_document_says_what_is_not_usual():
    text = markdown(results(oracle=True, ten_crop=True))
    assert ORACLE_WARNING in text
    assert "mean softmax of ten crops" in text
    assert "\n\nCAM localises best here.\n\n" in markdown(results(standing="CAM localises best here."))
    with_max_box = results(methods={"sat": method("SAT", max_box_acc=40.0, max_box_acc_v2=30.0)})
    assert "by definition, the best threshold of the evaluated images" in markdown(with_max_box)


def test_files_hold_what_they_are_given(tmp_path):
    write_evaluation(tmp_path / "new" / "folder", results(), CURVES, RECORDS)
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "results.json").read_text()) == results()
    assert json.loads((folder / "curves.json").read_text()) == CURVES
    assert [json.loads(line) for line in (folder / "records_original.jsonl").read_text().splitlines()] == (
        RECORDS["original"]
    )
    assert (folder / "table.md").read_text() == markdown(results())


def _is_whole(path: Path) -> bool:
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5
    else:
        assert path.read_text() == markdown(results())
    return True


def _write_until_killed(folder: Path, renames: int) -> None:
    """Writes an evaluation in this process, which kills itself between writing a file and renaming it."""
    rename = Path.replace
    done = []

    def replace(self, target):
        if not Path(target).name.startswith("."):  # who holds the folder is no part of the evaluation
            if len(done) == renames:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(target)
        return rename(self, target)

    Path.replace = replace
    write_evaluation(folder, results(), CURVES, RECORDS)


@pytest.mark.parametrize("earlier", [False, True], ids=["new folder", "over an evaluation"])
@pytest.mark.parametrize("renames", range(len(FILES)))
def test_killed_process_leaves_whole_files_and_no_results(tmp_path, renames, earlier):
    if earlier:
        write_evaluation(tmp_path, results(), CURVES, RECORDS)
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(tmp_path, renames))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert len(left) == renames
    assert all(_is_whole(tmp_path / name) for name in left)
    assert "results.json" not in left
    # The next evaluation needs no --overwrite, and clears away what the killed one left.
    check_evaluation_folder(tmp_path)
    write_evaluation(tmp_path, results(), CURVES, RECORDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_output_folder_is_checked(tmp_path):
    check_evaluation_folder(tmp_path / "absent")
    check_evaluation_folder(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UsageError, match=r"already holds an evaluation.*--overwrite"):
        check_evaluation_folder(tmp_path)
    check_evaluation_folder(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        check_evaluation_folder(tmp_path / "results.json")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"no part of an evaluation \(thesis\.tex\)"):
        check_evaluation_folder(tmp_path, overwrite=True)
    assert (tmp_path / "results.json").exists()


def test_an_evaluation_that_another_process_writes_is_left_alone(tmp_path):
    with FolderLock(tmp_path):
        for write in (check_evaluation_folder, lambda folder: write_evaluation(folder, results(), CURVES, RECORDS)):
            with pytest.raises(UsageError, match=f"is being written by process {os.getpid()}"):
                write(tmp_path)
    write_evaluation(tmp_path, results(), CURVES, RECORDS)
    assert not list(tmp_path.glob(".*"))
