"""Reads a data set end to end and says whether training may start: run it first on your own images.

    python scripts/check_data.py --data DIR

It is `sat-peft check-data`; what it does is in `sat_peft/commands/check_data.py`.
"""

import sys

from sat_peft.commands.console import main

if __name__ == "__main__":
    sys.exit(main(["check-data", *sys.argv[1:]]))
