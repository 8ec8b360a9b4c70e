"""The page of the miniature says what was measured, and what it does not support."""

import json
import re

import pytest

from reproduction.miniature import MINIATURE
from sat_peft.options.regimes import DEFAULT_REGIME, REGIMES


def run(gt_known: float, trainable: int = 121_620, **others: float) -> dict:
    methods = {"sat": gt_known, **others}
    figures = {
        name: {"gt_known": value, "top1_loc": 1.0, "top5_loc": 2.0, "top1_cls": 3.0} for name, value in methods.items()
    }
    return {"trainable_parameters": trainable, "seconds": 60.0, "methods": figures}


@pytest.fixture
def page(tmp_path):
    def write(results: dict) -> str:
        for cell, runs in results.items():
            for seed, measured in enumerate(runs):
                place = tmp_path / cell / f"seed-{seed}"
                place.mkdir(parents=True, exist_ok=True)
                (place / "results.json").write_text(json.dumps(measured))
        MINIATURE.write_page(tmp_path)
        return (tmp_path / "results.md").read_text(encoding="utf-8")

    write.folder = tmp_path
    return write


def test_every_cell_has_a_title():
    for experiment in MINIATURE.experiments.values():
        assert len(experiment.cells) == len(experiment.titles)
    assert set(MINIATURE.experiments["regimes"].titles) == set(REGIMES)
    assert list(REGIMES).index(DEFAULT_REGIME) == list(MINIATURE.experiments["regimes"].cells).index("shots-1")


def test_what_sat_beats_and_what_beats_sat_is_said(page):
    text = page({"shots-1": [run(80.0, cam=5.0, rollout=90.0), run(90.0, cam=7.0, rollout=92.0)]})
    assert "Supported: SAT (85.0 GT-known Loc) localises better than CAM (6.0)." in text
    assert "**Not supported: attention rollout (91.0) is not beaten on this bench.**" in text
    assert "| 1 | SAT | 121,620 | 85.0 ± 7.1 | 1.0 ± 0.0 | 2.0 ± 0.0 | 3.0 ± 0.0 | 2 | 60 |" in re.sub(" +", " ", text)


def test_a_claim_about_few_parameters_needs_the_figures(page):
    few = {"regime-token_head1x1": [run(80.0, 2836)]}
    assert "Supported: with at most 5,000 trained parameters token_head1x1 (2,836) reaches 80.0" in page(
        few | {"shots-1": [run(79.0), run(81.0)]}
    )
    best = {"shots-1": [run(89.0), run(91.0)]}
    assert "**Not supported: with at most 5,000 trained parameters" in page(few | best)


def test_gains_are_told_against_the_default(page):
    text = page({"three-terms": [run(80.0)], "three-terms-k-2": [run(20.0)], "three-terms-k-5": [run(85.0)]})
    assert "Against K = 6 (80.0): K = 2 -60.0 points; K = 5 +5.0 points. Best number of blocks: K = 5." in text
    assert "Not measured within the time: K = 1, K = 3, K = 4." in text


def test_plots_are_drawn_of_what_there_is(page):
    text = page(
        {
            "shots-1": [run(80.0, cam=5.0)],
            "shots-3": [run(85.0, cam=6.0)],
            "shots-10": [run(90.0)],
            "regime-full": [run(70.0)],
        }
    )
    assert "From 1 to 10 images per class GT-known Loc changes by +10.0 points, beyond one" in text
    for name in ("shots.png", "parameters.png"):
        assert (page.folder / name).read_bytes().startswith(b"\x89PNG")


def test_what_was_not_measured_has_no_section(page):
    areas = {f"three-terms-area-{area}": [run(value)] for area, value in ((0.05, 50.0), (0.1, 60.0))}
    text = page(areas | {"shots-3": [run(70.0)]})
    assert "area target" in text
    assert "How few" not in text
