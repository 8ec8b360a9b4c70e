"""A page to try a trained model on: drop an image, see class, map and box, move the threshold, download the box.

    pip install -e '.[demo]'
    python scripts/demo.py --run runs/NAME

It is `sat-peft demo`; what it does is in `sat_peft/commands/demo.py`.
"""

import sys

from sat_peft.commands.console import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
