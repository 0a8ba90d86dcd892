"""The report in brief, as Markdown with images in it: for Prefect's UI, or a comment on a merge request.

Images are `data:` addresses, so nothing has to be served; how large it all may become is bounded.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from tasks.reports import wording
from tasks.reports.metrics import confused_pairs
from tasks.reports.text import markdown_cell, percent, visible

MAX_BYTES = 250_000
THUMBNAIL_PX = 120
_PER_ROW = 4
_LISTED = 10
_NUMBERED_CLASSES = 20
_DRAWN_CLASSES = 100
_LARGEST_DRAWING = 90_000


def render_markdown(
    evaluation: Mapping[str, Any], images: Sequence[npt.NDArray[np.uint8]], files: Mapping[str, str]
) -> str:
    """Write the brief.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
        images: one (height, width, 3) uint8 RGB image for each of the first of `evaluation["mistakes"]`.
        files: what else there is, name -> address or path.

    Returns:
        Markdown of at most `MAX_BYTES` bytes or a little more, however many images and classes there are.
    """
    classes, champion = evaluation["classes"], evaluation["champion"]
    test = evaluation["strategies"][champion]["test"]
    low, high = test["accuracy_ci95"]
    interval = f"95 % interval {percent(low)} to {percent(high)}"
    right = f"**{percent(test['accuracy'])}** of {test['n']:,} held-out images are answered right ({interval})."
    parts = [
        f"# {markdown_cell(wording.title(classes))}",
        f"{right} {wording.verdict(test)}",
        wording.calibration_verdict(test, evaluation["calibration"]),
        "## Strategies",
        _strategies(evaluation),
        "## Confusion matrix",
        _confusion(test["confusion"], classes),
        "## Weakest classes",
        _weakest(test["per_class"]),
        "## Data",
        markdown_cell(wording.data_sentence(evaluation["data"])),
        "## More",
        "\n".join(f"- {name}: {_link(address)}" for name, address in files.items()),
    ]
    mistakes = _mistakes(evaluation["mistakes"], images, MAX_BYTES - len("\n\n".join(parts).encode()))
    parts[5:5] = ["## Worst mistakes", mistakes]
    return "\n\n".join(parts)


def _strategies(evaluation: Mapping[str, Any]) -> str:
    rows = ["| strategy | recipe | test accuracy | 95 % interval | validation accuracy |", "|---|---|---:|---:|---:|"]
    for name, one in evaluation["strategies"].items():
        test = one["test"]
        low, high = test["accuracy_ci95"]
        shown = f"**{name}**" if name == evaluation["champion"] else name
        rows.append(
            f"| {shown} | {one['recipe']} | {percent(test['accuracy'])} | {percent(low)} to {percent(high)} "
            f"| {percent(one['validation']['accuracy'])} |"
        )
    return "\n".join(rows)


def _mistakes(mistakes: Sequence[Mapping[str, Any]], images: Sequence[Any], budget: int) -> str:
    """Thumbnails, a few a row, as many as the budget of bytes allows."""
    if not mistakes:
        return "None: every held-out image is answered right."
    cells: list[str] = []
    for mistake, image in zip(mistakes, images, strict=False):
        actual, predicted = (markdown_cell(mistake[name], 40) for name in ("actual", "predicted"))
        said = f"{predicted} ({percent(mistake['probability'])}), is {actual}"
        cell = f"![{actual}]({thumbnail(image)}) {said}"
        budget -= len(cell.encode())
        if budget < 0:
            break
        cells.append(cell)
    left = len(mistakes) - len(cells)
    more = [f"{left} more are in the report."] if left else []
    if not cells:
        return more[0]
    width = min(_PER_ROW, len(cells))
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    lines = ["| " * width + "|", "|---" * width + "|"]
    lines += ["| " + " | ".join([*row, *[""] * (width - len(row))]) + " |" for row in rows]
    return "\n\n".join(["What it was surest of, and wrong:", "\n".join(lines), *more])


def thumbnail(pixels: npt.NDArray[np.uint8]) -> str:
    """A small JPEG as a `data:` address; made from pixels alone, so no metadata can come along."""
    small = Image.fromarray(pixels)
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return _data("image/jpeg", file.getvalue())


def _confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """The matrix as an image; of too many classes, the pairs that are confused most."""
    pairs = confused_pairs(confusion, classes)[:_LISTED]
    told = ["| is | answered | images |", "|---|---|---:|"]
    for pair in pairs:
        actual, predicted = (markdown_cell(pair[name], 60) for name in ("actual", "predicted"))
        told.append(f"| {actual} | {predicted} | {pair['n']:,} |")
    parts = ["\n".join(told)] if pairs else []
    drawn = draw_confusion(confusion, classes).encode() if len(classes) <= _DRAWN_CLASSES else b""
    if drawn and len(drawn) <= _LARGEST_DRAWING:
        image = _data("image/svg+xml", drawn)
        parts.insert(0, f"Rows are the truth, columns the answers.\n\n![Confusion matrix]({image})")
    return "\n\n".join(parts)


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A confusion matrix as SVG that needs no style sheet: blue is right, red is wrong, deeper is more of the row."""
    numbered = len(classes) <= _NUMBERED_CLASSES
    cell = 36 if numbered else 10
    font = 13 if numbered else 9
    margin = 12 + round(font * 0.6 * max(len(visible(name, 18)) for name in classes))
    side = margin + cell * len(classes) + 4
    parts = [
        Markup(
            '<rect width="{}" height="{}" fill="#fff"/>'
            '<rect x="{}" y="{}" width="{}" height="{}" fill="#f4f4f4" stroke="#ccc"/>'
        ).format(side, side, margin, margin, side - margin - 4, side - margin - 4)
    ]
    for row, counts in enumerate(confusion):
        middle = margin + row * cell + cell / 2
        name = visible(classes[row], 18)
        parts.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="end">{}</text>'
                '<text transform="translate({} {}) rotate(-90)">{}</text>'
            ).format(margin - 6, middle + font / 3, name, middle + font / 3, margin - 6, name)
        )
        for column, n in enumerate(counts):
            if not n:
                continue
            x, y = margin + column * cell, margin + row * cell
            share = n / max(1, sum(counts))
            colour = "#2166ac" if row == column else "#b2182b"
            parts.append(
                Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}" fill-opacity="{:.2f}"/>').format(
                    x, y, cell, cell, colour, 0.15 + 0.85 * share
                )
            )
            if numbered:
                parts.append(
                    Markup('<text x="{}" y="{}" text-anchor="middle" fill="{}">{}</text>').format(
                        x + cell / 2, y + cell / 2 + font / 3, "#fff" if share > 0.45 else "#222", n
                    )
                )
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" viewBox="0 0 {side} {side}" '
            'font-family="sans-serif" font-size="{font}" fill="#222">{body}</svg>'
        ).format(side=side, font=font, body=Markup("").join(parts))
    )


def _weakest(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    weakest = sorted(per_class.items(), key=lambda row: (row[1]["f1"] is None, row[1]["f1"] or 0.0))[:_LISTED]
    rows = ["| class | recall | precision | images |", "|---|---:|---:|---:|"]
    rows += [
        f"| {markdown_cell(name, 60)} | {percent(one['recall'])} | {percent(one['precision'])} | {one['support']:,} |"
        for name, one in weakest
    ]
    return "\n".join(rows)


def _link(address: str) -> str:
    return f"[{address}]({address})" if "://" in address else f"`{address}`"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
