"""Evaluates a trained adapter under one or several protocols, beside the baselines that were trained with it.

    accelerate launch recipes/evaluate.py --run runs/NAME --protocols original sat wsol

It is `sat-peft evaluate`; what it does is in `sat_peft/commands/evaluate.py`.
"""

import sys

from sat_peft.commands.console import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
