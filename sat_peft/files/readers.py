"""One guarded reader for every container that people bring: text, JSON, YAML, CSV, XML, safetensors."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError

from sat_peft.files.paths import FileProblem, path_problem, shown

# Configurations and single annotations are small; lists and annotations of whole data sets are not.
SMALL, LARGE = 64 * 2**20, 8 * 2**30
_YAML_BYTES = 4 * 2**20
_MAX_NESTING = 100
# Numbers beyond are neither pixels nor settings, and integers among them may be too large for a float.
_LARGEST = 1e300
_BRACKETS = b"[{]}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
# Tools declare the national standard and write what the operating system has, a superset.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}
_REPAIR = "Repair or replace the file."


def is_number(value: object) -> bool:
    """Whether a value of a file is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LARGEST < value < _LARGEST  # False for NaN, and without converting an integer of a thousand digits


def read_bytes(path: str | Path, *, limit: int = SMALL) -> bytes:
    """The content of a file.

    Raises:
        FileProblem: there is no file that can be read, or it has more than `limit` bytes.
    """
    try:
        with open_file(path) as file:
            too_large = os.fstat(file.fileno()).st_size > limit
            content = b"" if too_large else file.read()
    except (OSError, MemoryError) as error:
        raise FileProblem(path, f"it cannot be read ({getattr(error, 'strerror', None) or error!r}).") from error
    if too_large:
        raise FileProblem(path, f"it has more than {limit:,} bytes, too many for what it should hold.", _REPAIR)
    return content


