"""The exported network, compared with Keras' layers and the NumPy head."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.vgg.backbone import preprocess
from tasks.vgg.head import Pooling
from tests.tasks.vgg.exports.test_template import INPUTS, random_head
from tests.tasks.vgg.keras_backbone import build_keras_backbone
from tests.tasks.vgg.small_weights import tiny_weights


@pytest.mark.parametrize("pooling", INPUTS)
def test_graph_answers_as_keras_and_numpy(pooling: Pooling) -> None:
    import keras

    from tasks.vgg.exports.graph_network import Network

    pixels = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    head = random_head(pooling, 1)
    backbone = build_keras_backbone(tiny_weights())
    features = backbone.outputs[0]
    both = keras.Model(backbone.input, [features, head.apply_keras(features)])
    seen, expected = (output.numpy() for output in both(preprocess(pixels)))
    answered = Network(head, tiny_weights())(pixels).numpy()
    np.testing.assert_allclose(answered, expected, atol=1e-4)
    np.testing.assert_allclose(answered, head.probabilities(seen), atol=1e-4)


def test_graph_averages_over_the_mirror_image() -> None:
    from tasks.vgg.exports.graph_network import Network

    pixels = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    head = random_head("flatten", 1)
    plain, both = (Network(head, tiny_weights(), averaged) for averaged in (False, True))
    expected = (plain(pixels).numpy() + plain(pixels[:, :, ::-1]).numpy()) / 2
    np.testing.assert_allclose(both(pixels).numpy(), expected, atol=1e-6)
    assert np.abs(expected - plain(pixels).numpy()).max() > 1e-3
