"""Damage to files, of bytes, words, values and places: what `fuzz_readers.py` does to them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

# What has broken readers, or is likely to.
_TOKENS = [
    *(b"", b"-1", b"0", b"1e400", b"nan", b"NaN", b"Infinity", b"-Infinity", b"1" * 400, b"9" * 5000, b"0x10", b"1_0"),
    *(b"null", b"true", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b"[" * 3000, b'{"a":' * 2000, b"[[[[1]]]]"),
    *(b"a" * 300, b"b" * 140_000, b"\x00", b"\xff\xfe", b"../..", b"/etc/passwd", b"/" * 5000, b"*", b"\xe9"),
    *(b"!!int x", b"!!timestamp x", b"!!float x", b"!!python/name:os.system", b"2023-13-45", b"&a [*a]", b"*b"),
    *(b'"', b"'", b",", b";", b"\n", b"\r", b"\t", b"<", b">", b"&lol;", b"<!DOCTYPE a>", b"<object/>", b"utf-16"),
]
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+")


def _flip(data: bytes, draw: random.Random) -> bytes:
    if not data:
        return b"\x00"
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _cut(data: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.choices(range(len(data) + 1), k=2))
    return draw.choice((data[:start], data[start:], data[:start] + data[end:], data[:start] + data[start:end] * 3))


def _swap_word(data: bytes, draw: random.Random) -> bytes:
    words = list(_WORD.finditer(data[:200_000]))
    if not words:
        return draw.choice(_TOKENS)
    word = draw.choice(words)
    other = draw.choice((draw.choice(_TOKENS), draw.choice(words)[0]))
    return data[: word.start()] + other + data[word.end() :]


def _swap_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    first, second = (draw.randrange(len(lines)) for _ in range(2))
    lines[first] = draw.choice((lines[second], b"", lines[first] * 2, draw.choice(_TOKENS)))
    return b"\n".join(lines)


def _encode(data: bytes, draw: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-8-sig", "utf-32")))


def _json_value(data: bytes, draw: random.Random) -> bytes:
    """One value anywhere in a JSON text becomes another."""
    try:
        content = json.loads(data)
    except ValueError:
        return _swap_word(data, draw)
    places: list[tuple] = []
    todo = [content]
    while todo:
        value = todo.pop()
        keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
        places += [(value, key) for key in keys]
        todo += [value[key] for key in keys if isinstance(value[key], dict | list)]
    if not places:
        return draw.choice(_TOKENS)
    values = [None, True, -1, 0, 1.5, 10**400, 1e308, "", "x", "a" * 300, "\ud800", "\0", [], {}, [1], {"a": 1}]
    values += [[[[[]]]], float("nan"), float("inf"), "../x", "1"]
    parent, key = draw.choice(places)
    if draw.random() < 0.2 and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = draw.choice(values)
    return json.dumps(content).encode()


_MUTATIONS = (_flip, _cut, _swap_word, _swap_word, _swap_line, _encode, _json_value, _json_value)


def mutate_file(file: Path, draw: random.Random) -> str:
    """Damages one file in place, and tells how."""
    kind = draw.random()
    if kind < 0.02:
        file.unlink()
        return f"{file.name} is missing"
    if kind < 0.04:
        file.unlink()
        file.mkdir()
        return f"{file.name} is a folder"
    mutation = draw.choice(_MUTATIONS)
    file.write_bytes(mutation(file.read_bytes(), draw))
    return f"{mutation.__name__.strip('_')} of {file.name}"
