"""The commands of `sat-peft`, one file each: options (`Config`), `main`, and what is told after Ctrl-C.

Importing them imports nothing heavy, so that --help and a mistyped option answer at once. Commands and recipes need the
packages of the extra `recipes`.
"""

from importlib.util import find_spec

from sat_peft.errors import MissingPackages

# Those of the extra that a command would miss only when it is half done.
_NEEDED = ("tyro", "datasets", "evaluate", "scipy", "matplotlib", "jinja2", "tabulate", "yaml", "defusedxml", "psutil")

if _missing := [name for name in _NEEDED if find_spec(name) is None]:
    raise MissingPackages("commands and recipes", _missing, extra="recipes")
