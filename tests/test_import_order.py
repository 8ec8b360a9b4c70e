"""The order of the rooms, as CONTRIBUTING.md has it: nobody imports from a room further down."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sat_peft"
# The public names and the start of the console command read the rooms; they are none.
DOORS = {"__init__", "__main__"}


def mapped_rooms() -> list[str]:
    """Folders and modules of the package in the first column of the map, from top to bottom."""
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Habits")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `sat_peft/")]
    names = [name for cell in cells for name in re.findall("`([^`]+)`", cell)]
    return [name.removeprefix("sat_peft/").removesuffix("/").removesuffix(".py") for name in names]


def room_of(parts: tuple[str, ...]) -> str:
    return parts[1] if len(parts) > 1 else "__init__"


def imports() -> Iterator[tuple[str, str, str]]:
    """File, its room, and the room of each name that it imports from the package, inside functions too."""
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute here"
                names = [node.module]
                if node.module == "sat_peft":  # `from sat_peft import cpu` names a room, `… import Localizer` none
                    rooms = [alias.name for alias in node.names if (PACKAGE / alias.name).is_dir()]
                    names += [f"sat_peft.{room}" for room in rooms]
            for name in names:
                if name.split(".")[0] == "sat_peft":
                    yield str(file.relative_to(ROOT)), room_of(place), room_of(tuple(name.split(".")))


def test_map_names_every_room_once():
    rooms = mapped_rooms()
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(rooms) == sorted(there - DOORS)


def test_nobody_imports_from_a_room_further_down():
    place = {room: number for number, room in enumerate(mapped_rooms())}
    found = list(imports())
    assert len(found) > 300  # the search sees the package
    upward = [
        f"{file} imports from {other}"
        for file, room, other in found
        if room in place and other in place and place[other] > place[room]
    ]
    assert not upward


def test_public_names_are_read_by_commands_alone():
    """The rooms import from each other; only what comes last uses the package as its users do."""
    readers = {file for file, room, other in imports() if other == "__init__" and room != "__init__"}
    assert {Path(file).parts[1] for file in readers} == {"commands"}
