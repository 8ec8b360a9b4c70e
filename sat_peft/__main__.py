"""`python -m sat_peft` is `sat-peft`, in a form that `accelerate launch -m` takes."""

from __future__ import annotations

import sys

from sat_peft.errors import MissingPackages


def main() -> int | None:
    """The console command. Without the packages that commands need, it says how to get them."""
    try:
        from sat_peft.commands.console import main as console
    except MissingPackages as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return console()


if __name__ == "__main__":
    sys.exit(main())
