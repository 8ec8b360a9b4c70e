"""Paths as text, on every system."""

import ntpath
import os

import pytest

from sat_peft.files.paths import lies_below


@pytest.mark.parametrize(
    ("path", "folder", "below"),
    [
        ("/data/cats/1.jpg", "/data", True),
        ("/database/1.jpg", "/data", False),
        ("/data", "/data", False),
        ("/1.jpg", "/", True),
    ],
)
def test_what_lies_below_a_folder(path, folder, below):
    assert lies_below(path, folder) is below


@pytest.mark.parametrize(
    ("path", "folder", "below"),
    [
        (r"C:\data\cats\1.jpg", r"C:\data", True),
        (r"C:\database\1.jpg", r"C:\data", False),
        ("D:\\1.jpg", "D:\\", True),
    ],
)
def test_what_lies_below_a_folder_of_windows(monkeypatch, path, folder, below):
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        found = lies_below(path, folder)
    assert found is below
