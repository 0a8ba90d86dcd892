"""The table of an export's formats: how much each differs from the trained model, what it costs, how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.int8_formats import FORMATS, Price
from tasks.vgg.exports.parity import Difference

PARITY = "parity.json"
_FILES = {
    "SavedModel": ("saved_model", "saved_model"),
    "ONNX": ("onnx", "model.onnx"),
    "LiteRT": ("tflite", "model.tflite"),
    **{form: (name, file) for name, (form, file) in FORMATS.items()},
}
_DIGITS = 3
"""Of differences: computers differ in the seventh digit, and the file must not."""


def format_table(folder: Path, differences: Sequence[Difference], prices: Sequence[Price]) -> list[dict[str, Any]]:
    """One row for each format, in the order of `export.formats`' names in the docs.

    Args:
        folder: of the new export.
        differences: of the formats in float32, on `export.parity_images` images and their variants.
        prices: of those in 8-bit integers, on held-out images.

    Returns:
        For each `format`, `file`, `images`, `largest_difference` and `median_difference` of probabilities,
        `changed_answers`, `bytes`; for int8 `accuracy` (see `compare_paired`), and `left_out` instead of `bytes`, if it
        was left out.
    """
    rows = [_row(folder, one) for one in differences]
    for price in prices:
        row = {**_row(folder, price.difference), "accuracy": price.accuracy}
        if price.left_out:
            row = {**{key: value for key, value in row.items() if key != "bytes"}, "left_out": price.left_out}
        rows.append(row)
    return sorted(rows, key=lambda row: [name for name, _ in _FILES.values()].index(row["format"]))


def _row(folder: Path, one: Difference) -> dict[str, Any]:
    name, file = _FILES[one.form]
    return {
        "format": name,
        "name": one.form,
        "file": file,
        "images": one.images,
        "largest_difference": round(one.largest, _DIGITS),
        "median_difference": round(one.median, _DIGITS),
        "changed_answers": one.changed,
        "bytes": _size(folder / file),
    }


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files if one.is_file())
