"""What an evaluation can be asked for by name: a module of one of these folders is a choice of the command line.

The modules are not imported here, so that --help and a mistyped option answer at once.
"""

import pkgutil
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parents[1]


def _names(folder: str) -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules([str(_PACKAGE / folder)]))


BASELINE_NAMES = _names("evaluation/baselines")
BaselineName = Literal[BASELINE_NAMES]
# Test-time augmentation: what the maps and classes of an image are the mean over.
TtaName = Literal["none", "flip"]
ProtocolName = Literal[_names("localization/protocols")]
