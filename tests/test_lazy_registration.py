"""Importing the package costs little and registers with PEFT and timm, whichever of them is imported first."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REGISTERED = (
    "import timm\n"
    "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING\n"
    "assert 'SAT' in PEFT_TYPE_TO_CONFIG_MAPPING\n"
    "assert timm.is_model('sat_peft_vit_nano_patch8_96')\n"
)


def run(code: str) -> None:
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr


def test_options_are_imported_without_heavy_libraries():
    run(
        "import sys, sat_peft\n"
        "from sat_peft.data.options import DataOptions\n"
        "heavy = {'torch', 'timm', 'peft', 'datasets', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'SatConfig', 'localize'} <= set(dir(sat_peft))"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", ["import sat_peft", "import peft, timm, sat_peft", "import sat_peft, peft.utils", "from sat_peft import *"]
)
def test_both_libraries_know_the_package_whatever_is_imported_first(first):
    run(f"{first}\n{REGISTERED}")


def test_unknown_name_is_an_attribute_error():
    import sat_peft

    with pytest.raises(AttributeError, match="has no attribute 'SatConfg'"):
        sat_peft.SatConfg  # noqa: B018


def test_every_public_name_can_be_imported():
    import sat_peft

    assert all(getattr(sat_peft, name) is not None for name in sat_peft.__all__)
