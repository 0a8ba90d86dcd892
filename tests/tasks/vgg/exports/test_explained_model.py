"""Why an exported model answers as it does, told by its ONNX file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.vgg.activation_maps import explain
from tasks.vgg.backbone import preprocess
from tasks.vgg.exports.explained_model import ExplainedModel
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.head import Pooling
from tests.tasks.exporting import save_export
from tests.tasks.vgg.exports.test_onnx_graph import CLASSES, random_head, zero_weights


@pytest.mark.parametrize(
    ("pooling", "mirrored"), [("average_maximum", False), ("average_maximum", True), ("flatten", False)]
)
def test_explained_model_tells_the_places_that_the_trained_head_does(pooling: Pooling, mirrored: bool) -> None:
    head = random_head(pooling)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    features = np.zeros((7, 7, 512), np.float32)  # what zero_weights do: the channels pass, the maximum of each square
    planes = np.maximum(preprocess(pixels.astype(np.float32)), 0)
    features[..., :3] = planes.reshape(7, 32, 7, 32, 3).max(axis=(1, 3))
    views = [features, features[:, ::-1]] if mirrored else [features]
    probabilities = np.mean([head.probabilities(view[np.newaxis])[0] for view in views], axis=0)
    chosen, other = np.argsort(probabilities)[::-1][:2].tolist()
    found = ExplainedModel(build_onnx(head, CLASSES, zero_weights(), mirrored)).places(pixels)
    expected = explain(head, features, chosen, other).places
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_explained_model_refuses_another_network(tmp_path: Path) -> None:
    content = (save_export(tmp_path) / "model.onnx").read_bytes()
    with pytest.raises(ValueError, match="no VGG16"):
        ExplainedModel(content)
