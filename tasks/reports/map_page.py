"""The map of the images: one self-contained HTML file, with one script that its policy names by its SHA-256.

Points, names and thumbnails are in the page. Everything that came from data passes `text.visible`, is JSON without `<`,
and is set as text by the script. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.manifest import SPLITS
from tasks.reports import html
from tasks.reports.data_uris import jpeg
from tasks.reports.text import visible

MOST_POINTS = 10_000
_LARGEST_SHEET = 10_300_000
"""Pixels of all thumbnails together, so that the page stays below 12 MB."""
_REDUCTIONS = (2, 4, 7)
"""A thumbnail is 1/2, 1/4 or 1/7 of an image's side: 112, 56 or 32 pixels."""
_SIDE_PX = 224
_EXTENT = 5000
_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#c4b000", "#aa4499", "#999999", "#6b7f2a",
)  # fmt: skip
"""After Okabe and Ito, without black and with a darker yellow: seen on both themes, and told apart by most people who
see colours otherwise."""


@dataclass(frozen=True)
class Point:
    """An image on the map.

    Attributes:
        path: where it came from.
        label: class index.
        split: index in `SPLITS`.
        predicted: class index; None: no model that didn't learn from it predicted it.
        confidence: probability of the prediction; 0 without one.
    """

    path: str
    label: int
    split: int
    predicted: int | None = None
    confidence: float = 0.0


def render_map(
    points: Sequence[Point],
    positions: npt.NDArray[np.floating[Any]],
    explained: float,
    sheet: npt.NDArray[np.uint8],
    classes: Sequence[str],
    total: int,
) -> str:
    """Write the page.

    Args:
        points: n, at most `MOST_POINTS`.
        positions: (n, 2).
        explained: share of the variance of the features that the positions show.
        sheet: from `thumbnail_sheet`, of the same images in the same order.
        classes: the c names.
        total: how many images there are; more than n if the points are a sample.

    Returns:
        HTML, UTF-8 safe.
    """
    from markupsafe import Markup

    colours = class_colours(len(classes))
    counts = np.bincount([point.label for point in points], minlength=len(classes))
    return html.render(
        "map.html.jinja",
        script=Markup(_script()),  # noqa: S704 our own file
        script_hash=_sha256(_script()),
        map_style=Markup((Path(__file__).parent / "map.css").read_text(encoding="utf-8")),  # noqa: S704 our own file
        data=Markup(_data(points, positions, colours, classes)),  # noqa: S704 without < > &
        tiles=jpeg(sheet, 78),
        number=len(points),
        total=total,
        splits=SPLITS,
        classes=classes,
        colours=colours,
        counts=counts.tolist(),
        explained=explained,
    )


def thumbnail_sheet(images: Iterable[npt.NDArray[np.uint8]], number: int) -> npt.NDArray[np.uint8]:
    """All thumbnails on one image, row by row; the fewer, the larger each.

    Args:
        images: batches (k, 224, 224, 3) uint8 RGB, of `number` images together.
        number: of images, at least 1.

    Returns:
        (height, width, 3) uint8 of square thumbnails, `tile_px(number)` pixels wide, `columns(number)` in a row.
    """
    side, across = tile_px(number), columns(number)
    sheet = np.full((math.ceil(number / across) * side, across * side, 3), 128, np.uint8)
    place = 0
    for batch in images:
        for small in _reduced(batch, _SIDE_PX // side):
            top, left = side * (place // across), side * (place % across)
            sheet[top : top + side, left : left + side] = small
            place += 1
    return sheet


def tile_px(number: int) -> int:
    """Side of a thumbnail if there are so many."""
    sides = [_SIDE_PX // factor for factor in _REDUCTIONS]
    return next((side for side in sides if number * side * side <= _LARGEST_SHEET), sides[-1])


def columns(number: int) -> int:
    """Thumbnails in a row of the sheet."""
    return math.ceil(math.sqrt(number))


def class_colours(number: int) -> list[str]:
    """CSS colours: up to ten differ for everyone; more differ by hue."""
    if number <= len(_COLOURS):
        return list(_COLOURS[:number])
    return [f"hsl({(137.508 * place) % 360:.0f} 70% {(45, 60, 35)[place % 3]}%)" for place in range(number)]


def _reduced(batch: npt.NDArray[np.uint8], factor: int) -> list[npt.NDArray[np.uint8]]:
    from PIL import Image

    return [np.asarray(Image.fromarray(image).reduce(factor)) for image in batch]


def _data(
    points: Sequence[Point],
    positions: npt.NDArray[np.floating[Any]],
    colours: Sequence[str],
    classes: Sequence[str],
) -> str:
    """The points as JSON that ends no element: `<`, `>`, `&` and everything beyond ASCII are escapes."""
    largest = float(np.abs(positions).max(initial=0.0)) or 1.0
    x, y = np.rint(positions * (_EXTENT / largest)).astype(int).T.tolist()
    known = {
        "classes": [visible(name, 80) for name in classes],
        "colours": list(colours),
        "splits": list(SPLITS),
        "x": x,
        "y": y,
        "label": [point.label for point in points],
        "split": [point.split for point in points],
        "predicted": [-1 if point.predicted is None else point.predicted for point in points],
        "confidence": [round(100 * point.confidence, 1) for point in points],
        "path": [visible(point.path, 120) for point in points],
        "tile": tile_px(len(points)),
        "columns": columns(len(points)),
    }
    text = json.dumps(known, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _script() -> str:
    return (Path(__file__).parent / "map.js").read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}"
