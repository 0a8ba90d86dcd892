"""A small workspace as `evaluate` finds it: real shards, tables and trained heads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import read_json, write_json
from tasks.images.manifest import Example, Quarantined, write_duplicates, write_examples, write_quarantine
from tasks.images.shards import write_shard
from tasks.params import load_settings
from tasks.settings import Settings
from tasks.vgg.head import Dense, Head
from tasks.vgg.trained_model import Trained, save_trained
from tasks.workspace import FEATURES, PREPARED, TRAINED

ROOT = Path(__file__).parents[2]
STRATEGIES = ("feature_extraction", "head_replacement")
Right = dict[str, float]
"""Split -> share of its images that a strategy predicts rightly."""


def make_settings(
    strategies: tuple[str, ...] = STRATEGIES[:1], worst_mistakes: int = 3, class_weight: str = "none"
) -> Settings:
    settings = load_settings(ROOT)
    evaluate = settings.evaluate.model_copy(update={"worst_mistakes": worst_mistakes})
    train = settings.train.model_copy(update={"class_weight": class_weight})
    return settings.model_copy(update={"strategies": strategies, "evaluate": evaluate, "train": train})


def make_workspace(
    workspace: Path, right: dict[str, Right], classes: tuple[str, ...] = ("ants", "bees"), a_split: int = 10
) -> Path:
    """Write what the earlier stages leave: images, their features, one trained head a strategy.

    An image's features are the logits that the strategies are to give, side by side; each head picks its own.
    """
    examples, features = [], []
    for split in ("train", "validation", "test"):
        for number in range(a_split):
            label = number % len(classes)
            key = hashlib.sha256(f"{split}{number}".encode()).hexdigest()
            path = f"{split}/{classes[label]}/{number}.jpg"
            examples.append(Example(key, path, classes[label], split, 300, 200, "JPEG", ""))
            features.append(_logits(right, split, number, label, a_split, len(classes)))
    data = np.stack(features).astype(np.float16)
    scores = {"light": 0.5, "contrast": 0.5, "sharpness": 0.5, "single_colour_share": 0.5}
    rows = [{"key": example.key, "scores": scores} for example in examples]
    prepared, cached = workspace / PREPARED, workspace / FEATURES / "block5_pool"
    for folder, array in ((prepared / "shards", np.full((len(rows), 224, 224, 3), 9, np.uint8)), (cached, data)):
        folder.mkdir(parents=True)
        write_shard(folder, rows, array, "test")
    write_examples(prepared, examples)
    write_duplicates(prepared, [])
    write_quarantine(prepared, [Quarantined("x.jpg", "00", classes[0], "truncated", "ends early")])
    source = {"uri": "s3://key:SECRET@host/images"}
    counts = {"discovered": 32, "accepted": 30, "quarantined": 1, "excluded": {"hidden": 1}, "source": source}
    splits = dict.fromkeys(("train", "validation", "test"), a_split // len(classes))
    by_class = {"quarantined_by_code": {"truncated": 1}, "classes": dict.fromkeys(classes, splits)}
    write_json(prepared / "summary.json", {**counts, **by_class})
    _train(workspace, right, classes, examples, data)
    return workspace


def _logits(right: dict[str, Right], split: str, number: int, label: int, a_split: int, classes: int) -> np.ndarray:
    logits = np.zeros((1, 1, len(right) * classes))
    for place, shares in enumerate(right.values()):
        hit = number < round(shares.get(split, 1.0) * a_split)
        predicted = label if hit else (label + 1) % classes
        logits[0, 0, place * classes + predicted] = 2 + number / 16
    return logits


def _train(
    workspace: Path, right: dict[str, Right], classes: tuple[str, ...], examples: list[Example], data: np.ndarray
) -> None:
    held_out = [place for place, example in enumerate(examples) if example.split == "validation"]
    for place, strategy in enumerate(right):
        kernel = np.zeros((data.shape[-1], len(classes)), np.float32)
        kernel[place * len(classes) : (place + 1) * len(classes)] = np.eye(len(classes))
        head = Head("flatten", (Dense(kernel, np.zeros(len(classes), np.float32), "softmax"),))
        summary = {"backbone": {"engine": "test"}, "history": {"loss": [1.0, 0.5]}, "seconds": 12.5}
        keys = tuple(examples[one].key for one in held_out)
        probabilities = head.probabilities(data[held_out])
        trained = Trained(strategy, "modern", classes, head, {}, False, None, keys, probabilities, summary)
        save_trained(workspace / TRAINED / strategy, trained)


def read(workspace: Path, name: str) -> Any:
    return read_json(workspace / "reports" / name)
