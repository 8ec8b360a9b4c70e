"""Files as people have them: one place that opens paths, and one guarded reader for every container.

Whatever a file holds, its reader returns plain values or raises a `FileProblem`, a `UsageError` that names the file,
what is wrong with it and the fix. Nothing is executed, and limits keep a small file from taking all time and memory.
"""

from sat_peft.files.paths import (
    FileProblem,
    is_file,
    is_folder,
    path_problem,
    respelled,
    same_spelling,
    short_name,
    shown,
    spelled,
)
from sat_peft.files.readers import (
    is_number,
    parse_json,
    read_bytes,
    read_csv,
    read_json,
    read_json_object,
    read_lines,
    read_safetensors,
    read_xml,
    read_yaml,
)
from sat_peft.files.values import check_values

__all__ = [
    "FileProblem",
    "check_values",
    "is_file",
    "is_folder",
    "is_number",
    "parse_json",
    "path_problem",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_json_object",
    "read_lines",
    "read_safetensors",
    "read_xml",
    "read_yaml",
    "respelled",
    "same_spelling",
    "short_name",
    "shown",
    "spelled",
]
