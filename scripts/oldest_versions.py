"""Runs the tests with the oldest versions that setup.cfg allows, in a virtual environment that is removed at the end.

    python scripts/oldest_versions.py                         the whole suite: several GB and a quarter of an hour
    python scripts/oldest_versions.py tests/tuner -k frozen   arguments of pytest
    python scripts/oldest_versions.py --list                  the versions alone

Every lower bound `>=` becomes `==`; what the package does not name itself is as new as the others let it be.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = ("recipes", "export", "cvat", "supervision", "test")


def oldest_versions(setup: Path = ROOT / "setup.cfg") -> list[str]:
    """Requirements `name==version` for the package and what its tests need.

    Raises:
        ValueError: a requirement without exactly one bound, which is a lower one.
    """
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    sections = [config["options"]["install_requires"], *(config["options.extras_require"][name] for name in EXTRAS)]
    found = []
    for line in "\n".join(sections).split("\n"):
        if not line.strip():
            continue
        requirement = Requirement(line)
        if requirement.name == config["metadata"]["name"]:  # an extra that takes in others
            continue
        bounds = list(requirement.specifier)
        if [bound.operator for bound in bounds] != [">="]:
            raise ValueError(f"{setup} asks for {line.strip()!r}; give one lower bound, as in `torch>=2.8.0`.")
        found.append(f"{requirement.name}=={bounds[0].version}")
    return found


def main(arguments: list[str]) -> int:
    """Returns the exit status of pytest."""
    pinned = oldest_versions()
    print("\n".join(pinned), flush=True)
    if arguments == ["--list"]:
        return 0
    return run_tests(pinned, arguments)


def run_tests(requirements: list[str], arguments: list[str]) -> int:
    """Runs pytest in a virtual environment that has `requirements` and, as it lies here, the package.

    Args:
        requirements: what pip installs, all that the package and the tests need among it.
        arguments: of pytest.

    Returns:
        The exit status of pytest.
    """
    with tempfile.TemporaryDirectory(prefix="sat_peft-tests-") as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder, "Scripts" if sys.platform == "win32" else "bin")
        python = str(programs / "python")
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *requirements], check=True)
        subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)
        # What the tests look for among the programs is found there.
        environment = os.environ | {"PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")])}
        tests = [python, "-m", "pytest", "-n", "2", *arguments]
        return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
