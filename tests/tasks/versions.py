"""Versions for the tests of the gate: the files that a run leaves, with drawn images and a tiny exported model."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.evaluated import pack_predictions
from tasks.files import sha256_hex, write_bytes, write_json
from tasks.images.manifest import Example, Memory, write_duplicates, write_examples, write_memory
from tasks.images.perceptual_hash import hash_and_thumbnail
from tasks.images.shards import write_shard
from tasks.reports.metrics import measure, rounded
from tasks.workspace import Workspace
from tests.tasks.exporting import compare_red_with_green, tiny_model

CLASSES = ("ant", "bee")
SPLITS = ("train", "train", "validation", "test")


@cache
def draw(number: int) -> np.ndarray:
    """A photograph of coarse spots, (224, 224, 3) uint8: even numbers are more red (ants), odd ones more green."""
    spots = np.random.default_rng(number).integers(0, 160, (6, 6, 3)).astype(np.uint8)
    spots[..., number % 2] = np.minimum(spots[..., number % 2].astype(int) + 90, 255)
    return np.array(Image.fromarray(spots).resize((224, 224), Image.Resampling.BICUBIC))


def example(number: int, split: str, key: str = "") -> Example:
    label = CLASSES[number % 2]
    key = key or hashlib.sha256(str(number).encode()).hexdigest()
    return Example(key, f"{label}/{number}.png", label, split, 224, 224, "PNG", "")


def examples(count: int, split_of: Callable[[int], str] = lambda number: SPLITS[number // 2 % 4]) -> list[Example]:
    return [example(number, split_of(number)) for number in range(count)]


def answers(pixels: Sequence[np.ndarray], sharpness: float = 0.05) -> np.ndarray:
    """What that model answers (n, 2)."""
    logits = sharpness * np.array([image.reshape(-1, 3).mean(axis=0)[:2] for image in pixels])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def write_version(
    folder: Path,
    rows: Sequence[Example],
    images: Mapping[str, np.ndarray] | None = None,
    change: Callable[[np.ndarray, Sequence[Example]], np.ndarray] = lambda predicted, _: predicted,
    *,
    sharpness: float = 0.05,
    **evaluated: Any,
) -> Workspace:
    """Write the files of a version.

    Args:
        folder: for them.
        rows: the examples.
        images: key -> pixels, if they are not those of `draw`.
        change: what is kept as predicted for the test images, from what the model answers.
        sharpness: of the model.
        evaluated: more of reports/evaluation.json, such as `foreign`.
    """
    workspace = Workspace.at(folder)
    known = images or {}
    pixels = {one.key: known.get(one.key, draw(int(Path(one.path).stem))) for one in rows}
    shards = [
        {
            "key": key,
            "pixels": sha256_hex(image.tobytes()),
            "look": base64.b64encode(hash_and_thumbnail(image)).decode(),
        }
        for key, image in pixels.items()
    ]
    workspace.shards.mkdir(parents=True)
    write_shard(workspace.shards, shards, np.stack(list(pixels.values())), "test")
    write_examples(workspace.prepared, list(rows))
    write_duplicates(workspace.prepared, [])
    write_memory(workspace.prepared, Memory({one.key: one.split for one in rows}))
    test = [one for one in rows if one.split == "test"]
    predicted = change(answers([pixels[one.key] for one in test], sharpness), test)
    labels = np.array([CLASSES.index(one.label) for one in test])
    tested = rounded(measure(predicted, labels, CLASSES))
    evaluation = {"champion": "c", "classes": list(CLASSES), "strategies": {"c": {"test": tested}}, **evaluated}
    write_json(workspace.evaluation, evaluation)
    headline = {name: tested[name] for name in ("accuracy", "accuracy_ci95", "n", "log_loss")}
    write_json(workspace.metrics, {"champion": "c", "strategies": {"c": {"test": headline}}})
    write_bytes(workspace.predictions, pack_predictions([one.key for one in test], predicted))
    content = tiny_model(compare_red_with_green(sharpness))
    write_bytes(workspace.export / "model.onnx", content)
    decoder, digests = {"background_rgb": [255, 255, 255]}, {"model.onnx": sha256_hex(content)}
    write_json(workspace.export / "export.json", {"classes": list(CLASSES), "decoder": decoder, "sha256": digests})
    return workspace
