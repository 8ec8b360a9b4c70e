"""Many runs of one recipe: none is run twice, none is lost, and what they are worth together."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from sat_peft.errors import UsageError
from sat_peft.runs.sweep import Point, gather_point, pareto_front, run_cells


@dataclass(frozen=True)
class Config:
    seed: int = 0
    shots: tuple[int, ...] = (1,)
    added_later: str = "default"
    preset: str | None = None
    output: Path | None = None
    resume: Path | None = None
    overwrite: bool = False


def leave(config: Config, status: str, results: dict | None = None) -> dict | None:
    """A run folder of that status."""
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "status.json").write_text(json.dumps({"status": status}))
    (config.output / "config.json").write_text(json.dumps(asdict(config), default=str))
    if results is not None:
        (config.output / "results.json").write_text(json.dumps(results))
    return results


class Runner:
    """Runs cells in no time, and remembers which."""

    def __init__(self):
        self.seen: list[Config] = []

    def __call__(self, config: Config) -> dict:
        self.seen.append(config)
        return leave(config, "finished", {"seed": config.seed})


CELLS = {"a/seed-0": Config(seed=0), "a/seed-1": Config(seed=1, shots=(2,))}


def test_finished_cells_are_not_run_again(tmp_path):
    first, second = Runner(), Runner()
    results = run_cells(tmp_path, CELLS, first)
    assert results == {"a/seed-0": {"seed": 0}, "a/seed-1": {"seed": 1}}
    assert [config.output for config in first.seen] == [tmp_path / "a/seed-0", tmp_path / "a/seed-1"]
    assert all(config.resume is None for config in first.seen)
    assert run_cells(tmp_path, CELLS, second) == results
    assert second.seen == []
    assert len(Runner().seen) == 0


def test_a_preset_that_is_named_now_makes_no_other_run_of_the_same_settings(tmp_path):
    run_cells(tmp_path, CELLS, Runner())
    again = Runner()
    run_cells(tmp_path, {name: replace(cell, preset="photos") for name, cell in CELLS.items()}, again)
    assert again.seen == []


def test_overwrite_runs_them_again(tmp_path):
    run_cells(tmp_path, CELLS, Runner())
    again = Runner()
    run_cells(tmp_path, CELLS, again, overwrite=True)
    assert [config.overwrite for config in again.seen] == [True, True]


def test_a_sweep_removes_what_a_killed_one_left_and_is_run_by_one_process(tmp_path):
    (tmp_path / ".table.md.17.tmp").touch()
    (tmp_path / "a").mkdir()

    def run_cell(config: Config) -> dict:
        with pytest.raises(UsageError, match=f"is being written by process {os.getpid()}"):
            run_cells(tmp_path, CELLS, Runner())
        return leave(config, "finished", {})

    run_cells(tmp_path, CELLS, run_cell)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_cell_that_was_killed_is_resumed(tmp_path):
    place = tmp_path / "a/seed-1"
    leave(Config(seed=1, shots=(2,), output=place), "running")
    runner = Runner()
    run_cells(tmp_path, CELLS, runner)
    assert [config.resume for config in runner.seen] == [None, place]


def test_runs_of_another_configuration_are_not_taken_for_these(tmp_path):
    leave(Config(seed=1, shots=(3,), output=tmp_path / "a/seed-1"), "finished", {})
    runner = Runner()
    with pytest.raises(UsageError, match=r"other values of shots.*--overwrite"):
        run_cells(tmp_path, CELLS, runner)
    assert runner.seen == []


def test_a_field_that_came_later_means_its_default(tmp_path):
    run_cells(tmp_path, CELLS, Runner())
    file = tmp_path / "a/seed-0/config.json"
    recorded = json.loads(file.read_text())
    del recorded["added_later"]
    file.write_text(json.dumps(recorded))
    runner = Runner()
    run_cells(tmp_path, CELLS, runner)
    assert runner.seen == []
    with pytest.raises(UsageError, match="added_later"):
        run_cells(tmp_path, {"a/seed-0": Config(added_later="other")}, runner)


def run(gt_known: float | None, seconds: float = 1.0) -> dict:
    figures = {"gt_known": gt_known, "top1_cls": 50.0}
    return {"trainable_parameters": 7, "seconds": seconds, "methods": {"sat": figures}}


def test_mean_and_sample_deviation_by_hand():
    point = gather_point("x", [run(80.0, 1.0), run(90.0, 2.0), run(100.0, 9.0)])
    assert (point.mean(), point.deviation(), point.seconds, point.trainable) == (90.0, 10.0, 2.0, 7)
    assert gather_point("x", [run(80.0)]).deviation() == 0.0


def test_what_was_not_measured_has_no_mean():
    point = gather_point("x", [run(None), run(90.0)])
    assert point.figures["sat"]["gt_known"] is None
    assert point.mean() != point.mean()
    assert point.mean("sat", "top1_cls") == 50.0


def test_pareto_front_by_hand():
    points = [
        Point(title, trainable, {"sat": {"gt_known": [accuracy]}}, 1.0)
        for title, trainable, accuracy in [
            ("dear", 100, 80.0),
            ("cheap", 10, 60.0),
            ("worse", 20, 50.0),
            ("middle", 50, 80.0),
            ("twin", 10, 55.0),
        ]
    ]
    assert [point.title for point in pareto_front(points)] == ["cheap", "middle"]
