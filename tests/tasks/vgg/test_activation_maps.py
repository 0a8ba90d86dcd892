"""The shares of the places in what a head says add up to it exactly."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.vgg.activation_maps import explain
from tasks.vgg.head import Dense, Head, Pooling, pool

RNG = np.random.default_rng(0)
FEATURES = np.maximum(RNG.normal(0, 5, (4, 7, 7, 12)), 0)
INPUTS: dict[Pooling, int] = {"flatten": 588, "average_maximum": 24, "bilinear": 144}


def make_head(pooling: Pooling, hidden: int | None, seed: int = 1) -> Head:
    rng = np.random.default_rng(seed)

    def layer(inputs: int, units: int, activation: str) -> Dense:
        kernel, bias = rng.normal(size=(inputs, units)), rng.normal(size=units)
        return Dense(kernel.astype(np.float32), bias.astype(np.float32), activation)  # type: ignore[arg-type]

    if hidden is None:
        return Head(pooling, (layer(INPUTS[pooling], 3, "softmax"),))
    return Head(pooling, (layer(INPUTS[pooling], hidden, "relu"), layer(hidden, 3, "softmax")))


def logits(head: Head, features: np.ndarray) -> np.ndarray:
    values = pool(features[np.newaxis], head.pooling).astype(np.float64)[0]
    for layer in head.layers:
        values = values @ layer.kernel + layer.bias
        values = np.maximum(values, 0) if layer.activation == "relu" else values
    return values


@pytest.mark.parametrize("pooling", INPUTS)
@pytest.mark.parametrize("hidden", [None, 10], ids=["linear", "hidden layer"])
def test_places_and_constant_add_up_to_the_difference_of_the_logits(pooling: Pooling, hidden: int | None) -> None:
    head = make_head(pooling, hidden)
    for features in FEATURES:
        found = explain(head, features, 2, 0)
        assert found.places.shape == (7, 7)
        values = logits(head, features)
        np.testing.assert_allclose(found.places.sum() + found.constant, values[2] - values[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", INPUTS)
def test_map_of_the_other_class_is_the_opposite(pooling: Pooling) -> None:
    head = make_head(pooling, 10)
    there, back = explain(head, FEATURES[0], 1, 2), explain(head, FEATURES[0], 2, 1)
    np.testing.assert_allclose(there.places, -back.places, atol=1e-9)
    assert there.constant == pytest.approx(-back.constant)


@pytest.mark.parametrize("pooling", INPUTS)
@pytest.mark.parametrize("hidden", [None, 10], ids=["linear", "hidden layer"])
def test_randomised_weights_change_the_map(pooling: Pooling, hidden: int | None) -> None:
    """J. Adebayo et al., Sanity Checks for Saliency Maps, 2018: a map that survives this shows the image only."""
    maps = [
        np.stack([explain(make_head(pooling, hidden, seed), features, 0, 1).places.ravel() for features in FEATURES])
        for seed in (1, 2)
    ]
    similarity = np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1]
    assert abs(similarity) < 0.35


def test_channel_speaks_where_it_is_active() -> None:
    features = np.zeros((2, 2, 2))
    features[0, 1] = (3, 0)
    features[1, 0] = (0, 4)
    kernel = np.zeros((4, 2), np.float32)
    kernel[:, 0] = (1, -1, 1, -1)  # average and maximum of channel 0 speak for class 0, of channel 1 against it
    head = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    found = explain(head, features, 0, 1)
    np.testing.assert_allclose(found.places, [[0, 3 / 5 + 3 / 5], [-4 / 5 - 4 / 5, 0]], atol=1e-6)
    assert found.constant == 0


def test_equal_maxima_share_what_the_maximum_says() -> None:
    features = np.zeros((1, 4, 1))
    features[0, 1:3] = 5
    kernel = np.array([[0, 0], [1, 0]], np.float32)  # of the maximum alone
    head = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    np.testing.assert_allclose(explain(head, features, 0, 1).places, [[0, 0.5, 0.5, 0]], atol=1e-6)


@pytest.mark.parametrize("pooling", INPUTS)
def test_image_without_any_activation_says_the_constant_alone(pooling: Pooling) -> None:
    head = make_head(pooling, None)
    found = explain(head, np.zeros((7, 7, 12)), 0, 1)
    assert not found.places.any()
    assert found.constant == pytest.approx(float(head.layers[0].bias[0] - head.layers[0].bias[1]))
