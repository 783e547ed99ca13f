"""Read files that nobody vouches for: what is allocated is bounded first, and nothing blocks.

What every reader of a file shares: whether there is a file at all (``regular``), JSON
(``json_text``), zip archives (``archives``), and arrays in them (``arrays``). No torch here.
"""

from __future__ import annotations

from ensemble_view.reading.archives import check_zip, is_zip, opened_zip, zip_names
from ensemble_view.reading.arrays import npz_names, read_npz
from ensemble_view.reading.json_text import check_plain, parse_json, read_json
from ensemble_view.reading.regular import (
    check_folder,
    check_regular,
    exists,
    is_folder,
    one_line,
    read_text,
)

__all__ = [
    "check_folder",
    "check_plain",
    "check_regular",
    "check_zip",
    "exists",
    "is_folder",
    "is_zip",
    "npz_names",
    "one_line",
    "opened_zip",
    "parse_json",
    "read_json",
    "read_npz",
    "read_text",
    "zip_names",
]
