"""Scores for foreign images: each equals its published definition on small cases, and tells what is far."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.special import log_softmax, softmax
from sklearn.covariance import LedoitWolf, ledoit_wolf
from sklearn.linear_model import LogisticRegression

from tasks.vgg.foreign import SCORES, Known, shrunk_covariance

HEAD = {"kernel": np.array([[1, 0, 2], [0, 1, -1]], np.float32), "bias": np.array([0, 0.5, -1], np.float32)}
IMAGES = np.array([[0.3, 0.8], [2, -1], [0, 0]], np.float32)
LOGITS = np.array([[0.3, 1.3, -1.2], [2, -0.5, 4], [0, 0.5, -1]])


def make_known(number: int = 90, channels: int = 12, classes: int = 3, seed: int = 0) -> Known:
    random = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    means = random.normal(size=(classes, channels))
    scales = random.uniform(0.2, 1, channels)
    return Known((means[labels] + scales * random.normal(size=(number, channels))).astype(np.float32), labels)


def test_maximum_softmax_is_minus_the_logarithm_of_the_largest_probability() -> None:
    assert SCORES["maximum_softmax"].score(HEAD, IMAGES) == pytest.approx(-log_softmax(LOGITS, axis=1).max(axis=1))


def test_energy_is_minus_the_logarithm_of_the_summed_exponentials() -> None:
    assert SCORES["energy"].score(HEAD, IMAGES) == pytest.approx(-np.log(np.exp(LOGITS).sum(axis=1)))


def test_nearest_neighbours_is_the_distance_of_unit_lengths_to_the_kth() -> None:
    angles = np.radians([0, 10, 20, 30, 40, 50, 60])
    known = Known(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 7, np.zeros(7, int))
    score = SCORES["nearest_neighbours"]
    found = score.score(score.fit(known), np.array([[3, 0], [0, 0.1]], np.float32))
    assert found == pytest.approx(2 * np.sin(np.radians([20, 50]) / 2), abs=1e-3)  # the third of seven, in 16 bit


def test_nearest_neighbours_takes_the_last_of_a_few() -> None:
    score = SCORES["nearest_neighbours"]
    known = Known(np.eye(2, dtype=np.float32), np.arange(2))
    assert score.score(score.fit(known), np.array([[1, 0]], np.float32)) == pytest.approx([2**0.5])


def test_mahalanobis_is_the_least_distance_to_a_class_minus_that_to_all_images() -> None:
    known, new = make_known(), make_known(7, seed=1).features
    score = SCORES["mahalanobis"]
    means = [known.features[known.labels == label].mean(axis=0) for label in range(3)]
    centred = known.features - np.stack(means)[known.labels]
    within = np.linalg.inv(LedoitWolf(assume_centered=True).fit(centred.astype(float)).covariance_)
    overall = np.linalg.inv(LedoitWolf().fit(known.features.astype(float)).covariance_)
    expected = [
        min(mahalanobis(image, mean, within) ** 2 for mean in means)
        - mahalanobis(image, known.features.mean(axis=0), overall) ** 2
        for image in new
    ]
    assert score.score(score.fit(known), new) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_virtual_logit_orders_images_as_the_probability_of_one_more_class() -> None:
    known, new = make_known(), make_known(20, seed=1).features
    score = SCORES["virtual_logit"]
    arrays = score.fit(known)

    def parts(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        principal = np.linalg.svd(known.features - known.features.mean(axis=0))[2][: arrays["principal"].shape[1]]
        centred = images - known.features.mean(axis=0)
        outside = centred - centred @ principal.T @ principal
        return np.linalg.norm(outside, axis=1), images @ arrays["kernel"] + arrays["bias"]

    lengths, logits = parts(known.features)
    scale = logits.max(axis=1).sum() / lengths.sum()
    lengths, logits = parts(new)
    probability = softmax(np.column_stack([logits, scale * lengths]), axis=1)[:, -1]
    found = score.score(arrays, new)
    assert 1 / (1 + np.exp(-found)) == pytest.approx(probability, rel=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_head_is_a_logistic_regression_whose_logits_add_up_to_0(classes: int) -> None:
    known = make_known(classes=classes)
    expected = LogisticRegression(C=10, tol=1e-8, max_iter=5000).fit(known.features, known.labels)
    logits = known.features @ known.linear["kernel"] + known.linear["bias"]
    assert softmax(logits, axis=1) == pytest.approx(expected.predict_proba(known.features), abs=1e-3)
    assert logits.sum(axis=1) == pytest.approx(np.zeros(90), abs=1e-3)


@pytest.mark.parametrize("number", [4, 30, 900])
def test_covariance_is_shrunk_as_by_scikit_learn(number: int) -> None:
    centred = make_known(number, classes=1).features.astype(float)
    centred -= centred.mean(axis=0)
    assert shrunk_covariance(centred) == pytest.approx(ledoit_wolf(centred, assume_centered=True)[0])


@pytest.mark.parametrize("number", [12, 60, 600])
def test_directions_are_the_principal_ones_with_few_images_and_with_many(number: int) -> None:
    known = make_known(number, channels=40)
    expected = np.linalg.svd(known.features - known.features.mean(axis=0), full_matrices=False)
    rank = min(number - 1, 40)
    assert known.directions.shape == (40, rank)
    assert np.abs((known.directions.T @ expected[2][:rank].T).diagonal()) == pytest.approx(np.ones(rank), abs=1e-3)


@pytest.mark.parametrize("name", SCORES)
def test_one_class_and_equal_images_give_finite_scores(name: str) -> None:
    known = Known(np.ones((3, 12), np.float32), np.zeros(3, int))
    score = SCORES[name]
    assert np.isfinite(score.score(score.fit(known), make_known().features)).all()
