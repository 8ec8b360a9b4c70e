"""Names for class folders whose own names are no words: a file in the root folder of the data.

    classes.txt    a line for a class: its folder, a tab (or other white space), the name that is shown
    classes.json   {"n01440764": "tench", …}

A folder whose own name has spaces takes a tab behind it. A class that the file leaves out keeps the name of its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sat_peft.errors import UsageError
from sat_peft.files import read_json, read_lines

_TEXT, _JSON = "classes.txt", "classes.json"


def read_display_names(root: Path) -> dict[str, str]:
    """The name of every class folder that a file in `root` lists; empty where there is no such file.

    Raises:
        UsageError: both files, a malformed one, a class that is named twice.
    """
    text, table = root / _TEXT, root / _JSON
    if text.is_file() and table.is_file():
        raise UsageError(f"{root} has both {_TEXT} and {_JSON}; remove one of them.")
    if table.is_file():
        pairs = read_json(table, object_pairs_hook=list)
        # An object is a list of pairs here, so that a class that is named twice does not pass.
        if not isinstance(pairs, list) or not all(
            isinstance(each, tuple) and isinstance(each[1], str) for each in pairs
        ):
            raise UsageError(f'{table} must look like {{"n01440764": "tench", …}}: the name of every class folder.')
        entries = [(str(table), folder, name) for folder, name in pairs]
    elif text.is_file():
        entries = []
        for number, line in read_lines(text):
            folder, _, name = line.strip().partition("\t") if "\t" in line else _split(line)
            entries.append((f"{text}, line {number}", folder, name or folder))
    else:
        return {}
    names: dict[str, str] = {}
    for where, folder, name in entries:
        if folder in names:
            raise UsageError(f"{where}: the class folder {folder!r} is named twice. Remove one of its entries.")
        if not name.strip() or not name.isprintable():
            raise UsageError(f"{where}: {name!r} is no name to show for the class folder {folder!r}.")
        names[folder] = name.strip()
    return names


def _split(line: str) -> tuple[str, str, str]:
    folder, *name = line.split(maxsplit=1)
    return folder, " ", "".join(name).strip()


def display_names(root: Path, folders: Sequence[str]) -> list[str]:
    """The names of the class folders, in their order.

    Args:
        root: may hold the file.
        folders: folders of all classes.

    Raises:
        UsageError: what `read_display_names` raises, a name for no class folder, one name for two classes.
    """
    listed = read_display_names(root)
    file = root / (_TEXT if (root / _TEXT).is_file() else _JSON)
    unknown = [folder for folder in listed if folder not in folders]
    if unknown:
        raise UsageError(
            f"{file} names {unknown[0]!r}, which is no class folder; the class folders are {', '.join(folders[:5])}"
            f"{', …' if len(folders) > 5 else ''}. A line is the folder, a tab and the name to show. Correct the file, "
            "or move it away if it is of something else."
        )
    names = [listed.get(folder, folder) for folder in folders]
    owners: dict[str, str] = {}
    for folder, name in zip(folders, names, strict=True):
        if name in owners:
            raise UsageError(
                f"{file}: the class folders {owners[name]!r} and {folder!r} would both be called {name!r}."
            )
        owners[name] = folder
    return names


def class_lookup(class_names: Sequence[str], shown: Mapping[str, str]) -> dict[str, int]:
    """The index of a class by its name, by the folder that the name is shown for, and the other way round.

    Args:
        class_names: class names of a model, in the order of its logits.
        shown: names by class folder, of the model's data or of other data with the same classes.
    """
    indices = {name: index for index, name in enumerate(class_names)}
    by_folder = {folder: indices[name] for folder, name in shown.items() if name in indices}
    by_name = {name: indices[folder] for folder, name in shown.items() if folder in indices}
    # Folders are the key of the data, whatever a class is called.
    return by_name | indices | by_folder
