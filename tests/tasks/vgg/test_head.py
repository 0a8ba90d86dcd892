"""The head computes the same in NumPy and in Keras."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load, save

from tasks.vgg.head import Dense, Head, Pooling, pool, restore, softmax

RNG = np.random.default_rng(0)
FEATURES = RNG.gamma(1.0, 5.0, (6, 3, 3, 8)).astype(np.float16)


def make_head(pooling: Pooling) -> Head:
    inputs = {"flatten": 72, "average_maximum": 16, "bilinear": 64}[pooling]
    hidden = Dense(RNG.normal(size=(inputs, 5)).astype(np.float32), np.ones(5, np.float32), "relu")
    classes = Dense(RNG.normal(size=(5, 3)).astype(np.float32), np.zeros(3, np.float32), "softmax")
    return Head(pooling, (hidden, classes))


@pytest.mark.parametrize("pooling", ["flatten", "average_maximum", "bilinear"])
def test_head_gives_probabilities(pooling: Pooling) -> None:
    found = make_head(pooling).probabilities(FEATURES)
    assert (found.shape, found.dtype) == ((6, 3), np.float32)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_pooled_parts_have_unit_length() -> None:
    pooled = pool(FEATURES, "average_maximum")
    assert (pooled.shape, pooled.dtype) == ((6, 16), np.float32)
    for part in (pooled[:, :8], pooled[:, 8:]):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-6)
    means = FEATURES.astype(np.float32).mean(axis=(1, 2))
    np.testing.assert_allclose(pooled[:, :8], means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)


def test_features_without_any_activation_pool_to_numbers() -> None:
    assert np.array_equal(pool(np.zeros((1, 2, 2, 4), np.float16), "average_maximum"), np.zeros((1, 8)))


def test_averages_do_not_lose_small_features_to_16_bits() -> None:
    features = np.full((1, 7, 7, 2), 1.0, np.float16)
    features[0, 0, 0, 1] = 2048
    np.testing.assert_allclose(
        pool(features, "average_maximum")[0, :2], np.array([1, 2096 / 49]) / np.hypot(1, 2096 / 49), rtol=1e-5
    )


@given(arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_softmax_never_overflows(values: np.ndarray) -> None:
    found = softmax(values)
    np.testing.assert_allclose(found, scipy.special.softmax(values.astype(np.float64), axis=1), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert (np.diff(np.take_along_axis(found, values.argsort(axis=1), axis=1)) >= 0).all()


@pytest.mark.parametrize("pooling", ["flatten", "average_maximum", "bilinear"])
def test_head_comes_back_from_its_outline_and_tensors(pooling: Pooling) -> None:
    head = make_head(pooling)
    again = restore(json.loads(json.dumps(head.outline())), load(save(head.tensors())))
    assert np.array_equal(again.probabilities(FEATURES), head.probabilities(FEATURES))


@pytest.mark.parametrize("pooling", ["flatten", "average_maximum", "bilinear"])
def test_head_in_keras_gives_the_same_probabilities(pooling: Pooling) -> None:
    import keras

    head = make_head(pooling)
    features = keras.Input(FEATURES.shape[1:])
    model = keras.Model(features, head.apply_keras(features))
    for batch in (FEATURES.astype(np.float32), np.zeros((2, 3, 3, 8), np.float32)):
        found = model(batch, training=False).numpy()
        np.testing.assert_allclose(found, head.probabilities(batch), atol=1e-6)


def test_bilinear_pooling_has_a_slope_where_channels_are_never_active_together() -> None:
    import keras
    import tensorflow as tf

    features = keras.Input(FEATURES.shape[1:])
    model = keras.Model(features, make_head("bilinear").apply_keras(features))
    apart = FEATURES.astype(np.float32)
    apart[..., 0], apart[:, :, 1:, 1], apart[:, :, :1, 2] = 0, 0, 0
    with tf.GradientTape() as tape:
        tape.watch(inputs := tf.constant(apart))
        loss = tf.reduce_sum(model(inputs, training=True)[:, 0])
    slope = tape.gradient(loss, inputs).numpy()
    assert np.isfinite(slope).all()
    assert np.abs(slope[..., 3]).max() > 0


def test_bilinear_pooling_is_the_root_of_the_mean_products() -> None:
    pooled = pool(FEATURES, "bilinear").reshape(6, 8, 8)
    places = FEATURES.astype(np.float64).reshape(6, 9, 8)
    expected = np.sqrt(np.einsum("npc,npd->ncd", places, places) / 9)
    expected /= np.sqrt((expected**2).sum(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
