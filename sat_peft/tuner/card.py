"""The model card of an adapter, one text for every way that an adapter is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
from huggingface_hub import EvalResult, ModelCardData

from sat_peft.files.paths import as_code

CARD_NAME = "README.md"
_TAGS = ["timm", "spatial-aware-token", "weakly-supervised-object-localization"]
_CLASSES_SHOWN = 20
# The title of the form that PEFT takes from huggingface_hub where there is no card.
_FORM = "# Model Card for Model ID"

_TEXT = """---
{metadata}
---

# {title}

An adapter of *Spatial-Aware Token* (SAT, ICCV 2023, https://arxiv.org/abs/2303.10438), trained with sat_peft. It
classifies an image and localises its object, and was trained from image labels alone, without a box.

## The adapter

- Backbone, frozen: `{backbone}` of timm, images of {size} pixels
- Spatial blocks: the last {num_spatial_blocks}; the spatial token enters: `{token_entry}`
- Tuned: {tuned}; head: `{head}`{head_trained}
- {classes}

## Use

```python
from sat_peft import Localizer

localizer = Localizer.from_pretrained("path/to/this/folder"{arguments})
[found] = localizer("photo.jpg")
found.label, found.score, found.box  # class, probability, (x0, y0, x1, y1) in pixels
```

As a PEFT model, for training on or for the maps alone (`PeftModel.from_pretrained` works too, after `import sat_peft`):

```python
import timm
from sat_peft import load_adapter

model = load_adapter(timm.create_model("{backbone}", pretrained=True), "path/to/this/folder")
output = model(images)  # output.logits (B, C), output.maps (B, h, w) in (0, 1)
```

{sections}## Limits

{limits}- One class an image: in an image of several objects the boxes are of the predicted one.
- An image of none of the classes gets a class and a box all the same; the score is no probability that it is right.
- Boxes come from a map on the grid of patches, so small objects are localised coarsely.
- The licence is not stated here: it is for whoever publishes the adapter, and depends on the backbone and the data.
"""


def adapter_card(
    config: Mapping,
    *,
    arguments: str = "",
    sections: Sequence[str] = (),
    limits: Sequence[str] = ("Nothing was measured: there are no figures for this adapter.",),
    eval_results: list[EvalResult] | None = None,
) -> str:
    """The README.md of an adapter. Its metadata are those of the Hugging Face hub.

    Args:
        config: fields of the adapter's configuration.
        arguments: further arguments of `Localizer.from_pretrained`, from a comma on.
        sections: Markdown sections about the training and its results.
        limits: what is to be told of this adapter before the limits of all of them.
        eval_results: figures.
    """
    backbone, names = config.get("backbone") or {}, config.get("class_names")
    classes = f"{config.get('num_classes')} classes"
    if names:
        shown = ", ".join(as_code(name) for name in names[:_CLASSES_SHOWN])
        classes += f": {shown}{', …' if len(names) > _CLASSES_SHOWN else ''}"
    tuned = "nothing"
    if config.get("tune") != "none":
        tuned_blocks = config.get("num_tuned_blocks") or config.get("num_spatial_blocks")
        tuned = f"`{config.get('tune')}` in the last {tuned_blocks} blocks"
    name = backbone_name(backbone)
    title = f"SAT adapter for {name or 'a timm Vision Transformer'}"
    metadata = ModelCardData(
        base_model=hub_id(backbone), library_name="peft", tags=_TAGS, pipeline_tag="object-detection"
    )
    if eval_results:
        metadata.model_name, metadata.eval_results = title, eval_results
    return _TEXT.format(
        metadata=metadata.to_yaml(),
        title=title,
        backbone=name or "…",
        size=" x ".join(map(str, backbone["img_size"])) if backbone.get("img_size") else "any number of",
        num_spatial_blocks=config.get("num_spatial_blocks"),
        token_entry=config.get("token_entry"),
        tuned=tuned,
        head=config.get("head"),
        head_trained="" if config.get("train_head", True) else ", not trained",
        classes=classes,
        arguments=arguments,
        sections="".join(f"{section}\n\n" for section in sections),
        limits="".join(f"- {each}\n" for each in limits),
    )


def write_card(folder: Path, config: Mapping) -> None:
    """Writes the card of an adapter into its folder, unless there is one that somebody wrote.

    Args:
        folder: folder of the adapter.
        config: fields of its configuration.
    """
    card = folder / CARD_NAME
    if not card.exists() or _FORM in card.read_text(encoding="utf-8", errors="replace"):
        card.write_text(adapter_card(config), encoding="utf-8")


def backbone_name(record: Mapping) -> str | None:
    """The timm name, with its tag, in the record that an adapter keeps of its backbone."""
    name, tag = record.get("name"), record.get("pretrained_tag")
    return f"{name}.{tag}" if name and tag else name


def hub_id(record: Mapping) -> str | None:
    """Where the weights of a recorded backbone are on the hub; None where timm does not fetch them from there."""
    name = backbone_name(record)
    pretrained = timm.get_pretrained_cfg(name, allow_unregistered=True) if name else None
    found = getattr(pretrained, "hf_hub_id", None)
    return f"{found}{name}" if found and found.endswith("/") else found
