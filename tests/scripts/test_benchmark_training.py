"""The training benchmark as it is called: a table of regimes, memory in processes of their own, and its mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["--backbone", "test_vit", "--image-size", "32", "--num-classes", "3", "--batch-size", "2"]
TINY += ["--num-spatial-blocks", "2", "--steps", "1", "--threads", "1"]


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_training.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_regimes_are_compared_with_the_first_of_them():
    done = benchmark(*TINY, "--regimes", "plain", "last_blocks_cached", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["baseline"] == "plain"
    assert found["settings"]["threads"] == 1
    assert list(found["regimes"]) == ["plain", "last_blocks_cached"]
    for row in found["regimes"].values():
        assert row["images_per_second"] > 0
        assert row["processor_seconds"] > 0
        assert row["megabytes"] > 1  # weights, gradients and moments alone
    for ratio in ("speed_ratio", "processor_ratio", "memory_ratio"):
        assert found["regimes"]["plain"][ratio] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--regimes", "last_block_late"], "unknown regime 'last_block_late'. Did you mean 'last_blocks_late'"),
        (["--reference", "nowhere"], "unknown backbone of the published code 'test_vit'"),
        (["--grow", "--reference", "nowhere"], "leave out --reference"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words):
    done = benchmark(*TINY, *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
