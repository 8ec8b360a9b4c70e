"""Counts what SAT trains and stores on a timm Vision Transformer, without its weights.

    python scripts/count_parameters.py --backbone deit_small_patch16_224 --num-classes 1000 --tune full

It is `sat-peft count`; what it does is in `sat_peft/commands/count.py`.
"""

import sys

from sat_peft.commands.console import main

if __name__ == "__main__":
    sys.exit(main(["count", *sys.argv[1:]]))
