"""Shows names that came from data (classes, paths, sources) as text: nothing is hidden, nothing is executed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_REORDERING = {*"\u061c\u200e\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def visible(name: object, limit: int | None = None) -> str:
    r"""The name in one line: control characters, bytes that are not UTF-8, and marks that reorder text become escapes.

    Args:
        name: any text from data.
        limit: longest result, characters; an ellipsis replaces the middle of a longer one.

    Example:
        >>> visible("a\nb")
        'a\\nb'
    """
    text = "".join(map(_show, str(name)))
    if limit is None or len(text) <= limit:
        return text or "(empty name)"
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def csv_cell(name: str) -> str:
    """The name in a form that no spreadsheet reads as a formula.

    The rule (OWASP, CSV Injection): a name that starts with = + - @ (or their full-width forms), a tab, a line end or
    an apostrophe gets one apostrophe in front. So different names stay different, and removing a first apostrophe
    restores the name.
    """
    return f"'{name}" if name.startswith(_FORMULA_STARTS) else name


def markdown_cell(name: object, limit: int | None = None) -> str:
    """A name as literal text in Markdown (GitHub's and Hugging Face's), also inside a table; HTML is escaped too."""
    return re.sub(r"[&<>\"|\\`*_{}\[\]()#+\-.!~:@$^=]", _literal, visible(name, limit))


def without_credentials(uri: str) -> str:
    """`scheme://user:secret@host/path?token=x` -> `scheme://host/path`; a plain path stays as it is."""
    return re.sub(r"[?#].*$", "", re.sub(r"(?<=://)[^/@]*@", "", uri)) if "://" in uri else uri


def describe_source(summary: Mapping[str, Any]) -> dict[str, Any]:
    """From `data/prepared/summary.json`: the source's address without credentials, and its description of itself."""
    about = dict(summary["source"])
    uri = about.pop("uri", None)
    return {"source": without_credentials(uri) if uri else None, "about": about}


def percent(share: float | None, digits: int = 1) -> str:
    """0.93464 -> `93.5 %` (with a no-break space); None -> a dash. A share below 1 is never shown as 100 %."""
    if share is None:
        return "\u2013"
    smallest = 0.5 * 10 ** -(digits + 2)
    if 1 - smallest <= share < 1:
        return f"over {100 - 10**-digits:.{digits}f}\u00a0%"
    if 0 < share < smallest:
        return f"under {10**-digits:.{digits}f}\u00a0%"
    return f"{100 * share:.{digits}f}\u00a0%"


def _show(character: str) -> str:
    if character not in _REORDERING and unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode("ascii")


def _literal(found: re.Match[str]) -> str:
    # Backslash and pipe as entities: renderers disagree on `\\|` after a backslash inside a table cell.
    return f"&#{ord(found[0])};" if found[0] in '&<>"|\\' else f"\\{found[0]}"
