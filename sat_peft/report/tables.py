"""Tables as text: for the terminal, and in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from sat_peft.evaluation.figures import FIGURES, MAIN_FIGURES
from sat_peft.tuner.parameters import ParameterCount


def text_table(
    rows: Iterable[Sequence[str]], headers: Sequence[str] = (), *, titles: int = 1, markdown: bool = False
) -> str:
    """Aligned rows of text: the first `titles` columns to the left, the others, of numbers, to the right."""
    rows = [list(row) for row in rows]
    width = max(map(len, [headers, *rows]))
    alignment = ["left"] * titles + ["right"] * (width - titles)
    form = "pipe" if markdown else "plain"
    return tabulate(rows, headers, tablefmt=form, colalign=alignment, headersalign=alignment, disable_numparse=True)


def percent(value: float | None) -> str:
    """A percentage with one digit; a dash where it was not measured."""
    return "–" if value is None else f"{value:.1f}"


def setting(value: object) -> str:
    """A value of a configuration, as a person writes it: lists of texts and numbers without brackets."""
    if value is None:
        return "–"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(setting, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parameter_table(count: ParameterCount) -> str:
    """One line per trained component, then the sum and its share of the deployed model."""
    rows = [(name, f"{number:,}") for name, number in (count.components | {"trainable": count.trainable}).items()]
    return f"{text_table(rows)}  ({count.share:.2f} % of {count.total:,})"


def method_table(methods: Mapping[str, Mapping[str, float | None]]) -> str:
    """One line per method with the figures in percent; figures that were not measured are shown as a dash."""
    rows = [(name, *(percent(figures.get(key)) for key in MAIN_FIGURES)) for name, figures in methods.items()]
    return text_table(rows, ["", *(FIGURES[name] for name in MAIN_FIGURES)])
