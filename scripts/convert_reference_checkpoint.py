"""Turns a released checkpoint of the SAT code (.pth.tar) into an adapter and the weights of its backbone.

    python scripts/convert_reference_checkpoint.py best_gt.pth.tar --backbone deit_small_patch16_224 --output DIR

It is `sat-peft convert`; what it does is in `sat_peft/commands/convert.py`.
"""

import sys

from sat_peft.commands.console import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
