"""Adds the formats in 8-bit integers to an export, and measures on held-out images what each of them costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.images.folds import groups_of
from tasks.images.manifest import Example, read_duplicates, read_examples
from tasks.images.shards import open_shards
from tasks.reports.metrics import rounded
from tasks.reports.uncertainty import compare_paired
from tasks.settings import Settings
from tasks.vgg.calibration import calibrate
from tasks.vgg.exports.checks import choose
from tasks.vgg.exports.description import add_to_litert
from tasks.vgg.exports.int8 import LITERT_INT8, ONNX_INT8, Int8Process, build_onnx_int8
from tasks.vgg.exports.parity import Difference, measure_difference, run_onnx
from tasks.vgg.exports.template import Outline
from tasks.vgg.head import Floats
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.trained_model import Trained
from tasks.vgg.weights import Weights
from tasks.workspace import Workspace

MOST = 1000
"""At most so many held-out images are predicted, each class in turn."""
FORMATS = {"onnx_int8": ("ONNX in int8", ONNX_INT8), "tflite_int8": ("LiteRT in int8", LITERT_INT8)}
"""By the name in `export.formats`: the name for people, and the file."""


@dataclass(frozen=True)
class Price:
    """What a format in 8-bit integers costs.

    Attributes:
        difference: from the trained model.
        accuracy: of the trained model (`first`) and of the format (`second`) on the same images; see `compare_paired`.
        left_out: why the format was left out, in words; None if it wasn't.
    """

    difference: Difference
    accuracy: dict[str, Any]
    left_out: str | None


def add_int8(
    folder: Path,
    trained: Trained,
    weights: Weights,
    outline: Outline,
    description: dict[str, Any],
    settings: Settings,
    workspace: Workspace,
) -> list[Price]:
    """Write the formats that are wanted and lose little, and measure each.

    Raises:
        ExportError: LiteRT's converter failed.
    """
    wanted = [name for name in FORMATS if name in settings.export.formats]
    if not wanted:
        return []
    examples, shards = read_examples(workspace.prepared), open_shards(workspace.shards)
    chosen = choose([one for one in examples if one.split == "test"], MOST)
    keys = [one.key for one in chosen]
    pixels = shards.read(keys)
    expected = np.concatenate(
        list(predict_probabilities(trained.head, trained.backbone, trained.test_time_augmentation, workspace, keys))
    )
    group_of = groups_of(examples, read_duplicates(workspace.prepared))
    prices = []
    for name in wanted:
        form, file = FORMATS[name]
        if name == "onnx_int8":
            train = [one.key for one in examples if one.split == "train"]
            calibration = calibrate(weights, train, shards.read)
            content = build_onnx_int8((folder / "model.onnx").read_bytes(), calibration.ranges)
            predicted = run_onnx(content, pixels)[0]
        else:
            with Int8Process() as process:
                process.build(outline, trained.head, weights, pixels)
                content, predicted = process.result()
        price = _price(form, predicted, expected, chosen, group_of, trained.classes, settings.export.max_int8_loss)
        prices.append(price)
        if not price.left_out:
            (folder / file).write_bytes(content)
            if name == "tflite_int8":
                add_to_litert(folder / file, description)
    return prices


def _price(
    form: str,
    predicted: Floats,
    expected: Floats,
    chosen: list[Example],
    group_of: dict[str, str],
    classes: tuple[str, ...],
    most: float,
) -> Price:
    labels = np.array([classes.index(one.label) for one in chosen])
    groups = np.unique([group_of[one.key] for one in chosen], return_inverse=True)[1]
    accuracy = rounded(compare_paired(expected.argmax(axis=1) == labels, predicted.argmax(axis=1) == labels, groups))
    lost, (low, high) = accuracy["difference"], accuracy["difference_ci95"]
    reason = None
    if lost > most:
        reason = (
            f"{form} is left out: its accuracy on {len(chosen)} held-out images is lower by {lost:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}), more than export.max_int8_loss={most:g}"
        )
    return Price(measure_difference(form, predicted, expected), accuracy, reason)
