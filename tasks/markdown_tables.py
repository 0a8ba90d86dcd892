"""Markdown tables that are also easy to read on a terminal, and the formats of durations and sizes."""

from __future__ import annotations

from collections.abc import Sequence

_WIDEST = 40


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """A Markdown table with padded columns; a cell of more than 40 characters sticks out.

    Args:
        heads: titles of the columns.
        rows: one cell for each column; without `|`.
        right: titles of the columns that are aligned to the right.
    """
    longest = (max(len(row[number]) for row in [heads, *rows]) for number in range(len(heads)))
    widths = [min(_WIDEST, max(3, length)) for length in longest]
    aligned = [head in right for head in heads]
    rules = [f"{'-' * (width - 1)}{':' if to_right else '-'}" for width, to_right in zip(widths, aligned, strict=True)]
    lines = [heads, rules]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, aligned, strict=True)
        )
        + " |"
        for line in [*lines, *rows]
    )


def duration(seconds: float | None) -> str:
    """`unknown`, `0.3 s`, `12 s`, `3 min`, or `2 h 05 min`; the spaces don't break."""
    if seconds is None:
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f}\u00a0s"
    if seconds < 99.5:
        return f"{seconds:.0f}\u00a0s"
    minutes = round(seconds / 60)
    return f"{minutes}\u00a0min" if minutes < 100 else f"{minutes // 60}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"


def size(mb: float | None) -> str:
    """`unknown`, `0 MB`, `0.3 MB`, `12 MB`, or `1.5 GB` (a thousand MB); the spaces don't break."""
    if mb is None:
        return "unknown"
    if mb >= 1000:
        return f"{mb / 1000:.1f}\u00a0GB"
    return f"{mb:.0f}\u00a0MB" if mb >= 9.95 or not mb else f"{mb:.1f}\u00a0MB"
