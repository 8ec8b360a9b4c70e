"""The registry of baselines. They read the frozen backbone that SAT reads, on the same images and steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from sat_peft.options.choices import BASELINE_NAMES

if TYPE_CHECKING:
    import torch

    from sat_peft.evaluation.attention_maps import AttentionRead
    from sat_peft.evaluation.evaluator import EvaluatedImage, Method
    from sat_peft.evaluation.frozen import FrozenBackboneClassifier
    from sat_peft.evaluation.measure import Measured
    from sat_peft.localization import Protocol


@dataclass(frozen=True)
class Baseline:
    """What SAT is measured beside; it has a `localizer` or a `prior`.

    Args:
        title: in tables.
        localizer: the method, as the evaluator takes it, of a trained classifier.
        classifier: class of that classifier, which is trained and saved under the name of the baseline.
        classes_of: name of the baseline whose trained classifier it is, where that is another.
        learning_rate: learning rate of the training; by default that of SAT.
        reads: what it reads of the attention, if it does.
        prior: measures boxes that no map is read for, given images that may choose them, the evaluated images, and
            the protocol of both.
    """

    title: str
    localizer: Callable[[FrozenBackboneClassifier], Method] | None = None
    classifier: Callable[..., FrozenBackboneClassifier] | None = None
    classes_of: str | None = None
    learning_rate: float | None = None
    reads: AttentionRead | None = None
    prior: Callable[[Collection[EvaluatedImage], Collection[EvaluatedImage], Protocol], Measured] | None = None


@cache
def baselines() -> dict[str, Baseline]:
    """All baselines by name, those without maps last."""
    found = {name: import_module(f"sat_peft.evaluation.baselines.{name}").BASELINE for name in BASELINE_NAMES}
    return dict(sorted(found.items(), key=lambda entry: entry[1].localizer is None))


def attention_baseline(title: str, read: AttentionRead) -> Baseline:
    """The baseline whose maps are what `read` makes of the attention, whatever the class; its classes are CAM's."""

    def localizer(classifier: FrozenBackboneClassifier) -> Method:
        def localize(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            tokens, maps = classifier.tokens_and_attention(images, read)
            return classifier.classify(classifier.summary(tokens)), maps

        return localize

    return Baseline(title, localizer, classes_of="cam", reads=read)


def method_titles() -> dict[str, str]:
    """How tables call every method, by the name that options, results and files use."""
    return {"sat": "SAT"} | {name: baseline.title for name, baseline in baselines().items()}


def needed_classifiers(names: Iterable[str]) -> list[str]:
    """Names of the baselines whose trained classifiers `names` need."""
    needed = {baselines()[name].classes_of or name for name in names}
    return [name for name, baseline in baselines().items() if name in needed and baseline.classifier]


def localizers(names: Collection[str], trained: Mapping[str, FrozenBackboneClassifier]) -> Iterator[tuple[str, Method]]:
    """Name and method of every baseline of `names` that has maps.

    Args:
        names: names of baselines.
        trained: the modules of `needed_classifiers(names)`, by name.
    """
    for name, baseline in baselines().items():
        if name in names and baseline.localizer:
            yield name, baseline.localizer(trained[baseline.classes_of or name])


@contextmanager
def shared_passes(names: Collection[str]) -> Iterator[None]:
    """Within it, the baselines of `names` that have maps pass an image through their backbone once."""
    from sat_peft.evaluation.frozen import keep_passes

    chosen = [baseline for name, baseline in baselines().items() if name in names and baseline.localizer]
    if len(chosen) < 2:  # attention that nobody shares would be read for nothing
        yield
        return
    with keep_passes([baseline.reads for baseline in chosen if baseline.reads]):
        yield
