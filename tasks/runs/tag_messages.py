"""The messages of the registry's tags. Whoever may push to git's remote may write any, so they aren't trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

LATEST = 253_402_300_000
"""Seconds since 1970 of the last time that Python can show, in the year 9999."""
_ROW = ("check", "candidate", "production", "limit", "sentence")


def parse_message(message: str) -> tuple[str, dict[str, Any]]:
    """A message -> its line for people, and its JSON object without what readers couldn't use.

    Control characters are replaced: some would make a terminal write or hide other things.
    """
    subject, _, rest = message.partition("\n")
    try:
        about = _shown(json.loads(rest))
    except (ValueError, RecursionError):
        about = {}
    if not isinstance(about, dict):
        about = {}
    return _shown(subject), {name: value for name, value in about.items() if name not in _FITS or _FITS[name](value)}


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in value)
    if isinstance(value, dict):
        return {_shown(name): _shown(one) for name, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        one is None or (isinstance(one, list) and len(one) == 2 and all(isinstance(end, int | float) for end in one))
        if name.endswith("_ci95")
        else _is_number(one)
        for name, one in value.items()
    )


def _is_verdict(value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get("passed"), bool)):
        return False
    rows = value.get("checks")
    return isinstance(rows, list) and all(
        isinstance(row, Mapping) and isinstance(row.get("passed"), bool) and all(_is_text(row.get(one)) for one in _ROW)
        for row in rows
    )


_FITS: dict[str, Callable[[Any], bool]] = {
    "champion": _is_text,
    "digests": _is_texts,
    "gate": _is_verdict,
    "metrics": _are_metrics,
    "model": _is_texts,
}
