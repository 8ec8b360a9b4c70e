"""Draws the report of a run again: one self-contained HTML file, from the run folder alone.

python -m sat_peft.report runs/NAME
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from sat_peft.errors import UsageError


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Path]
    """Run folder, or a folder that recipes/evaluate.py wrote."""
    output: Path | None = None
    """HTML file; by default report.html in that folder."""


def main(config: Config) -> None:
    from sat_peft.report.page import write_report

    print(f"Written to {write_report(config.run, config.output)}")


if __name__ == "__main__":
    options = tyro.cli(Config, prog="python -m sat_peft.report", description=__doc__)
    try:
        main(options)
    except UsageError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
