"""What importing the package does, and what it does not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sat_peft


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_it_imports_nothing_heavy():
    heavy = ["torch", "timm", "peft", "transformers", "datasets", "numpy", "cv2"]
    assert python(f"import sys, sat_peft; print([name for name in {heavy} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("imports", ["import sat_peft, timm", "import timm, sat_peft"])
def test_timm_knows_the_embedded_backbone_whichever_is_imported_first(imports):
    assert python(f"{imports}; print(timm.is_model('sat_peft_vit_nano_patch8_96'))") == "True"


@pytest.mark.parametrize("imports", ["import sat_peft, peft", "import peft, sat_peft"])
def test_peft_knows_the_method_whichever_is_imported_first(imports):
    assert python(f"{imports}; print(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING['SAT'].__name__)") == "SatConfig"


def test_every_public_name_is_there_and_listed():
    assert all(getattr(sat_peft, name) is not None for name in sat_peft.__all__)
    assert set(sat_peft.__all__) <= set(dir(sat_peft))


def test_a_name_that_it_lacks_is_named():
    with pytest.raises(AttributeError, match=r"sat_peft attribute Sat$"):
        _ = sat_peft.Sat


def test_the_version_is_the_same_wherever_it_stands():
    root = Path(__file__).parents[1]
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    changed = re.search(r"^## (\S+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE).group(1)
    assert sat_peft.__version__ == cited == changed
