"""Rules for names that are the same for all sources: class folders, given splits, files made by a system.

A source assigns splits if it has a folder `train` and a folder `test`, `val`, `valid` or `validation`. If it has only
`train` and a validation folder, the latter is the held-out test split: no choice may use the images that are reported.
"""

from __future__ import annotations

import difflib
import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LAYOUT = "Expected SOURCE/<class>/<image>, or SOURCE/train/<class>/<image> with SOURCE/test or SOURCE/val."
BUILT_IN = "digits"
"""The source that needs no file and no network."""
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}


def printable(name: str) -> str:
    """The name with undecodable bytes, control characters and backslashes escaped. Different names stay different."""
    if name.isprintable() and "\\" not in name:
        return name  # the same object: a million names are not held twice
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in name)


def class_name(name: str) -> str:
    """The name of a class in all tables: printable, and the same for all Unicode forms of a name."""
    return sys.intern(unicodedata.normalize("NFC", printable(name)))


def kept_splits(names: Iterable[str]) -> dict[str, str]:
    """Name -> split for the top folders that are splits; empty if the source assigns no splits."""
    found = {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
    given = set(found.values())
    if "train" not in given or len(given) < 2:
        return {}
    if "test" not in given:
        return {name: "test" if split == "validation" else split for name, split in found.items()}
    return found


def why_excluded(parts: Sequence[str], splits: Mapping[str, str], labelled: bool = True) -> str | None:
    """Why a file can't be an image of a class, judged by its path; None if it can.

    Args:
        parts: the folders from the source's root to the file, and its name.
        splits: the result of `kept_splits`.
        labelled: whether it needs a class.
    """
    if any(is_junk(part) for part in parts):
        return "system_file"
    if not labelled:
        return None
    if splits and (not parts or parts[0] not in splits):
        return "outside_split_folders"
    inside = parts[1:] if splits else parts
    if len(inside) < 2 or not inside[0]:
        return "outside_class_folders"
    return None


def class_and_split(parts: Sequence[str], splits: Mapping[str, str]) -> tuple[str, str | None]:
    """The class and the split of a file that isn't excluded by `why_excluded`."""
    return class_name(parts[1 if splits else 0]), splits.get(parts[0])


def is_junk(name: str) -> bool:
    """Whether files or folders with this name are made by a system, not by a person."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _JUNK


def guess(word: str, known: Iterable[str], similarity: float) -> str:
    """` Did you mean ...?` if the word is almost a known one, else an empty text.

    The first letters must agree: `s4` is a slip of the hand, but `gs` and `hdfs` are other stores.
    """
    same_letter = [name for name in known if name[:1] == word[:1].lower()]
    near = difflib.get_close_matches(word.lower(), same_letter, 1, similarity)
    return f" Did you mean {near[0]!r}?" if near else ""


def _escape(char: str) -> str:
    byte = ord(char) - 0xDC00  # Python's form of a byte that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else json.dumps(char)[1:-1]
