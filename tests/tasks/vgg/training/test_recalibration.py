"""Recalibration: undoes a known temperature and bias, leaves good probabilities alone, is exact in the head."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.scores import log_loss
from tasks.vgg.head import Dense, Head, softmax
from tasks.vgg.training.outcome import FoldPredictions, Outcome
from tasks.vgg.training.recalibration import Recalibration, choose_recalibration, fit_recalibration, recalibrate
from tasks.vgg.training_data import Material, Split

N = 2000


def draw(seed: int, classes: int, n: int = N):
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    labels = np.array([rng.choice(classes, p=row) for row in softmax(logits)])
    return logits, labels


def choose(probabilities, labels):
    return choose_recalibration(probabilities.astype(np.float32), labels, np.arange(len(labels)), np.ones(len(labels)))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_finds_a_known_temperature(temperature):
    logits, labels = draw(0, 5)
    chosen = choose(softmax(logits * temperature), labels)
    assert chosen.recalibration.method == "temperature"
    assert chosen.recalibration.temperature == pytest.approx(temperature, rel=0.1)
    assert chosen.summary["log_loss"]["temperature"] < chosen.summary["log_loss"]["none"]


def test_leaves_calibrated_probabilities_alone():
    logits, labels = draw(1, 5)
    probabilities = softmax(logits).astype(np.float32)
    chosen = choose(probabilities, labels)
    assert chosen.recalibration.method == "none"
    assert np.array_equal(chosen.probabilities, probabilities)


def test_corrects_a_class_that_is_predicted_too_often():
    logits, labels = draw(2, 3)
    chosen = choose(softmax(logits + np.array([2, 0, 0])), labels)
    assert chosen.recalibration.method == "temperature_and_bias"
    assert chosen.recalibration.bias[0] - chosen.recalibration.bias[1:].mean() == pytest.approx(-2, abs=0.25)


def test_predicts_each_example_without_its_own_group():
    logits, labels = draw(3, 3, 200)
    groups = np.arange(200) // 4
    probabilities = softmax(logits * 4).astype(np.float32)
    before = choose_recalibration(probabilities, labels, groups, np.ones(200)).probabilities
    flipped = np.where(groups == 7, (labels + 1) % 3, labels)
    after = choose_recalibration(probabilities, flipped, groups, np.ones(200)).probabilities
    assert np.array_equal(before[groups % 5 == 2], after[groups % 5 == 2])
    assert not np.array_equal(before[groups % 5 != 2], after[groups % 5 != 2])


def test_weighs_examples_as_training_does():
    logits, labels = draw(4, 2)
    weights = np.where(labels == 0, 9.0, 1.0)
    fitted = fit_recalibration("temperature_and_bias", softmax(logits), labels, weights)
    assert log_loss(fitted.apply(softmax(logits)), labels, weights) < log_loss(softmax(logits), labels, weights)
    assert fitted.bias[0] > fitted.bias[1]


@pytest.mark.parametrize("layers", [1, 2])
def test_the_head_predicts_what_the_recalibration_says(layers):
    rng = np.random.default_rng(5)
    dense = [Dense(rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32), "softmax")]
    if layers == 2:
        dense.insert(0, Dense(rng.normal(size=(8, 8)).astype(np.float32), np.zeros(8, np.float32), "relu"))
    head = Head("average_maximum", tuple(dense))
    features = rng.normal(size=(6, 7, 7, 4)).astype(np.float32)
    change = Recalibration("temperature_and_bias", 1.7, np.array([0.4, -0.1, -0.3]))
    expected = change.apply(head.probabilities(features))
    assert np.allclose(change.into(head).probabilities(features), expected, atol=1e-6)


def test_one_class_missing_and_few_examples_do_no_harm():
    probabilities = softmax(np.random.default_rng(6).normal(size=(3, 4))).astype(np.float32)
    chosen = choose(probabilities, np.array([1, 1, 0]))
    assert np.isfinite(chosen.probabilities).all()
    assert np.isfinite(chosen.recalibration.bias).all()


def test_undo_gives_the_probabilities_from_before():
    probabilities = softmax(np.random.default_rng(7).normal(size=(50, 4))).astype(np.float32)
    change = Recalibration("temperature_and_bias", 0.6, np.array([0.3, 0.2, -0.1, -0.4]))
    assert np.allclose(change.undo(change.apply(probabilities)), probabilities, atol=1e-5)


@pytest.mark.parametrize("with_folds", [True, False])
def test_an_outcome_is_recalibrated_as_a_whole(with_folds):
    logits, labels = draw(8, 3, 400)
    keys = tuple(f"{number:03}" for number in range(400))
    splits = [Split(None, keys[cut], labels[cut].astype(np.int32)) for cut in (slice(0, 300), slice(300, 400))]
    material = Material("s", ("a", "b", "c"), *splits, None, {}, None, {key: int(key) for key in keys})
    over = softmax(logits * 3).astype(np.float32)
    head = Head("average_maximum", (Dense(np.eye(8, 3, dtype=np.float32), np.zeros(3, np.float32), "softmax"),))
    folds = FoldPredictions(keys, over) if with_folds else None
    outcome = recalibrate(Outcome(head, {}, over[300:], {"phases": 1}, folds=folds), material, "none")
    about = outcome.summary["recalibration"]
    assert about["method"] == "temperature"
    assert about["examples"] == (400 if with_folds else 100)
    assert np.allclose(outcome.head.layers[0].kernel, head.layers[0].kernel / about["temperature"], rtol=1e-5)
    assert log_loss(outcome.validation_probabilities, labels[300:]) < log_loss(over[300:], labels[300:])
    assert (outcome.folds is not None) == with_folds
    if with_folds:
        assert log_loss(outcome.folds.probabilities, labels) < log_loss(over, labels)
