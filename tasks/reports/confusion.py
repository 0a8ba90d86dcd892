"""The confusion matrix as SVG: inline in a page, and an image in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tasks.reports import html
from tasks.reports.text import visible

NUMBERED_CLASSES = 20
"""With up to this many classes the cells show their counts."""
NAMED_CLASSES = 200
"""With up to this many classes their names are beside the matrix."""
LABEL_LIMIT = 18
_CELL_PX = ((4, 64), (NUMBERED_CLASSES, 34), (50, 14))


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], hover: bool = True) -> Markup:
    """Rows are actual classes, columns predicted ones; the deeper a cell's colour, the larger its share of the row.

    The drawing has its own colours, so it also works as an image; a page's style sheet may set others.

    Args:
        confusion: (c, c) counts.
        classes: c names.
        hover: whether a cell explains its count while the mouse is over it.
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
