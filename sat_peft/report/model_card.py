"""The model card of an adapter: what it is, what it was trained on, what it reaches and under which protocol."""

from __future__ import annotations

from pathlib import Path

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from peft.utils import CONFIG_NAME

from sat_peft.errors import UsageError
from sat_peft.evaluation.figures import FIGURES
from sat_peft.files import check_values, is_file, read_json_object
from sat_peft.files.outputs import write_text_atomic
from sat_peft.files.paths import as_code
from sat_peft.options.choices import TTA_IN_WORDS, TtaName
from sat_peft.prediction.localizer import PROTOCOL
from sat_peft.runs.restore import read_adapter_config

CARD_NAME = "README.md"
TAGS = ["timm", "spatial-aware-token", "weakly-supervised-object-localization"]
# Key in results.json -> identifier of the metric on the hub.
METRICS = {"gt_known": "gt_known_loc", "top1_loc": "top1_loc", "top5_loc": "top5_loc", "top1_cls": "accuracy"}
_CLASSES_SHOWN = 20
# What is told of results.json.
_RESULTS = {
    "protocol": str,
    "threshold": float,
    "threshold_source": str,
    "tta": TtaName | None,
    "methods": dict[str, dict[str, float | None]],
    "training_images": int,
    "test_images": int | None,
}


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
    folder = Path(run_or_adapter)
    run = folder if is_file(folder / "adapter" / CONFIG_NAME) else None
    adapter = folder / "adapter" if run else folder
    if not is_file(adapter / CONFIG_NAME):
        raise UsageError(f"no adapter in {str(folder)!r}: {CONFIG_NAME} is missing. Name a run or an adapter folder.")
    config = read_adapter_config(adapter / CONFIG_NAME)
    settings = _read(run / "config.json", {}) if run else {}
    results = _read(run / "results.json", _RESULTS) if run else {}
    training_images = results.get("training_images", 0)
    title = f"SAT adapter for {_backbone_name(config) or 'a timm Vision Transformer'}"
    text = "\n\n".join(
        [
            f"# {title}",
            "An adapter of *Spatial-Aware Token* (SAT, ICCV 2023, https://arxiv.org/abs/2303.10438), trained with "
            "sat_peft. It classifies an image and localises its object, and was trained from image labels alone, "
            "without a box.",
            _adapter_section(config),
            _usage_section(config, results),
            *([_training_section(settings, training_images)] if settings else []),
            *([_results_section(settings, results)] if _figures(results) else []),
            _limits_section(results),
        ]
    )
    metadata = ModelCardData(
        base_model=_hub_id(config), library_name="peft", tags=TAGS, pipeline_tag="object-detection"
    )
    if _figures(results):
        metadata.model_name = title
        metadata.eval_results = _eval_results(settings, results)
    path = adapter / CARD_NAME
    write_text_atomic(path, f"---\n{metadata.to_yaml()}\n---\n\n{text}\n")
    return path


def push_to_hub(model: PeftModel, adapter: str | Path, repo_id: str, **arguments) -> str:
    """PEFT's `push_to_hub`, and then the model card: PEFT sends an empty one to a repository that has none.

    Later calls of `model.push_to_hub` alone keep the card that the repository has.

    Args:
        model: with the adapter.
        adapter: folder with the model card.
        repo_id: `user/name` on the hub.
        arguments: arguments of PEFT's `push_to_hub`, for example `private` or `token`.

    Returns:
        Where the adapter is.

    Raises:
        UsageError: no card in the folder.
    """
    card = Path(adapter) / CARD_NAME
    if not card.is_file():
        raise UsageError(f"no model card in {str(adapter)!r}; `write_model_card` writes it.")
    commit = model.push_to_hub(repo_id, **arguments)
    shared = {name: arguments[name] for name in ("token", "revision", "create_pr") if name in arguments}
    # A card is checked by the hub before it is taken, hence by the hub's own class and not as any file.
    ModelCard.load(card).push_to_hub(repo_id, commit_message="Upload model card", **shared)
    return str(commit)


def _read(file: Path, fields: dict) -> dict:
    """The object in a JSON file of the run, of which `fields` are of these types; empty where the run has none."""
    if not is_file(file):
        return {}
    values = read_json_object(file, "a record of a run")
    check_values(file, values, fields)
    if values.get("methods", {}).get("sat"):  # no figure is told without what it was measured by
        check_values(file, {name: values.get(name) for name in fields}, fields | {"training_images": int | None})
    return values


