"""What reads data sets of every format: the registry of `sat_peft.data.formats`, and what several of them share."""

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
