"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from sat_peft.evaluation.figures import FIGURES, MAIN_FIGURES
from sat_peft.parameters import ParameterCount


def parameter_table(count: ParameterCount) -> str:
    """One line per trained component, then the sum and its share of the deployed model."""
    width = max(map(len, [*count.components, "trainable"]))
    lines = [f"  {name:<{width}}  {number:>12,}" for name, number in count.components.items()]
    lines.append(f"  {'trainable':<{width}}  {count.trainable:>12,}  ({count.share:.2f} % of {count.total:,})")
    return "\n".join(lines)


def method_table(methods: Mapping[str, Mapping[str, float | None]]) -> str:
    """One line per method with the figures in percent; figures that were not measured are shown as a dash."""
    width = max(map(len, methods))
    lines = [" " * (width + 2) + "".join(f"{FIGURES[name]:>14}" for name in MAIN_FIGURES)]
    for name, figures in methods.items():
        values = [figures.get(key) for key in MAIN_FIGURES]
        lines.append(f"  {name:<{width}}" + "".join(f"{'–' if v is None else f'{v:.1f}':>14}" for v in values))
    return "\n".join(lines)
