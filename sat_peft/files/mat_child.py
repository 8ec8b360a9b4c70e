"""Started by `mat.py`, in a process that a damaged file may end: prints the variables of a .mat file as JSON."""

import json
import sys


def _limit(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the timeout of the parent holds there too
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _single(value: object) -> object:
    """A number or text as Python's own; None for anything that is not exactly one."""
    import numpy as np

    value = np.asarray(value)
    while value.dtype.kind == "O" and value.size == 1:
        value = np.asarray(value.item())
    return value.item() if value.size == 1 and value.dtype.kind in "biufU" else None


def _plain(array: object) -> object:
    import numpy as np

    array = np.asarray(array)
    if array.dtype.names:
        return {name: [_single(value) for value in array[name].ravel()] for name in array.dtype.names}
    if array.dtype.kind == "O":
        return ["" if np.size(value) == 0 else _single(value) for value in array.ravel()]
    if array.dtype.kind not in "biufU":
        raise ValueError(f"a variable is of the type {array.dtype}")
    return array.ravel().tolist()


def main(path: str, memory: str, seconds: str, *names: str) -> None:
    from scipy.io import loadmat

    _limit(int(memory), int(seconds))
    found = loadmat(path, variable_names=names)
    # In ASCII, so that no locale has a say.
    sys.stdout.write(json.dumps({name: _plain(found[name]) for name in names if name in found}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # whatever a reader of untrusted sizes raises is the file's fault
        sys.exit(f"{type(error).__name__}: {error}")
