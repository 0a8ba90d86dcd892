"""The short report: Markdown with images, for Prefect's UI or a comment on a merge request.

Images are `data:` addresses, so no server is needed; the size of the report is limited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.markdown_tables import markdown_table
from tasks.reports import advice, comparison_wording, weak, wording
from tasks.reports.confusion import draw_confusion
from tasks.reports.data_uris import drawing, thumbnail
from tasks.reports.metrics import confused_pairs
from tasks.reports.strategy_table import strategy_table
from tasks.reports.text import markdown_cell, percent

MAX_BYTES = 250_000
THUMBNAIL_PX = 120
_PER_ROW = 4
_LISTED = 10
_LONGEST_LINE = 800
_DRAWN_CLASSES = 100
_LARGEST_DRAWING = 90_000


def render_markdown(
    evaluation: Mapping[str, Any], images: Sequence[npt.NDArray[np.uint8]], files: Mapping[str, str]
) -> str:
    """Write the report.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
        images: one (height, width, 3) uint8 RGB image for each of the first of `evaluation["mistakes"]`.
        files: other files to link, name -> address or path.

    Returns:
        Markdown of at most `MAX_BYTES` bytes or a little more, however many images and classes there are.
    """
    classes, test = evaluation["classes"], evaluation["strategies"][evaluation["champion"]]["test"]
    accuracy = f"The test accuracy is **{percent(test['accuracy'])}** on {test['n']:,} images"
    before = [
        f"# {markdown_cell(wording.title(classes))}",
        f"{accuracy} ({wording.interval(test)}). {wording.baseline_verdict(test)}",
        *_summary(evaluation),
        "## Strategies",
        strategy_table(evaluation),
        *filter(None, [comparison_wording.recommendation(evaluation), comparison_wording.told_left_out(evaluation)]),
        "## Worst mistakes",
    ]
    after = [
        "## Confusion matrix",
        _confusion(test["confusion"], classes),
        "## Weakest classes",
        _weakest(test["per_class"]),
        "## Images",
        markdown_cell(wording.data_sentence(evaluation["data"])),
        "## More",
        "\n".join(f"- {name}: {_link(address)}" for name, address in files.items()),
    ]
    left = MAX_BYTES - len("\n\n".join([*before, *after]).encode())
    return "\n\n".join([*before, _mistakes(evaluation["mistakes"], images, left), *after])


def _summary(evaluation: Mapping[str, Any]) -> list[str]:
    """What the page says first, and the weak slices; a few lines, however many classes there are."""
    parts = []
    for heading, lines in advice.summarise(evaluation).items():
        told = [markdown_cell(line.text, _LONGEST_LINE) + f" `{line.command}`" * bool(line.command) for line in lines]
        parts += [f"## {heading}", "\n".join(f"- {text}" for text in told)]
    return [*parts, "## Where it is weak", markdown_cell(weak.weak_verdict(evaluation["weak"]), _LONGEST_LINE)]


def _mistakes(mistakes: Sequence[Mapping[str, Any]], images: Sequence[Any], budget: int) -> str:
    """Thumbnails, a few in a row, as many as the limit of bytes allows."""
    if not mistakes:
        return "None: every test image has the right prediction."
    cells: list[str] = []
    for mistake, image in zip(mistakes, images, strict=False):
        actual, predicted = (markdown_cell(mistake[name], 40) for name in ("actual", "predicted"))
        told = f"predicted {predicted} ({percent(mistake['probability'])}), actual {actual}"
        cell = f"![{actual}]({thumbnail(image, THUMBNAIL_PX)}) {told}"
        budget -= len(cell.encode())
        if budget < 0:
            break
        cells.append(cell)
    left = len(mistakes) - len(cells)
    more = [f"{left} more {'is' if left == 1 else 'are'} in the report."] if left else []
    if not cells:
        return more[0]
    width = min(_PER_ROW, len(cells))
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    lines = ["| " * width + "|", "|---" * width + "|"]
    lines += ["| " + " | ".join([*row, *[""] * (width - len(row))]) + " |" for row in rows]
    return "\n\n".join(["The most confident come first.", "\n".join(lines), *more])


def _confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """The matrix as an image, unless there are too many classes, and the pairs that are confused most."""
    parts = []
    svg = draw_confusion(confusion, classes, hover=False) if len(classes) <= _DRAWN_CLASSES else ""
    if svg and len(svg) <= _LARGEST_DRAWING:
        told = "A row is the actual class, a column the predicted class."
        parts += [told, f"![Confusion matrix]({drawing(svg)})"]
    pairs = confused_pairs(confusion, classes)[:_LISTED]
    if pairs:
        names = ("actual", "predicted")
        rows = [[*(markdown_cell(one[it], 60) for it in names), f"{one['n']:,} of {one['support']:,}"] for one in pairs]
        parts.append(markdown_table([*names, "images"], rows, right=["images"]))
    return "\n\n".join(parts)


def _weakest(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    weakest = sorted(per_class.items(), key=lambda row: (row[1]["f1"] is None, row[1]["f1"] or 0.0))[:_LISTED]
    rows = [
        [markdown_cell(name, 60), *(percent(one[metric]) for metric in ("recall", "precision")), f"{one['support']:,}"]
        for name, one in weakest
    ]
    numbers = ["recall", "precision", "test images"]
    return markdown_table(["class", *numbers], rows, right=numbers)


def _link(address: str) -> str:
    return f"[{address}]({address})" if "://" in address else f"`{address}`"
