"""A workspace in which `export` can run: images, a head of random numbers, and an evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks import export, ingest, prepare
from tasks.files import write_json
from tasks.images.manifest import read_examples
from tasks.images.shards import Writer, open_shards
from tasks.reports.metrics import measure
from tasks.settings import Settings
from tasks.vgg import inference
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.head import Dense, Head
from tasks.vgg.trained_model import Trained, save_trained
from tasks.vgg.weights import Weights
from tasks.workspace import EVALUATION, FEATURES, PREPARED, SHARDS, TRAINED, Workspace
from tests.tasks.vgg.small_weights import tiny_weights

CLASSES = ("ant", "bee")


def make_ready(workspace: Path, source: Path, change: Callable[..., Settings]) -> Path:
    """A workspace after `evaluate`: prepared images, a trained head of random numbers, and its metrics."""
    settings = change(
        f"source.uri={source}", "prepare.min_entropy_bits=0", "prepare.max_pixels=1024", "export.parity_images=2"
    )
    ingest.run(settings, Workspace.at(workspace))
    prepare.run(settings, Workspace.at(workspace))
    save_trained(workspace / TRAINED / "feature_extraction", trained_on(1024))
    champion = {
        "recipe": "modern",
        "description": "",
        "test": measure(np.tile([[0.6, 0.4]], (4, 1)), np.array([0, 1, 0, 1]), CLASSES),
        "backbone": {},
        "training": {},
    }
    data = {"accepted": 24, "quarantined": 0, "excluded": {}, "classes": {}, "source": str(source)}
    evaluation = {
        "champion": "feature_extraction",
        "classes": list(CLASSES),
        "strategies": {"feature_extraction": champion},
        "answers": {"wanted_precision": 0.95, "thresholds": [0.7, None], "promises": [], "curve": []},
        "data": data,
    }
    write_json(workspace / EVALUATION, evaluation)
    return workspace


def trained_on(inputs: int, seed: int = 0) -> Trained:
    """A model with a head of random numbers; the inputs are twice the channels of the backbone."""
    kernel = np.random.default_rng(seed).normal(0, 3, (inputs, 2)).astype(np.float32)
    head = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    answers = np.zeros((0, 2), np.float32)
    return Trained("feature_extraction", "modern", CLASSES, head, {}, False, None, (), answers, {"backbone": {}})


def make_tiny(ready: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace with a model on a miniature of VGG16."""
    for module in (export, inference):
        monkeypatch.setattr(module, "load_weights", tiny_weights)
    save_trained(ready / TRAINED / "feature_extraction", trained_on(16))
    store_features(ready, tiny_weights())
    return ready


def store_features(workspace: Path, weights: Weights, factor: float = 1) -> None:
    """The held-out images' bottleneck features, times a factor."""
    keys = [one.key for one in read_examples(workspace / PREPARED) if one.split == "test"]
    extract = build_extractor(Engine("ncnn", "float32"), weights, (BOTTLENECK,), len(keys))
    folder = workspace / FEATURES / BOTTLENECK
    shutil.rmtree(folder, ignore_errors=True)
    writer = Writer(folder, "features", 64)
    for key, features in zip(keys, extract(open_shards(workspace / SHARDS).read(keys))[0], strict=True):
        writer.add({"key": key}, features * np.float16(factor))
    writer.close()
    write_json(folder / RECIPE, {"engine": "ncnn", "precision": "float32"})
