"""Metrics, compared with scikit-learn and with their definitions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
    top_k_accuracy_score,
)
from sklearn.metrics import precision_recall_fscore_support as class_metrics

from tasks.errors import DataError, TrainingError
from tasks.reports.metrics import (
    calibration,
    confused_pairs,
    expected_calibration_error,
    measure,
    rounded,
)
from tasks.scores import predict

Predictions = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    """Random probabilities, labels (classes without images are likely) and class names."""
    n_classes, n = draw(st.integers(2, 7)), draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, draw(st.integers(1, n_classes)), n)
    logits = random.normal(size=(n, n_classes)) * draw(st.floats(0.1, 8))
    exponentials = np.exp(logits)
    probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities, labels, tuple(f"class {number}" for number in range(n_classes))


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_measure_agrees_with_scikit_learn(case: Predictions) -> None:
    probabilities, labels, classes = case
    predicted, names = predict(probabilities), range(len(classes))
    metrics = measure(probabilities, labels, classes)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["confusion"] == confusion_matrix(labels, predicted, labels=names).tolist()
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    recalls = [one["recall"] for one in metrics["per_class"].values() if one["recall"] is not None]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    clipped = np.clip(probabilities.astype(float), 1e-7, 1)
    truth = clipped[np.arange(len(labels)), labels]
    assert metrics["log_loss"] == pytest.approx(-np.log(truth).mean())
    expected = class_metrics(labels, predicted, labels=names, zero_division=np.nan)
    for number, one in enumerate(metrics["per_class"].values()):
        wanted = (expected[0][number], expected[1][number], expected[3][number])
        for value, other in zip((one["precision"], one["recall"], one["support"]), wanted, strict=True):
            assert (value is None and np.isnan(other)) or value == pytest.approx(other)


def test_measure_agrees_on_all_classes_present() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    probabilities = random.dirichlet(np.ones(4), 100)
    metrics = measure(probabilities, labels, "abcd")
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predict(probabilities)))
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, probabilities))


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_ranking_metrics_and_brier_agree_with_scikit_learn(classes: int) -> None:
    random = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, 100)])
    probabilities = random.dirichlet(np.ones(classes), len(labels)) + np.eye(classes)[labels] / 2
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), 2)  # some scores are equal
    probabilities[:, -1] = 1 - probabilities[:, :-1].sum(axis=1)
    metrics = measure(probabilities, labels, [f"c{number}" for number in range(classes)])
    one_hot = np.eye(classes)[labels]
    assert metrics["macro_roc_auc"] == pytest.approx(roc_auc_score(one_hot, probabilities, average="macro"))
    expected = average_precision_score(one_hot, probabilities, average="macro")
    assert metrics["macro_average_precision"] == pytest.approx(expected)
    for number, one in enumerate(metrics["per_class"].values()):
        assert one["roc_auc"] == pytest.approx(roc_auc_score(one_hot[:, number], probabilities[:, number]))
    assert metrics["brier"] == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))
    if classes > 2:
        expected = top_k_accuracy_score(labels, probabilities + np.linspace(1e-9, 0, classes), k=metrics["top_k"])
        assert metrics["top_k_accuracy"] == pytest.approx(expected)
    else:
        assert metrics["top_k_accuracy"] == metrics["accuracy"]


@given(predictions())
@settings(max_examples=40, deadline=None)
def test_measure_is_json_and_counts_balance(case: Predictions) -> None:
    probabilities, labels, classes = case
    metrics = measure(probabilities, labels, classes)
    json.dumps(metrics, allow_nan=False)
    assert sum(map(sum, metrics["confusion"])) == metrics["n"] == len(labels)
    assert sum(one["support"] for one in metrics["per_class"].values()) == len(labels)
    low, high = metrics["accuracy_ci95"]
    assert 0 <= low <= metrics["accuracy"] <= high <= 1


def test_measure_says_null_for_an_absent_class() -> None:
    metrics = measure(np.array([[0.8, 0.1, 0.1]]), np.array([0]), ("a", "b", "c"))
    absent = metrics["per_class"]["b"]
    assert absent.pop("support") == 0
    assert set(absent.values()) == {None}
    assert metrics["balanced_accuracy"] == 1.0


def test_measure_refuses_no_images() -> None:
    with pytest.raises(DataError, match="test_fraction"):
        measure(np.empty((0, 2)), np.empty(0, int), ("a", "b"))


def test_measure_refuses_nan() -> None:
    with pytest.raises(TrainingError, match="1 of 2 images"):
        measure(np.array([[np.nan, 1.0], [0.5, 0.5]]), np.array([0, 1]), ("a", "b"))


@pytest.mark.parametrize("probabilities", [[[0.7, 0.7]], [[0.2, 0.3, 0.5]], [[-0.5, 1.5]]])
def test_measure_refuses_what_is_not_a_distribution(probabilities: Any) -> None:
    with pytest.raises(ValueError):
        measure(np.array(probabilities), np.array([0]), ("a", "b"))


@given(predictions())
@settings(max_examples=40, deadline=None)
def test_calibration_counts_every_image_in_its_bin(case: Predictions) -> None:
    probabilities, labels, _ = case
    rows = calibration(probabilities, labels)
    assert sum(row["n"] for row in rows) == len(labels)
    assert all(row["from"] - 1e-6 <= row["confidence"] <= row["to"] + 1e-6 for row in rows)
    assert 0 <= expected_calibration_error(rows) <= 1


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    rows = calibration(probabilities, np.array([0, 1, 1, 1]))
    assert [(row["n"], row["accuracy"]) for row in rows] == [(2, 1.0), (2, 0.5)]
    assert expected_calibration_error(rows) == pytest.approx(0.5 * 0.35 + 0.5 * 0.45)


def test_confused_pairs_names_the_most_frequent_first() -> None:
    pairs = confused_pairs([[5, 1], [3, 2]], ("a", "b"))
    assert [(pair["actual"], pair["predicted"], pair["n"], pair["support"]) for pair in pairs] == [
        ("b", "a", 3, 5),
        ("a", "b", 1, 6),
    ]


def test_rounded_reaches_nested_floats() -> None:
    assert rounded({"a": [0.12345678, 1], "b": None}) == {"a": [0.123457, 1], "b": None}
