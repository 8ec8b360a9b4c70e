"""Commands that are killed at the moments at which they change files; scripts/survival.py runs the long campaign."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_the_same_command_again_leaves_what_an_undisturbed_one_does():
    command = [sys.executable, ROOT / "scripts" / "survival.py", "--sample", "1", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| 1 | 0 |") == 5
