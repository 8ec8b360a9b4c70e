"""The one measurement: any methods on the same images, under one protocol, with thresholds from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from accelerate import Accelerator
from peft import PeftModel
from torch.utils.data import DataLoader

from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import Evaluation, Method, evaluate, mirrored, refined, threshold_of_maps
from sat_peft.evaluation.figures import CLASSIFICATION, MAIN_FIGURES
from sat_peft.evaluation.registry import baselines, method_titles
from sat_peft.localization import Protocol, choose_threshold, get_protocol

logger = logging.getLogger(__name__)

# Resamples of the images behind the confidence intervals.
BOOTSTRAP = 1000


@dataclass(frozen=True)
class Measured:
    """What one method reached under one protocol.

    Args:
        title: title of the method, in tables.
        figures: in percent, by name; None where not measured.
        evaluation: where the figures are from; None for what has no maps.
        side: side of a box that stands in the middle of every image, as a share of the image's sides.
    """

    title: str
    figures: dict[str, float | None]
    evaluation: Evaluation | None = None
    side: float | None = None

    @classmethod
    def of(cls, title: str, evaluation: Evaluation) -> Measured:
        """The main figures of an evaluation; of images without true boxes those of classification."""
        summary, known = evaluation.result.summary, evaluation.num_with_boxes > 0
        return cls(title, {n: summary[n] if known or n in CLASSIFICATION else None for n in MAIN_FIGURES}, evaluation)

    def entry(self) -> dict:
        """What results.json and the report tell of the method, apart from its curves.

        MaxBoxAcc takes the best threshold of the evaluated images, so it is told under no protocol but the one that is
        defined by it.
        """
        if self.evaluation is None:
            unknown = {"threshold": None, "threshold_source": None, "confidence_intervals": {}}
            return {"title": self.title, "summary": dict(self.figures)} | unknown
        entry = self.evaluation.result.to_dict()
        del entry["per_threshold"]
        box_free = self.evaluation.num_with_boxes == 0
        by_definition = entry["summary"]["max_box_acc_v2"] is not None
        for part in ("summary", "confidence_intervals"):
            entry[part] = {
                figure: value
                for figure, value in entry[part].items()
                if (figure in CLASSIFICATION or not box_free) and (figure != "max_box_acc" or by_definition)
            }
        return {"title": self.title} | entry


@dataclass(frozen=True)
class MeasuredLoaders:
    """Evaluation loaders for one protocol, prepared by Accelerate.

    Args:
        test: loader of the images that are measured; they choose nothing.
        held_out: loader of other images with boxes, which choose thresholds; None where there are none.
        unlabelled: loader of other images, whose maps suggest a threshold where no boxes choose it.
    """

    test: DataLoader
    held_out: DataLoader | None = None
    unlabelled: DataLoader | None = None


def threshold_source(
    asked: str | None, *, threshold: float | None, held_out: object | None, otherwise: str = "unsupervised"
) -> str:
    """Where thresholds come from: as asked, else the given one, else held-out boxes, else `otherwise`.

    Raises:
        UsageError: validation boxes are asked for, and there are none.
    """
    source = asked or ("fixed" if threshold is not None else "validation" if held_out is not None else otherwise)
    if source == "validation" and held_out is None:
        raise UsageError(
            "--threshold-source validation needs a validation split with boxes that is not the evaluated split. "
            "Take `fixed`, or `unsupervised`, which needs no boxes."
        )
    return source


def measure(
    methods: Iterable[tuple[str, Method]],
    loaders: MeasuredLoaders,
    accelerator: Accelerator,
    *,
    protocol: str | Protocol,
    source: str | None = None,
    threshold: float | None = None,
    priors: Collection[str] = (),
    bootstrap: int = BOOTSTRAP,
    tta: str = "none",
    augment: Callable[[Method], Method] | None = None,
    see: Callable[..., None] | None = None,
) -> dict[str, Measured]:
    """Measures methods on the images of `loaders.test`; every process returns the same figures.

    Args:
        methods: name and method. They are taken one after the other, each measured before the next is asked for, so
            that a generator may take an adapter out of the model between them.
        loaders: loaders of the protocol.
        accelerator: `Accelerator` of the run.
        protocol: name or `Protocol`.
        source: `fixed`, `validation`, `unsupervised` or `oracle`; see `threshold_source` for the default.
        threshold: threshold of the maps of every method, for `fixed`; by default the protocol's own.
        priors: names of baselines of which those without maps are measured, with the classes of SAT and where a
            held-out split chooses their boxes.
        bootstrap: resamples behind the confidence intervals, which the main process alone computes.
        tta: test-time augmentation of every method, on whatever images, of `TtaName`.
        augment: wraps a method where `loaders.test` has several views of an image (`ten_crop`).
        see: sees the maps of `loaders.test`, as `evaluate` has it.

    Returns:
        What was measured by name, in the order of the methods; baselines without maps come last.
    """
    protocol, titles = get_protocol(protocol), method_titles()
    source = threshold_source(source, threshold=threshold, held_out=loaders.held_out)
    priors = {name: baselines()[name] for name in priors if baselines()[name].prior}
    measured, boxes = {}, {}
    for name, method in methods:
        logger.info(f"evaluating {titles.get(name, name)} under protocol {protocol.name}")
        method = augmented(method, tta)
        held_out = None
        if loaders.held_out is not None and (source == "validation" or (name == "sat" and priors)):
            held_out = evaluate(method, loaders.held_out, accelerator, protocol=protocol)
        if source == "validation":
            chosen = choose_threshold("validation", scores=held_out.result)
        elif source == "unsupervised":
            chosen = threshold_of_maps(method, loaders.unlabelled, accelerator, protocol)
        else:
            fixed = source == "fixed"
            chosen = choose_threshold("fixed", value=threshold, protocol=protocol) if fixed else "oracle"
        evaluation = evaluate(
            augment(method) if augment else method,
            loaders.test,
            accelerator,
            protocol=protocol,
            threshold=chosen,
            bootstrap=bootstrap if accelerator.is_main_process else 0,
            see=see,
        )
        measured[name] = Measured.of(titles.get(name, name), evaluation)
        for prior, baseline in priors.items() if name == "sat" else ():
            if held_out is None:
                logger.info(f"{baseline.title}: left out, since validation boxes that are not evaluated choose it")
            elif held_out.num_with_boxes and evaluation.num_with_boxes:
                boxes[prior] = baseline.prior(held_out.images, evaluation.images, protocol)
    return measured | boxes


def augmented(method: Method, tta: str) -> Method:
    """`method` with the test-time augmentation `tta`, of `TtaName`."""
    steps = tta.split("-")
    method = mirrored(method) if "flip" in steps else method
    return refined(method) if "edges" in steps else method


def sat_method(model: PeftModel, *, block_maps: bool = False) -> Method:
    """A model with a SAT adapter, as the evaluator takes it; for the gallery with its block maps."""

    def localize(images, labels):
        output = model(images)
        found = output.logits, output.maps_of(labels)
        return (*found, output.block_maps) if block_maps else found

    return localize
