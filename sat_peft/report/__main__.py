"""`python -m sat_peft.report runs/NAME` is `sat-peft report runs/NAME`."""

import sys

from sat_peft.commands.console import main

sys.exit(main(["report", *sys.argv[1:]]))
