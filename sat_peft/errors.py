"""Exceptions for what the user of the package can mend: mistakes, and packages that are not installed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A wrong option, file or argument. The message names the value, the valid choices and the fix.

    Recipes print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str):
        # A loader's worker hands an error on as an error whose message is "Caught UsageError in DataLoader worker
        # process 0", a traceback and the message.
        if message.startswith(f"Caught {type(self).__name__} in "):
            message = message.rpartition(f"\n{type(self).__module__}.{type(self).__qualname__}: ")[2].rstrip("\n")
        super().__init__(message)


class MissingPackages(ImportError):
    """Packages of an extra are not installed.

    Args:
        what: what needs them.
        names: names that cannot be imported.
        extra: extra of setup.cfg that has them.
    """

    def __init__(self, what: str, names: Iterable[str], *, extra: str):
        super().__init__(f"{what} need {', '.join(names)}, not installed here: pip install 'sat_peft[{extra}]'.")


def unknown_choice(what: str, value: object, choices: Iterable[str]) -> UsageError:
    """A `UsageError` for a `value` that is not among `choices`; the closest names are suggested."""
    choices = list(choices)
    close = difflib.get_close_matches(str(value), choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return UsageError(f"unknown {what} {value!r}.{hint} Valid choices: {', '.join(choices)}.")
