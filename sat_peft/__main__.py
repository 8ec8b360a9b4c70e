"""`python -m sat_peft` is `sat-peft`, in a form that `accelerate launch -m` takes."""

import sys

from sat_peft.commands.console import main

sys.exit(main())
