"""Data sets and annotation formats, each in a module of its own behind one registry.

A module that defines `SOURCE = Source(...)` is a source; nothing else has to be told of it.
"""

from sat_peft.data.sources.records import Problem, Problems, Record, SourceSplit
from sat_peft.data.sources.registry import OpenSource, Source, find_source, load_source, open_source, sources

__all__ = [
    "OpenSource",
    "Problem",
    "Problems",
    "Record",
    "Source",
    "SourceSplit",
    "find_source",
    "load_source",
    "open_source",
    "sources",
]
