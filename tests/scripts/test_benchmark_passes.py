"""The benchmark of shared passes as it is called."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tells_what_sharing_is_worth():
    options = ["--backbone", "test_vit", "--image-size", "32", "--images", "3", "--batch-size", "2"]
    options += ["--rounds", "1", "--threads", "1"]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_passes.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(several passes|baselines) +[\d.]+ s .*: ([\d.]+) times as fast$", done.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == ["several passes", "baselines"]
    assert all(float(ratio) > 0 for _, ratio in rows)