def open_file(path: str | Path) -> BinaryIO:
    """Opens an ordinary file for reading, without waiting for what is none, as a pipe.

    Raises:
        FileProblem: there is no such file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise path_problem(path) or FileProblem(path, f"it cannot be opened ({reason}).") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise path_problem(path) or FileProblem(path, "it is no ordinary file.")
    return os.fdopen(descriptor, "rb")


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its end) of every line of a UTF-8 file that is not blank.

    Raises:
        FileProblem: there is no such file, or it is not UTF-8.
    """
    try:
        # Universal newlines alone, not splitlines(), which also splits where a name may hold a separator as it is.
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise FileProblem(path, f"it is not encoded in UTF-8 ({error}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise FileProblem(path, f"it cannot be read ({error.strerror}).") from error


def parse_json(text: str | bytes, where: str | Path, **hooks) -> Any:
    """The value of a JSON text, whatever it is.

    Raises:
        FileProblem: it is no JSON in UTF-8, nested too deep, or has an integer of thousands of digits.
    """
    try:
        value = json.loads(text, **hooks)
    except RecursionError as error:
        raise FileProblem(where, "it is nested too deep.", _REPAIR) from error
    except (ValueError, MemoryError) as error:
        raise FileProblem(where, f"it is no JSON ({str(error)[:200]}).", _REPAIR) from error
    if isinstance(value, dict | list) and _may_be_deep(text) and _is_deep(value):
        # Python itself fails on it when it is compared or shown, in whatever place comes first.
        raise FileProblem(where, f"it is nested deeper than {_MAX_NESTING} levels.", _REPAIR)
    return value


def _may_be_deep(text: str | bytes) -> bool:
    """Whether the brackets of a text, those inside of strings too, nest deeper than the limit."""
    if isinstance(text, str):
        if text.count("[") + text.count("{") <= _MAX_NESTING:
            return False
        text = text.encode("utf-8", "surrogatepass")
    brackets = text.translate(None, _NOT_BRACKETS)
    if len(brackets) <= _MAX_NESTING:
        return False
    import numpy as np

    steps = np.frombuffer(brackets, np.uint8)
    opening = (steps == ord("[")) | (steps == ord("{"))
    return int(np.cumsum(np.where(opening, 1, -1), dtype=np.int64).max()) > _MAX_NESTING


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_NESTING + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def read_json(path: str | Path, *, limit: int = SMALL, **hooks) -> Any:
    """The value of a JSON file; see `parse_json` and `read_bytes`."""
    return parse_json(read_bytes(path, limit=limit), path, **hooks)


def read_json_object(path: str | Path, what: str, **hooks) -> dict[str, Any]:
    """The object in a JSON file, which should be `what` (`the configuration of a run`).

    Raises:
        FileProblem: as `read_json`, or no object in braces.
    """
    value = read_json(path, **hooks)
    if not isinstance(value, dict):
        raise FileProblem(path, f"it is not {what}: it holds {shown(value)} and no object in braces.", _REPAIR)
    return value


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file whose scalars are all text, as they are written: `no` is a name like any other.

    Raises:
        FileProblem: there is no such file, or it is no YAML.
    """
    import yaml

    content = read_bytes(path, limit=_YAML_BYTES)
    try:
        return yaml.load(content, Loader=yaml.BaseLoader)
    except RecursionError as error:
        raise FileProblem(path, "it is nested too deep.", _REPAIR) from error
    except (yaml.YAMLError, ValueError, TypeError, MemoryError) as error:
        raise FileProblem(path, f"it is no YAML ({' '.join(str(error).split())[:300]}).", _REPAIR) from error


def read_csv(path: str | Path, columns: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a comma-separated table in UTF-8 with a header that has at least `columns`.

    A row that is too short has None in its last columns, the rest of one that is too long is under the key None.

    Raises:
        FileProblem: there is no such file, it is not UTF-8 or no table, or lacks a column.
    """
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            header = table.fieldnames or ()
            missing = [name for name in columns if name not in header]
            if missing:
                names = ", ".join(header)
                raise FileProblem(path, f"it has no column {', '.join(missing)}; it has {names[:200]}.", "Add it.")
            for row in table:
                yield table.line_num, row
    except UnicodeDecodeError as error:
        raise FileProblem(path, f"it is not encoded in UTF-8 ({error}).", "Save it as UTF-8.") from error
    except csv.Error as error:
        raise FileProblem(path, f"it is no comma-separated table ({error}).", _REPAIR) from error
    except OSError as error:
        raise FileProblem(path, f"it cannot be read ({error.strerror}).") from error


def _xml_text(content: bytes, path: Path) -> str | bytes:
    """The document, decoded where the parser itself does not know the encoding that it declares."""
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content
    declared = _DECLARED.match(content[:1000])
    if declared is None:
        return content
    name = declared[1].decode("ascii")
    try:
        codec = codecs.lookup(name).name
        if codec in ("utf-8", "ascii", "iso8859-1"):
            return content  # the parser's own, which says where a byte is wrong
        if codec.startswith(("utf-16", "utf-32")):
            # The declaration was read byte by byte, so it is none of them: .NET declares what its strings are.
            return content.decode("utf-8")
        # A codec of text, and none that unpacks.
        return content.decode(_SUPERSETS.get(codec, codec))
    except UnicodeDecodeError as error:
        what = f"it declares the encoding {name!r} and is not written in it ({error})."
        raise FileProblem(path, what, "Save it as UTF-8, and declare that.") from error
    except (LookupError, ValueError) as error:
        what = f"it declares the encoding {name!r}, which is unknown."
        raise FileProblem(path, what, "Save it as UTF-8, and declare that.") from error


def read_xml(path: str | Path) -> Element:
    """The root of an XML file in whatever encoding it declares; entities and DTDs are refused.

    Raises:
        FileProblem: there is no such file, or it is no XML.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    content = _xml_text(read_bytes(path), Path(path))
    try:
        return fromstring(content, forbid_dtd=True)
    except ParseError as error:
        declared = _DECLARED.match(content[:1000]) if isinstance(content, bytes) else None
        hint = "" if declared else " If it is not written in UTF-8, save it as UTF-8."
        raise FileProblem(path, f"it is no XML ({error}).", f"Repair or remove the file.{hint}") from error
    except DefusedXmlException as error:
        what = f"it declares entities, which are not read ({error})."
        raise FileProblem(path, what, "Write it without a DTD.") from error
    except (ValueError, LookupError, RecursionError, MemoryError) as error:
        raise FileProblem(path, f"it is no XML that can be read ({error}).", "Save it as UTF-8.") from error


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name.

    Raises:
        FileProblem: there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    problem = path_problem(path)
    if problem is not None:
        raise problem
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError, RuntimeError) as error:
        raise FileProblem(path, f"it is damaged or incomplete ({error}).", "Copy or save it again.") from error


def parse_number(text: str) -> float | None:
    """The finite number that a text writes; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_yes(value: object) -> bool:
    """Whether a flag of an annotation is set, in whatever way its tool writes it; what is no yes is a no."""
    if isinstance(value, str):
        number = parse_number(value)
        return number != 0 if number is not None else value.strip().lower() in ("true", "yes", "y", "t", "on")
    return bool(value) if isinstance(value, bool | int | float) else False
