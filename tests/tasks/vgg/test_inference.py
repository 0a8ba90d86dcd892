"""Predictions by the backbone that is exported, in its precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import IntegrityError
from tasks.files import write_json
from tasks.images.augmentation import PLAIN
from tasks.images.shards import Writer
from tasks.vgg import inference
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.engines import Engine
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.exports.parity import run_onnx
from tasks.vgg.head import Dense, Head
from tasks.vgg.inference import features_reader, predict_probabilities, training_engine
from tasks.vgg.weights import Weights
from tasks.workspace import SHARDS, Workspace
from tests.tasks.vgg.small_weights import tiny_weights

KEYS = ("a", "b", "c")


@pytest.fixture
def place(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with three prepared images, whose features ncnn computed."""
    monkeypatch.setattr(inference, "load_weights", tiny_weights)
    writer = Writer(workspace / SHARDS, "images", 8)
    for key, image in zip(KEYS, images(), strict=True):
        writer.add({"key": key}, image)
    writer.close()
    place = Workspace.at(workspace)
    write_json(place.features / BOTTLENECK / RECIPE, {"engine": "ncnn", "precision": "float32"})
    return place


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(KEYS), 224, 224, 3)).astype(np.uint8)


def tuned(factor: float) -> Weights:
    """The last block of a backbone whose outputs grew in training."""
    scale = np.float32(factor)
    return {name: value * scale for name, value in tiny_weights().items() if name.startswith("block5_conv3")}


def some_head() -> Head:
    kernel = np.random.default_rng(0).normal(0, 3, (16, 2)).astype(np.float32)
    return Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))


def test_outputs_beyond_16_bits_are_predicted_as_the_exported_model_predicts_them(place: Workspace) -> None:
    head, backbone = some_head(), tuned(1e4)
    found = np.concatenate(list(predict_probabilities(head, backbone, False, place, KEYS)))
    exported = build_onnx(head, ("ant", "bee"), {**tiny_weights(), **backbone})
    np.testing.assert_allclose(found, run_onnx(exported, images().astype(np.float32))[0], atol=1e-4)


def test_outputs_that_are_no_numbers_are_refused(place: Workspace) -> None:
    with pytest.raises(IntegrityError, match="its training diverged"):
        list(predict_probabilities(some_head(), tuned(np.inf), False, place, KEYS))


def test_predictions_show_the_outputs_that_they_come_from(place: Workspace) -> None:
    seen: list[tuple[Sequence[str], np.ndarray]] = []
    list(predict_probabilities(some_head(), tuned(2), True, place, KEYS, lambda *batch: seen.append(batch)))
    [(keys, outputs)] = seen
    assert keys == KEYS
    np.testing.assert_array_equal(outputs, features_reader(tuned(2), place)(KEYS, PLAIN))


BFLOAT16 = {"training_engine": "tensorflow", "training_precision": "bfloat16"}
INT8 = {"training_engine": "onnxruntime", "training_precision": "int8"}


def test_network_is_built_again_only_for_another_backbone_or_engine(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    build = inference.build_extractor

    def building(engine: Engine, *arguments: Any, **named: Any) -> Any:
        built.append(engine.precision)
        return build(Engine("ncnn", "float32"), *arguments, **named)

    monkeypatch.setattr(inference, "build_extractor", building)
    one, other = tuned(2), tuned(3)
    first, again, last = (features_reader(backbone, place)(KEYS, PLAIN) for backbone in (one, one, other))
    assert built == ["float32"] * 2
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(last, first)
    features_reader(other, place, Engine("tensorflow", "bfloat16"))
    features_reader(one, place)
    assert built == ["float32", "float32", "bfloat16", "float32"]


@pytest.mark.parametrize(
    ("training", "engine"),
    [({}, Engine("ncnn", "float32")), (BFLOAT16, Engine("tensorflow", "bfloat16")), (INT8, Engine("ncnn", "float32"))],
)
def test_training_images_keep_their_engine_unless_it_needs_the_published_weights(
    place: Workspace, training: dict[str, str], engine: Engine
) -> None:
    recipe = {"engine": "ncnn", "precision": "float32", **training}
    write_json(place.features / BOTTLENECK / RECIPE, recipe)
    assert training_engine(place) == engine
