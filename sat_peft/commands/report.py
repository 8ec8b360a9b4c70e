"""Draws the report of a run again: one self-contained HTML file, from the run folder alone.

sat-peft report runs/NAME
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

INTERRUPTED = "a report that was there is as it was"


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Path]
    """Run folder, or a folder that `sat-peft evaluate` wrote."""
    output: Path | None = None
    """HTML file; by default report.html in that folder."""


def main(config: Config) -> None:
    from sat_peft.report.page import write_report

    print(f"Written to {write_report(config.run, config.output)}")
