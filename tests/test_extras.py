"""Without the extra `recipes`: what the method needs is there, and a command says what is missing."""

import configparser
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sat_peft import commands

ROOT = Path(__file__).parents[1]
# Of the extra, but also of torch and PEFT.
SHARED = {"jinja2", "pyyaml", "psutil"}
# What the packages of the extra bring along, and nothing else.
BROUGHT = {"pyarrow", "pandas", "fontTools", "kiwisolver", "multiprocess"}
# Of the tests; transformers takes it where it is found, and without scipy it cannot be imported.
BROKEN = {"sklearn"}
MODULES = {"pyyaml": "yaml"}


def extra(name: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return [Requirement(line).name for line in config["options.extras_require"][name].split("\n") if line]


METHOD = """
import numpy as np, peft, timm, torch
from PIL import Image
from sat_peft import Localizer, SatConfig, SatLoss, load_adapter, save_adapter, score_maps

vit = lambda: timm.create_model("sat_peft_vit_nano_patch8_96", pretrained=True, num_classes=0)
model = peft.get_peft_model(vit(), SatConfig(num_classes=3, num_spatial_blocks=2))
images, labels = torch.rand(2, 3, 96, 96), torch.tensor([0, 2])
SatLoss()(model(images), labels).total.backward()
save_adapter(model, "adapter")
again = load_adapter(vit(), "adapter")
maps = again(images).maps.detach().numpy()
assert 0 <= score_maps(maps, [[[10.0, 20.0, 150.0, 160.0]]] * 2, protocol="wsol").summary["gt_known"] <= 100
[found] = Localizer.from_pretrained("adapter")([Image.fromarray(np.zeros((40, 50, 3), np.uint8))])
print(len(found.boxes), found.masks().shape)
"""


@pytest.fixture(scope="module")
def slim(tmp_path_factory) -> Path:
    """A folder of packages as this environment has them, but for those of the extra."""
    folder = tmp_path_factory.mktemp("slim")
    absent = {MODULES.get(name, name) for name in set(extra("recipes")) - SHARED} | BROUGHT | BROKEN
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name not in absent and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def python(slim: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(slim)!r}]; "
    command = [sys.executable, "-S", "-c", paths + arguments[0], *arguments[1:]]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_method_does_without_it(slim, tmp_path):
    done = python(slim, METHOD, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "1"


def test_a_command_says_what_is_missing_and_what_to_do(slim, tmp_path):
    done = python(slim, "from sat_peft.__main__ import main; sys.exit(main())", "train", "few_shot", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: commands and recipes need tyro, datasets, evaluate,")
    assert done.stderr.endswith("not installed here: pip install 'sat_peft[recipes]'.\n")


def test_commands_look_for_every_package_of_the_extra():
    assert set(commands._NEEDED) == {MODULES.get(name, name) for name in extra("recipes")}
