"""Reads a data set end to end and says whether training may start: run it first on your own images.

    sat-peft check-data --data DIR
    sat-peft check-data --data cub --data-root CUB_200_2011 --output checks/cub

Takes the flags of the data that the recipes take, and judges what they would read: with --skip-bad, what they would
leave out does not stop training. Writes report.json and contact_sheet.png, a picture of images with their boxes: look
at it, since a wrong box format is seen at once. Exits with 0 where training may start, 1 where something found stops
it, 2 for a wrong option or data that cannot be found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sat_peft.data.options import DataOptions, data_options, open_data
from sat_peft.errors import UsageError

INTERRUPTED = "no report was written"


@dataclass(frozen=True)
class Config(DataOptions):
    output: Path | None = None
    """Where the report is written; by default a new folder below runs/."""
    overwrite: bool = False
    """Replace a report in the output folder."""
    allow_duplicates: bool = False
    """Images that are in two splits are told, but do not stop training: for public benchmarks that have some."""
    workers: int | None = None
    """Threads that read images; by default one for every core."""


FILES = ("report.json", "contact_sheet.png")


def main(config: Config) -> int:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from sat_peft.data.check import SKIPPED_KINDS, check_data
    from sat_peft.files.outputs import check_writable, remove, write_json_atomic
    from sat_peft.report.data_check import data_check_text, draw_contact_sheet

    output = config.output or Path("runs", f"check_data-{datetime.now():%Y%m%d-%H%M%S}")
    check_writable(output)
    report, sheet = (output / name for name in FILES)
    if report.exists() and not config.overwrite:
        raise UsageError(
            f"the folder {str(output)!r} holds a report. Name another with --output, or replace it with --overwrite."
        )
    options = data_options(config)
    check = check_data(
        open_data(options).read,
        workers=config.workers,
        tolerated=(SKIPPED_KINDS if options.skip_bad else ()) + (("leak",) if config.allow_duplicates else ()),
        test_fraction=options.test_fraction,
        progress=True,
    )
    print(data_check_text(check))
    output.mkdir(parents=True, exist_ok=True)
    # The mark of a whole report goes first and comes last.
    for file in (report, sheet):
        remove(file)
    if check.splits:
        draw_contact_sheet(sheet, check)
        print(f"\nLook at the boxes: {sheet}")
    write_json_atomic(report, {"options": asdict(options), **check.summary()})
    print(f"\nAll findings: {report}")
    return 0 if check.ok else 1
