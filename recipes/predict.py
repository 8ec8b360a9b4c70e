"""Predicts classes and boxes for image files with a trained adapter, and writes them for annotation tools.

    accelerate launch recipes/predict.py PHOTOS --run runs/NAME --formats coco yolo

It is `sat-peft predict`; what it does is in `sat_peft/commands/predict.py`.
"""

import sys

from sat_peft.commands.console import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
