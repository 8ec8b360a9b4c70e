"""The experiments on PartScenes and the nano ViT: the paper's low-data results in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reproduction.bench import (
    SAT_ALONE,
    Bench,
    Experiment,
    reference_verdict,
    regime_cells,
    regimes_verdict,
    shots_verdict,
)
from sat_peft.options.regimes import REGIMES
from sat_peft.report.sweeps import draw_parameters, draw_shots
from sat_peft.runs.sweep import Point


def _methods_verdict(points: Mapping[str, Point]) -> list[str]:
    (point,) = points.values()
    sat = point.mean()
    names = {"cam": "CAM", "tscam": "TS-CAM", "rollout": "attention rollout", "centre_box": "the centre box"}
    others = {method: point.mean(method) for method in point.figures if method in names}
    beaten = [f"{names[method]} ({value:.1f})" for method, value in others.items() if value < sat]
    ahead = [f"{names[method]} ({value:.1f})" for method, value in others.items() if value >= sat]
    sentences = []
    if beaten:
        sentences.append(f"Supported: SAT ({sat:.1f} GT-known Loc) localises better than {', '.join(beaten)}.")
    if ahead:
        sentences.append(f"**Not supported: {', '.join(ahead)} is not beaten on this bench.**")
    return sentences


_RIVALS = {"baselines": ("cam", "tscam", "rollout", "centre_box")}
_DEFAULT = {"shots-1": _RIVALS}
_BLOCKS = _DEFAULT | {f"blocks-{k}": SAT_ALONE | {"num_spatial_blocks": k} for k in (1, 2, 6)}
# The paper's three terms, weighted for these scenes, in all blocks: with them fewer blocks learn the part alone.
_THREE_TERMS = {
    "num_spatial_blocks": 6,
    "token_entry": "isolated",
    "calibrated_masks": False,
    "classification_weight": 1.0,
    "area_target": 0.15,
    "area_weight": 1.0,
    "normalization_weight": 3.0,
    "separation_weight": 0.0,
    "border_weight": 0.0,
    "border_in_each_image": False,
    "learning_rate": 1e-3,
    "steps": 150,
}


def _with_three_terms(cells: Mapping[str, dict]) -> dict[str, dict]:
    """Cells with the options of `_THREE_TERMS`, and the one that has nothing but these."""
    alone = {"three-terms": _THREE_TERMS | _RIVALS}
    return alone | {f"three-terms-{name}": _THREE_TERMS | SAT_ALONE | options for name, options in cells.items()}


_REGIMES = regime_cells("shots-1") | _DEFAULT
_BESIDE = {"baselines": ("rollout", "centre_box")}
_SHOTS = _DEFAULT | {f"shots-{shots}": _BESIDE | {"shots": (shots,)} for shots in (3, 5, 10, "all")}
_BLOCKS_OF_THREE = _with_three_terms({f"k-{k}": {"num_spatial_blocks": k} for k in (1, 2, 3, 4, 5)})
_LOSS = _with_three_terms(
    {
        "paper-weights": {"normalization_weight": 1.0},
        "no-area": {"area_weight": 0.0},
        "no-normalization": {"normalization_weight": 0.0},
        "classification-alone": {"area_weight": 0.0, "normalization_weight": 0.0},
    }
)
_AREAS = _with_three_terms({f"area-{area}": {"area_target": area} for area in (0.05, 0.1, 0.25, 0.35)})
# With all blocks spatial, the three are the same; K = 3 of 6 as in the paper's 3 of 12, with the regimes that bear it.
_ENTRIES = {
    f"three-terms-k-3-{tune}-{entry}": _THREE_TERMS
    | SAT_ALONE
    | {"num_spatial_blocks": 3, "tune": tune, "token_entry": entry}
    for tune in ("none", "bias_norm")
    for entry in ("input", "isolated", "late")
}
_INITS = _with_three_terms({"token-random": {"token_init": "random"}})

_EXPERIMENTS: dict[str, Experiment] = {
    "methods": Experiment(
        "Does SAT localise better than what a frozen backbone gives?",
        _DEFAULT,
        ["1"],
        "shots",
        _methods_verdict,
        methods=True,
    ),
    "blocks": Experiment(
        "How many spatial blocks?",
        _BLOCKS,
        ["K = 3", "K = 1", "K = 2", "K = 6"],
        "blocks",
        reference_verdict("shots-1", "number of blocks"),
    ),
    "shots": Experiment(
        "How few images are enough?",
        _SHOTS,
        ["1", "3", "5", "10", "all"],
        "shots",
        shots_verdict,
        methods=True,
        plot=("shots.png", draw_shots),
    ),
    "regimes": Experiment(
        "How few parameters are enough?",
        _REGIMES,
        list(REGIMES),
        "trained",
        regimes_verdict,
        plot=("parameters.png", draw_parameters),
    ),
    "blocks_of_three_terms": Experiment(
        "How many spatial blocks, with the paper's three terms?",
        _BLOCKS_OF_THREE,
        ["K = 6", "K = 1", "K = 2", "K = 3", "K = 4", "K = 5"],
        "blocks",
        reference_verdict("three-terms", "number of blocks"),
    ),
    "loss": Experiment(
        "What is each of the paper's three terms worth?",
        _LOSS,
        ["weights 1, 1, 3", "weights 1, 1, 1 (paper)", "without area", "without normalization", "classification alone"],
        "loss",
        reference_verdict("three-terms", "loss"),
    ),
    "area": Experiment(
        "How much does the area target matter, with the paper's three terms?",
        _AREAS,
        ["0.15", "0.05", "0.1", "0.25", "0.35"],
        "area target",
        reference_verdict("three-terms", "area target"),
    ),
    "token": Experiment(
        "How should the token start, with the paper's three terms?",
        _INITS,
        ["class token", "random (paper)"],
        "token",
        reference_verdict("three-terms", "start"),
    ),
    "entry": Experiment(
        "Where should the token enter (K = 3, the paper's three terms)?",
        _ENTRIES,
        [f"{entry}, {tune}" for tune in ("token + head", "bias and norms") for entry in ("input", "isolated", "late")],
        "token entry",
        reference_verdict("three-terms-k-3-none-input", "entry"),
    ),
}

MINIATURE = Bench(
    "SAT in miniature",
    "PartScenes (20 novel classes, 600 test scenes) and the nano ViT (pretrained on 64 other classes), protocol "
    "`original`, threshold from the validation split. Percent, mean ± sample standard deviation over the runs. "
    "These are generated scenes and a tiny backbone: they show whether the method works, not how well it does on "
    "photographs.",
    _EXPERIMENTS,
)


def miniature(name: str | None) -> Bench:
    """The experiments on the scenes of that name; None for the default's."""
    return replace(MINIATURE, title=f"{MINIATURE.title}, {name} scenes") if name else MINIATURE
