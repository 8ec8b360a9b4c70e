"""Runs the tests of the plug-ins with the annotation tools themselves, which do not install beside the newest of all.

    python scripts/plugin_tests.py                  several GB, some minutes, an environment that is removed at the end
    python scripts/plugin_tests.py -k autodistill   arguments of pytest

Label Studio and its SDK ask for an older OpenCV, autodistill for a second one: in `pip install -e '.[test]'` they are
missing, and these tests are skipped there.
"""

from __future__ import annotations

import sys

from oldest_versions import ROOT, run_tests

EXTRAS = ("test", "label_studio", "autodistill")
TOOLS = ("label-studio",)


def main(arguments: list[str]) -> int:
    """Returns the exit status of pytest."""
    return run_tests([f"{ROOT}[{','.join(EXTRAS)}]", *TOOLS], ["tests/plugins", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
