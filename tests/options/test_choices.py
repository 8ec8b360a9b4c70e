"""The names that options take, held against what carries them out."""

import typing
from dataclasses import fields

import pytest
import torch

from sat_peft.backbones import DataConfig
from sat_peft.commands import count, evaluate, predict, run
from sat_peft.data.scenes import DIFFICULTIES
from sat_peft.data.transforms import training_transform
from sat_peft.data.writing import writers
from sat_peft.evaluation.registry import baselines
from sat_peft.localization import PROTOCOLS, thresholds
from sat_peft.options import choices
from sat_peft.options.presets import PRESETS
from sat_peft.options.regimes import REGIMES
from sat_peft.recipes import few_shot, full_data, low_param
from sat_peft.training.loop import create_scheduler
from sat_peft.tuner import heads, readout

KINDS = [
    count.Config,
    evaluate.Config,
    predict.Config,
    run.Config,
    *(r.Config for r in (few_shot, full_data, low_param)),
]
CARRIED_OUT = {
    "BaselineName": set(baselines()),
    "ProtocolName": set(PROTOCOLS),
    "FormatName": set(writers()),
    "DifficultyName": set(DIFFICULTIES),
    "ThresholdSource": set(thresholds._SOURCES),
    "HeadName": set(heads.HEAD_CLASSES),
    "ClassEvidence": set(readout.EVIDENCE_GAINS),
}


@pytest.mark.parametrize("name", CARRIED_OUT)
def test_every_name_is_carried_out_and_every_other_unknown(name):
    assert set(typing.get_args(getattr(choices, name))) == CARRIED_OUT[name]


@pytest.mark.parametrize("name", typing.get_args(choices.AugmentationName))
def test_every_augmentation_makes_an_input(name):
    config = DataConfig((32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear")
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    assert training_transform(config, name)(image).shape == (3, 32, 32)


@pytest.mark.parametrize("name", typing.get_args(choices.ScheduleName))
def test_every_schedule_rises_to_the_learning_rate_and_never_above_it(name):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = create_scheduler(optimizer, name, steps=4, warmup_steps=1)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(4):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates[0] == 0
    assert max(rates) == rates[1] == 1


def literals(hint: object) -> list:
    """The `Literal`s in an annotation."""
    if typing.get_origin(hint) is typing.Literal:
        return [hint]
    return [found for argument in typing.get_args(hint) for found in literals(argument)]


def test_an_option_of_the_same_name_has_the_same_choices_everywhere():
    seen: dict[str, tuple] = {}
    for kind in KINDS:
        hints = typing.get_type_hints(kind)
        for field in fields(kind):
            # `preset` names those of a recipe; the `split` of a command is its own.
            if field.name in ("preset", "split"):
                continue
            found = tuple(sorted(str(each) for each in literals(hints[field.name])))
            assert seen.setdefault(field.name, found) == found, (kind, field.name)
    assert len(seen) > 50


@pytest.mark.parametrize("recipe", [few_shot, full_data, low_param])
def test_presets_of_a_recipe_are_those_of_its_table(recipe):
    name = recipe.__name__.split(".")[-1]
    assert typing.get_args(recipe.PresetName) == tuple(PRESETS[name])
    known = typing.get_type_hints(recipe.Config)
    for settings in [*PRESETS[name].values(), *(REGIMES.values() if recipe is low_param else ())]:
        for option, value in settings.items():
            assert option in known
            for choice in literals(known[option]):
                values = value if isinstance(value, tuple) else (value,)
                assert set(values) <= set(typing.get_args(choice)) | {None}, (option, value)
