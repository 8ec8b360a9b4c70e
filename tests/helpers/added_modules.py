"""A copy of the package with further modules, as somebody would have it who adds a baseline or a format."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import sat_peft


def run_with_modules(folder: Path, modules: Mapping[str, str], code: str) -> list[str]:
    """The lines that `code` prints where the package has further modules, given as texts by their paths in it."""
    package = shutil.copytree(
        Path(sat_peft.__file__).parent, folder / "sat_peft", ignore=lambda folder, names: {"recipes", "__pycache__"}
    )
    for path, text in modules.items():
        (package / path).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()
