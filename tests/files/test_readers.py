"""Containers that are damaged, hostile or in the wrong place: one kind of error, and soon."""

import cProfile
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sat_peft.files import (
    FileProblem,
    is_number,
    path_problem,
    read_csv,
    read_json,
    read_json_object,
    read_lines,
    read_safetensors,
    read_xml,
    read_yaml,
    short_name,
    shown,
)
from sat_peft.files.mat import read_mat
from sat_peft.files.readers import is_yes, read_bytes
from sat_peft.files.values import fits

READERS = {
    "lines": lambda path: list(read_lines(path)),
    "json": read_json,
    "csv": lambda path: list(read_csv(path)),
    "yaml": read_yaml,
    "xml": read_xml,
    "safetensors": read_safetensors,
    "mat": lambda path: read_mat(path, ("a",)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "the file does not exist. Add it"),
        ("a" * 300, "File name too long"),
        ("a\0b", "no file can have this name"),
        ("a\ud800b", "no file can have this name"),
        ("folder", "it is a folder where a file is expected"),
        ("pipe", "it is no ordinary file"),
        ("file/below", "the file does not exist"),
    ],
)
def test_path_that_no_file_has_is_a_problem_of_that_path(tmp_path, read, name, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileProblem, match=words):
        read(tmp_path / name)


def test_file_without_permission(tmp_path, monkeypatch):
    """By a fake, since the administrator may read everything."""
    (tmp_path / "locked").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "Give yourself the permission" in str(path_problem(tmp_path / "locked"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b"[" * 150 + b"]" * 150, "nested deeper than 100 levels"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "nested deeper than 100 levels"),
        (b"1" * 5000, "it is no JSON .*limit"),
        (b'{"a": \xff}', "it is no JSON"),
        (b"", "it is no JSON"),
    ],
)
def test_json_that_python_fails_on(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FileProblem, match=words):
        read_json(tmp_path / "a.json")


def test_brackets_in_texts_are_no_levels(tmp_path):
    values = [":[" for _ in range(500)]
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert read_json(tmp_path / "a.json") == values


def test_object_is_asked_for(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(FileProblem, match=r"a\.json: it is not a thing: it holds \[1\] and no object"):
        read_json_object(tmp_path / "a.json", "a thing")


def test_limit_of_bytes(tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    assert len(read_bytes(tmp_path / "a", limit=11)) == 11
    with pytest.raises(FileProblem, match="more than 10 bytes"):
        read_bytes(tmp_path / "a", limit=10)


def test_yaml_has_texts_alone(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("names: [yes, no, 1.0, 2023-13-45, null]\nx: !!int y\ny: !!python/name:os.system ''\n")
    assert read_yaml(file) == {"names": ["yes", "no", "1.0", "2023-13-45", "null"], "x": "y", "y": ""}
    file.write_text("a: " + "[" * 5000)
    with pytest.raises(FileProblem, match="nested too deep"):
        read_yaml(file)


def test_aliases_are_never_expanded(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "names: *a9", "train: *a9"]))
    profile = cProfile.Profile()
    assert len(profile.runcall(lambda: shown(read_yaml(tmp_path / "data.yaml")["names"]))) <= 160
    assert sum(entry.callcount for entry in profile.getstats()) < 100_000  # of 3.5 billion texts if expanded


def test_csv_field_beyond_the_limit(tmp_path):
    (tmp_path / "a.csv").write_text(f"a,b\n1,{'x' * 140_000}\n")
    with pytest.raises(FileProblem, match=r"no comma-separated table .*field larger"):
        list(read_csv(tmp_path / "a.csv"))


@pytest.mark.parametrize("content", ["<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<a>&b;</a>", "<a>", ""])
def test_xml_with_entities_or_without_an_end(tmp_path, content):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(FileProblem, match=r"a\.xml: it "):
        read_xml(tmp_path / "a.xml")


def test_mat_file_that_ends_its_reader_or_takes_all_memory(tmp_path, monkeypatch):
    file = tmp_path / "a.mat"
    savemat(file, {"a": np.arange(3.0)})
    assert read_mat(file, ("a",)) == [[0, 1, 2]]
    child = tmp_path / "mat_child.py"
    monkeypatch.setattr("sat_peft.files.mat.__file__", str(tmp_path / "mat.py"))
    child.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    os.utime(file, (1, 1))  # another file, as far as what was read before is concerned
    with pytest.raises(FileProblem, match=r"a\.mat: it cannot be read as a \.mat file .*SIGSEGV.*text"):
        read_mat(file, ("a",))
    real = Path(read_mat.__code__.co_filename).with_name("mat_child.py").read_text()
    child.write_text(real.replace("_limit(int(memory), int(seconds))", "_limit(int(memory), 60); bytes(2**34)"))
    os.utime(file, (2, 2))
    with pytest.raises(FileProblem, match="MemoryError"):
        read_mat(file, ("a",))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, -(10**400), True, "1", None, 1e301])
def test_what_is_no_finite_number(value):
    assert not is_number(value)
    assert len(shown(value)) < 100


@pytest.mark.parametrize(
    ("value", "yes"), [("0", False), ("False", False), ("0.0", False), (" true ", True), (2, True)]
)
def test_flags(value, yes):
    assert is_yes(value) == yes


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (10**400, float, False),
        ([1, 2], tuple[int, ...], True),
        (["a"], list[int], False),
        (None, int | None, True),
        ("a", Path | None, True),
        ({"a": [1.0]}, dict[str, list[float]], True),
        ({"a": "b"}, dict[str, list[float]], False),
    ],
)
def test_types_of_values(value, hint, right):
    assert fits(value, hint) == right


@pytest.mark.parametrize("name", ["a" * 255 + ".jpg", "é" * 130 + ".jpeg", "a" * 240 + ".png"])
def test_names_are_shortened_to_what_a_file_system_takes(tmp_path, name):
    short, other = short_name(name, 10), short_name("b" + name[1:], 10)
    assert len(short.encode()) <= 245
    assert short != other
    assert Path(short).suffix == Path(name).suffix
    (tmp_path / short).touch()
    assert short_name("a.jpg", 10) == "a.jpg"
