"""The preprocessing, eagerly and in graphs, and the two forms of the backbone, which must agree."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.errors import WeightsError
from tasks.vgg import backbone
from tasks.vgg.backbone import BOUNDARIES, boundary_shape, check_preprocessing, preprocess

RGB = np.array([[[255.0, 0, 0], [0, 255, 0]], [[0, 0, 255], [1, 2, 3]]], np.float32)
EXPECTED = np.array(
    [
        [[-103.939, -116.779, 131.32], [-103.939, 138.221, -123.68]],
        [[151.061, -116.779, -123.68], [-100.939, -114.779, -122.68]],
    ],
    np.float32,
)


def test_preprocess_gives_bgr_minus_mean_without_scale() -> None:
    np.testing.assert_allclose(preprocess(RGB), EXPECTED, atol=1e-4)
    assert preprocess(RGB).dtype == np.float32


def test_check_preprocessing_passes_what_is_right() -> None:
    check_preprocessing()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rgb: rgb - np.array([123.68, 116.779, 103.939], np.float32),
        lambda rgb: rgb[..., ::-1] / 255,
        lambda rgb: rgb[..., ::-1] / 127.5 - 1,
        lambda rgb: rgb[..., ::-1] - np.array([123.68, 116.779, 103.939], np.float32),
        lambda rgb: rgb[..., ::-1],
    ],
    ids=["rgb order", "scaled to 1", "scaled to -1...1", "mean of the other order", "no mean"],
)
def test_check_preprocessing_catches(monkeypatch: pytest.MonkeyPatch, wrong: object) -> None:
    monkeypatch.setattr(backbone, "preprocess", wrong)
    with pytest.raises(WeightsError, match="BGR, minus mean, not scaled"):
        check_preprocessing()


def test_boundary_shapes_are_those_of_vgg16() -> None:
    assert [boundary_shape(boundary) for boundary in BOUNDARIES] == [
        (112, 112, 64),
        (56, 56, 128),
        (28, 28, 256),
        (14, 14, 512),
        (7, 7, 512),
    ]


def test_preprocess_is_that_of_keras_eagerly_and_in_a_dataset() -> None:
    import keras
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.float32)
    theirs = keras.applications.vgg16.preprocess_input(images.copy())
    np.testing.assert_allclose(preprocess(images), theirs, atol=1e-4)
    np.testing.assert_allclose(preprocess(tf.constant(images)).numpy(), theirs, atol=1e-4)
    mapped = tf.data.Dataset.from_tensor_slices(images).map(preprocess)
    np.testing.assert_allclose(np.stack(list(mapped.as_numpy_iterator())), theirs, atol=1e-4)
