"""Baselines with the interface that the evaluator expects of every method (`sat_peft.evaluator.Method`).

They read the same frozen backbone as SAT and are trained, where they are, on the same images and steps. The centre
box needs no model; it is in `sat_peft.evaluator`.
"""

from sat_peft.baselines.attention_maps import record_attention
from sat_peft.baselines.cam import LinearCam
from sat_peft.baselines.frozen import FrozenBackboneClassifier, load_trained, save_trained
from sat_peft.baselines.rollout import AttentionRollout, rollout
from sat_peft.baselines.tscam import TsCam

__all__ = [
    "TRAINED_BASELINES",
    "AttentionRollout",
    "FrozenBackboneClassifier",
    "LinearCam",
    "TsCam",
    "load_trained",
    "record_attention",
    "rollout",
    "save_trained",
]

# Baselines that are trained and saved, by the name that options, results and files use.
TRAINED_BASELINES: dict[str, type[FrozenBackboneClassifier]] = {"cam": LinearCam, "tscam": TsCam}
