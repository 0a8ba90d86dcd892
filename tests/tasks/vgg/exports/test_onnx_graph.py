"""The ONNX graph, compared with the NumPy head and the preprocessing function."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from tasks.errors import ExportError
from tasks.vgg.backbone import preprocess
from tasks.vgg.exports import onnx_graph
from tasks.vgg.exports.parity import run_onnx
from tasks.vgg.exports.safe_graphs import check_onnx
from tasks.vgg.head import Dense, Head, Pooling, pool
from tasks.vgg.weights import BLOCKS, Weights

CLASSES = ("ant", "Ä\"b'<>", "cat")


def zero_weights() -> Weights:
    """VGG16 whose first channels pass the input through, so that the answer is known without the network.

    Only the last block is as wide as VGG16's: heads are.
    """
    weights: Weights = {}
    inputs = 3
    for block, (width, convolutions) in enumerate(BLOCKS, 1):
        filters = width if block == len(BLOCKS) else 3
        for conv in range(1, convolutions + 1):
            kernel = np.zeros((3, 3, inputs, filters), np.float32)
            kernel[1, 1, range(3), range(3)] = 1
            weights[f"block{block}_conv{conv}/kernel"] = kernel
            weights[f"block{block}_conv{conv}/bias"] = np.zeros(filters, np.float32)
            inputs = filters
    return weights


def random_head(pooling: Pooling) -> Head:
    rng = np.random.default_rng(0)
    inputs = {"average_maximum": 1024, "flatten": 7 * 7 * 512, "bilinear": 512 * 512}[pooling]
    hidden = Dense(
        rng.normal(0, 0.05, (inputs, 16)).astype(np.float32), rng.normal(0, 1, 16).astype(np.float32), "relu"
    )
    last = Dense(rng.normal(0, 0.05, (16, 3)).astype(np.float32), rng.normal(0, 1, 3).astype(np.float32), "softmax")
    return Head(pooling, (hidden, last))


@pytest.mark.parametrize("pooling", ["average_maximum", "flatten", "bilinear"])
def test_onnx_answers_as_the_head_on_known_features(pooling: Pooling) -> None:
    cells = np.random.default_rng(1).uniform(0, 255, (2, 7, 7, 3)).astype(np.float32)  # one a feature
    pixels = np.kron(cells, np.ones((1, 32, 32, 1), np.float32))
    head = random_head(pooling)
    passed = np.maximum(preprocess(cells), 0)
    features = np.zeros((2, 7, 7, 512), np.float32)
    features[..., :3] = passed
    model = onnx_graph.build_onnx(head, CLASSES, zero_weights())
    assert check_onnx(model) is None
    probabilities, pooled = run_onnx(model, pixels)
    np.testing.assert_allclose(probabilities, head.probabilities(features), atol=1e-5)
    np.testing.assert_allclose(pooled, pool(features, "average_maximum"), atol=1e-5)


def test_onnx_averages_over_the_mirror_image() -> None:
    cells = np.random.default_rng(1).uniform(0, 255, (3, 7, 7, 3)).astype(np.float32)
    pixels = np.kron(cells, np.ones((1, 32, 32, 1), np.float32))
    head, weights = random_head("flatten"), zero_weights()
    kernel = weights["block5_conv3/kernel"]
    kernel[1] = np.roll(kernel[1], 1, axis=0)  # a column at the border is lost, so the mirror image has other features
    plain = onnx_graph.build_onnx(head, CLASSES, weights)
    both = onnx_graph.build_onnx(head, CLASSES, weights, test_time_augmentation=True)
    onnx.checker.check_model(onnx.load_from_string(both), full_check=True)
    (seen, features), (mirrored, _) = run_onnx(plain, pixels), run_onnx(plain, pixels[:, :, ::-1].copy())
    probabilities, own_features = run_onnx(both, pixels)
    np.testing.assert_allclose(probabilities, (seen + mirrored) / 2, atol=1e-6)
    np.testing.assert_allclose(own_features, features, atol=1e-6)
    assert abs(probabilities - seen).max() > 0.01


def test_onnx_is_valid_and_carries_the_classes() -> None:
    head, weights = random_head("average_maximum"), zero_weights()
    model = onnx.load_from_string(onnx_graph.build_onnx(head, CLASSES, weights))
    onnx.checker.check_model(model, full_check=True)
    assert json.loads(model.metadata_props[0].value) == list(CLASSES)


def test_onnx_refuses_a_preprocessing_that_it_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "preprocess", lambda rgb: np.sqrt(rgb))
    with pytest.raises(ExportError, match="preprocess"):
        onnx_graph.colour_matrix()
