"""The model card of an adapter: what it is, what it was trained on, what it reaches and under which protocol."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult
from peft.utils import CONFIG_NAME

from sat_peft.errors import UsageError
from sat_peft.evaluation.figures import FIGURES
from sat_peft.files import check_values, is_file
from sat_peft.files.outputs import write_text_atomic
from sat_peft.options.choices import TTA_IN_WORDS
from sat_peft.prediction.found import PROTOCOL
from sat_peft.report.tables import setting
from sat_peft.runs.reader import RunReader
from sat_peft.runs.restore import read_adapter_config
from sat_peft.tuner.card import CARD_NAME, adapter_card

# Key in results.json -> identifier of the metric on the hub.
METRICS = {"gt_known": "gt_known_loc", "top1_loc": "top1_loc", "top5_loc": "top5_loc", "top1_cls": "accuracy"}


def write_model_card(run_or_adapter: str | Path) -> Path:
    """Writes README.md into the adapter folder, in place of the card that `save_adapter` left there.

    For a run folder, call it once results.json is written: the card then tells training data, settings and figures.
    For an adapter folder alone it tells what the adapter records. The metadata are those of the Hugging Face hub:
    base model, library, tags, figures with their protocol. The licence is left to whoever publishes the adapter. Of
    local data only the folder's name is told, not its path.

    Returns:
        The card.

    Raises:
        UsageError: no adapter there.
    """
    run = RunReader(run_or_adapter)
    adapter = run.adapter if run.has_adapter else run.folder
    if not is_file(adapter / CONFIG_NAME):
        raise UsageError(
            f"no adapter in {str(run.folder)!r}: {CONFIG_NAME} is missing. Name a run or an adapter folder."
        )
    config = read_adapter_config(adapter / CONFIG_NAME)
    settings, results = {}, {}
    if run.has_adapter:
        settings, results = run.json("config.json", "the configuration of a run"), run.results()
    if _figures(results):  # no figure is told without what it was measured by
        measured = {"protocol": str, "threshold": float, "threshold_source": str}
        check_values(run.folder / "results.json", dict.fromkeys(measured) | results, measured)
    training_images = results.get("training_images", 0)
    figures = _figures(results)
    findings = (results.get("health") or {}).get("findings", [])
    limits = [f"**Not to be trusted:** {each}" for each in findings]
    if not figures:
        limits.append("Nothing was measured: there are no figures for this adapter.")
    text = adapter_card(
        config,
        arguments=_arguments(results),
        sections=[
            *([_training_section(settings, training_images)] if settings else []),
            *([_results_section(settings, results)] if figures else []),
        ],
        limits=limits,
        eval_results=_eval_results(settings, results) if figures else None,
    )
    path = adapter / CARD_NAME
    write_text_atomic(path, text)
    return path


def _arguments(results: dict) -> str:
    """The threshold that the run chose and the augmentation behind it, which an adapter's own files do not hold."""
    chosen = f", threshold={results['threshold']:g}" if results.get("protocol") == PROTOCOL else ""
    if TTA_IN_WORDS[results.get("tta") or "none"]:
        chosen += f", tta={results['tta']!r}"
    return chosen


def _data_name(settings: dict) -> str:
    data = str(settings.get("data") or "unknown")
    # A local path tells nobody anything, and maybe more than it should.
    return Path(data).name or data


def _data_title(settings: dict) -> str:
    """The data's name and which scenes they are, since figures on others do not compare with these."""
    scenes = {"difficulty": "{}", "scene_seed": "seed {}"}
    chosen = (text.format(settings[name]) for name, text in scenes.items() if settings.get(name))
    return ", ".join([_data_name(settings), *chosen])


def _training_section(settings: dict, images: int) -> str:
    known = (
        *("shots", "seed", "epochs", "steps", "batch_size", "learning_rate", "weight_decay"),
        *("area_target", "area_weight", "normalization_weight"),
    )
    listed = [f"- {name}: {setting(settings[name])}" for name in known if settings.get(name) is not None]
    count = f", {images:,} images with labels and without boxes" if images else ""
    return "\n".join(["## Training", "", f"- data: {_data_title(settings)}{count}", *listed])


def _figures(results: dict) -> dict[str, float]:
    figures = results.get("methods", {}).get("sat", {})
    return {name: figures[name] for name in METRICS if figures.get(name) is not None}


def _results_section(settings: dict, results: dict) -> str:
    rows = "\n".join(f"| {FIGURES[name]} | {value:.1f} |" for name, value in _figures(results).items())
    augmentation = TTA_IN_WORDS[results.get("tta") or "none"]
    augmented = f", {augmentation}" if augmentation else ""
    standing = f"{results['standing']}\n\n" if results.get("standing") else ""
    return f"""## Results

Test split of {_data_title(settings)}, {results.get("test_images")} images, percent, protocol `{results["protocol"]}`,
threshold {results["threshold"]:g} ({results["threshold_source"]}){augmented}.

| metric | value |
| --- | ---: |
{rows}

{standing}Localisation figures of other protocols do not compare with these."""


def _eval_results(settings: dict, results: dict) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="object-detection",
            task_name="Weakly supervised object localisation",
            dataset_type=_data_name(settings),
            dataset_name=_data_title(settings),
            dataset_split="test",
            metric_type=METRICS[name],
            metric_name=FIGURES[name],
            metric_value=round(value, 2),
            metric_args={
                "protocol": results["protocol"],
                "threshold": results["threshold"],
                "threshold_source": results["threshold_source"],
            },
        )
        for name, value in _figures(results).items()
    ]
