"""Baselines with the interface that the evaluator expects of every method (`sat_peft.evaluator.Method`).

They read the same frozen backbone as SAT and are trained, where they are, on the same images and steps. The centre
box needs no model; it is in `sat_peft.evaluator`.
"""

from collections.abc import Callable, Iterable, Mapping

from sat_peft.baselines.attention_maps import record_attention
from sat_peft.baselines.cam import LinearCam
from sat_peft.baselines.frozen import FrozenBackboneClassifier, Summaries, load_trained, save_trained
from sat_peft.baselines.rollout import AttentionRollout, rollout
from sat_peft.baselines.tscam import TsCam

__all__ = [
    "BASELINES",
    "TRAINED_BASELINES",
    "AttentionRollout",
    "FrozenBackboneClassifier",
    "LinearCam",
    "Summaries",
    "TsCam",
    "load_trained",
    "localizers",
    "needed_classifiers",
    "record_attention",
    "rollout",
    "save_trained",
]

# Baselines that are trained and saved, by the name that options, results and files use.
TRAINED_BASELINES: dict[str, type[FrozenBackboneClassifier]] = {"cam": LinearCam, "tscam": TsCam}
# Names of all baselines, and how tables call them.
BASELINES = {"cam": "CAM", "tscam": "TS-CAM", "rollout": "attention rollout", "centre_box": "centre box"}


def needed_classifiers(names: Iterable[str]) -> list[str]:
    """Names of the trained baselines that `names` need: rollout has no classes of its own and takes those of CAM."""
    names = set(names)
    return [name for name in TRAINED_BASELINES if name in names or (name == "cam" and "rollout" in names)]


def localizers(names: Iterable[str], trained: Mapping[str, FrozenBackboneClassifier]) -> dict[str, Callable]:
    """The methods called `names`, without the centre box, each as the evaluator takes it.

    Args:
        names: of baselines.
        trained: the modules of `needed_classifiers(names)`, by name.
    """
    return {
        name: AttentionRollout(trained["cam"]).localize if name == "rollout" else trained[name].localize
        for name in BASELINES
        if name in set(names) - {"centre_box"}
    }
