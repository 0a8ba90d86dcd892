"""The confusion matrix as SVG, which a page shows inline and a Markdown text as an image."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tasks.reports import html
from tasks.reports.text import visible

NUMBERED_CLASSES = 20
"""The matrix of up to so many classes has its counts in the cells."""
NAMED_CLASSES = 200
"""The matrix of up to so many classes has their names beside it."""
LABEL_LIMIT = 18
_CELL_PX = ((4, 64), (NUMBERED_CLASSES, 34), (50, 14))


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], hover: bool = True) -> Markup:
    """Draw it: rows are actual classes, columns predicted ones; the deeper a cell, the larger its share of its row.

    The drawing brings its own colours, so it also works as an image; a page's style sheet may set others.

    Args:
        confusion: (c, c) counts.
        classes: c names.
        hover: whether a cell says what it counts while the mouse is over it.
    """
    cell = next((px for most, px in _CELL_PX if len(classes) <= most), 8)
    font = min(13, cell - 1)
    names = [visible(name, LABEL_LIMIT) for name in classes] if len(classes) <= NAMED_CLASSES else []
    longest = round(0.62 * font * max(map(len, names), default=0))
    drawing = html.render(
        "confusion.svg.jinja",
        confusion=confusion,
        classes=classes,
        names=names,
        numbered=len(classes) <= NUMBERED_CLASSES,
        hover=hover,
        cell=cell,
        font=font,
        turned=longest > cell,
        left=34 + longest,
        top=34 + (longest if longest > cell else font),
        side=cell * len(classes),
    )
    return Markup(drawing)  # noqa: S704 our own template has escaped it