def _backbone_name(config: dict) -> str | None:
    backbone = config.get("backbone") or {}
    name, tag = backbone.get("name"), backbone.get("pretrained_tag")
    return f"{name}.{tag}" if name and tag else name


def _hub_id(config: dict) -> str | None:
    """Where the weights of the backbone are on the hub; None where timm does not fetch them from there."""
    name = _backbone_name(config)
    pretrained = timm.get_pretrained_cfg(name, allow_unregistered=True) if name else None
    hub_id = getattr(pretrained, "hf_hub_id", None)
    return f"{hub_id}{name}" if hub_id and hub_id.endswith("/") else hub_id


def _adapter_section(config: dict) -> str:
    backbone = config.get("backbone") or {}
    names = config.get("class_names")
    classes = f"{config.get('num_classes')} classes"
    if names:
        shown = ", ".join(as_code(name) for name in names[:_CLASSES_SHOWN])
        classes += f": {shown}{', …' if len(names) > _CLASSES_SHOWN else ''}"
    size = " x ".join(map(str, backbone["img_size"])) if backbone.get("img_size") else "any number of"
    return f"""## The adapter

- Backbone, frozen: `{_backbone_name(config)}` of timm, images of {size} pixels
- Spatial blocks: {config.get("num_spatial_blocks")}; tuned: `{config.get("tune")}`; head: `{config.get("head")}`
- {classes}"""


def _usage_section(config: dict, results: dict) -> str:
    # The adapter's own files have no place for the threshold that the run chose, and the augmentation behind it.
    chosen = f", threshold={results['threshold']:g}" if results.get("protocol") == PROTOCOL else ""
    if TTA_IN_WORDS[results.get("tta") or "none"]:
        chosen += f", tta={results['tta']!r}"
    return f"""## Use

```python
from sat_peft import Localizer

localizer = Localizer.from_pretrained("path/to/this/folder"{chosen})
[found] = localizer("photo.jpg")
found.label, found.score, found.box  # class, probability, (x0, y0, x1, y1) in pixels
```

As a PEFT model, for training on or for the maps alone:

```python
import timm
from sat_peft import load_adapter

model = load_adapter(timm.create_model("{_backbone_name(config)}", pretrained=True), "path/to/this/folder")
output = model(images)  # output.logits (B, C), output.maps (B, h, w) in (0, 1)
```"""


def _data_name(settings: dict) -> str:
    data = str(settings.get("data") or "unknown")
    # A local path tells nobody anything, and maybe more than it should.
    return Path(data).name or data


def _training_section(settings: dict, images: int) -> str:
    known = (
        *("shots", "seed", "epochs", "steps", "batch_size", "learning_rate", "weight_decay"),
        *("area_target", "area_weight", "normalization_weight"),
    )
    listed = [f"- {name}: {settings[name]}" for name in known if settings.get(name) is not None]
    count = f", {images:,} images with labels and without boxes" if images else ""
    return "\n".join(["## Training", "", f"- data: {_data_name(settings)}{count}", *listed])


def _figures(results: dict) -> dict[str, float]:
    figures = results.get("methods", {}).get("sat", {})
    return {name: figures[name] for name in METRICS if figures.get(name) is not None}


def _results_section(settings: dict, results: dict) -> str:
    rows = "\n".join(f"| {FIGURES[name]} | {value:.1f} |" for name, value in _figures(results).items())
    augmentation = TTA_IN_WORDS[results.get("tta") or "none"]
    augmented = f", {augmentation}" if augmentation else ""
    return f"""## Results

Test split of {_data_name(settings)}, {results.get("test_images")} images, percent, protocol `{results["protocol"]}`,
threshold {results["threshold"]:g} ({results["threshold_source"]}){augmented}.

| metric | value |
| --- | ---: |
{rows}

Localisation figures of other protocols do not compare with these."""


def _limits_section(results: dict) -> str:
    unmeasured = "" if _figures(results) else "- Nothing was measured: there are no figures for this adapter.\n"
    findings = (results.get("health") or {}).get("findings", [])
    found = "".join(f"- **Not to be trusted:** {each}\n" for each in findings)
    return f"""## Limits

{found}{unmeasured}- One class an image: in an image of several objects the boxes are of the predicted one.
- An image of none of the classes gets a class and a box all the same; the score is no probability that it is right.
- Boxes come from a map on the grid of patches, so small objects are localised coarsely.
- The licence is not stated here: it is for whoever publishes the adapter, and depends on the backbone and the data."""


def _eval_results(settings: dict, results: dict) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="object-detection",
            task_name="Weakly supervised object localisation",
            dataset_type=_data_name(settings),
            dataset_name=_data_name(settings),
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
