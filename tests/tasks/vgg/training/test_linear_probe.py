"""The linear probe: its fits converge, and the choice of C finds the lowest log loss at little cost."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks import parallel
from tasks.params import load_settings
from tasks.scores import log_losses
from tasks.settings import ClassWeight
from tasks.vgg import training_data
from tasks.vgg.head import Dense, softmax
from tasks.vgg.training import linear_probe, logistic_regression
from tasks.vgg.training.feature_basis import take_feature_basis
from tasks.vgg.training.linear_probe import fit_linear_probe, try_values
from tasks.vgg.training.logistic_regression import cross_validate, fit_layer, new_model
from tasks.vgg.training.outcome import example_weights
from tasks.vgg.training_data import Split, sample_splits
from tests.tasks.steps import Change
from tests.tasks.vgg.training.made_splits import make_splits, write_splits

PROJECT = Path(__file__).parents[4]
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


def by_validation(splits: list[Split]) -> tuple[np.ndarray, list[np.ndarray]]:
    labels = np.concatenate([split.labels for split in splits])
    return labels, [np.arange(len(labels)) >= len(splits[0])]


@pytest.fixture
def many_classes(tmp_path: Path) -> list[Split]:
    return make_splits(tmp_path, (800, 200), classes=40, channels=64, noise=1.5)


def test_every_strength_is_fitted_to_the_end(many_classes: list[Split]) -> None:
    """With many classes the gradient is small everywhere: a loose tolerance is met before a fit has begun."""
    labels, held_out = by_validation(many_classes)
    inputs = take_feature_basis("average_maximum", many_classes).fitted
    warm = [new_model("none")]
    losses = [cross_validate(warm, "none", value, inputs, labels, held_out, 40)["log_loss"] for value in STRENGTHS]
    assert all(abs(one - other) > 1e-3 for one, other in pairwise(losses))
    for value, measured in zip(STRENGTHS, losses, strict=True):
        cold = cross_validate([new_model("none")], "none", value, inputs, labels, held_out, 40)["log_loss"]
        assert cold == pytest.approx(measured, abs=3e-3)


def test_fit_that_is_not_finished_is_reported(
    many_classes: list[Split], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, labels = take_feature_basis("average_maximum", many_classes[:1]).fitted, many_classes[0].labels
    fit_layer(new_model("none"), 30.0, inputs, labels, 40)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logistic_regression, "_MAX_ITERATIONS", 3)
    for _ in range(2):
        fit_layer(new_model("none"), 30.0, inputs, labels, 40)
        assert "C=30 stopped after 3 iterations, before it converged" in capsys.readouterr().err


@pytest.mark.parametrize("weight", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_fit_is_the_exact_one_of_scikit_learn(tmp_path: Path, classes: int, weight: ClassWeight) -> None:
    split, _ = make_splits(tmp_path, (400, 100), classes=classes, channels=16, noise=1.5)
    labels = np.minimum(split.labels, np.arange(400) % classes)  # the first class has the most examples
    inputs = take_feature_basis("average_maximum", [split]).fitted
    model = new_model(weight)
    for value in (300.0, 0.3, 30.0):
        layer = fit_layer(model, value, inputs, labels, classes)
        known = {"class_weight": None if weight == "none" else weight, "tol": 1e-9, "max_iter": 10_000}
        expected = LogisticRegression(C=value, **known).fit(inputs.astype(np.float64), labels)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            softmax(inputs @ layer.kernel + layer.bias), expected.predict_proba(inputs), atol=2e-5
        )


def test_fit_in_pieces_is_the_same_on_any_number_of_cores(
    many_classes: list[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = take_feature_basis("average_maximum", many_classes[:1]).fitted, many_classes[0].labels
    whole = fit_layer(new_model("balanced"), 30.0, inputs, labels, 40)
    monkeypatch.setattr(logistic_regression, "_ROWS", 70)
    one, three = (fit_on(cores, inputs, labels, monkeypatch) for cores in (1, 3))
    np.testing.assert_array_equal(one.kernel, three.kernel)
    np.testing.assert_allclose(one.kernel, whole.kernel, atol=1e-5)


def fit_on(cores: int, inputs: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Dense:
    monkeypatch.setattr(parallel, "usable_cores", lambda: cores)
    return fit_layer(new_model("balanced"), 30.0, inputs, labels, 40)


def test_many_examples_are_fitted_as_in_memory_without_being_there(
    many_classes: list[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What grows with the examples is in a file, and computed again: the same bytes, and little memory."""
    settings = load_settings(PROJECT).train.modern
    rules = settings.model_copy(update={"inverse_regularization": (30.0,)})
    monkeypatch.setattr(logistic_regression, "_ROWS", 70)

    def fit() -> tuple[bytes, int]:
        tracemalloc.start()
        try:
            probe = fit_linear_probe(rules, "none", 40, *many_classes, poolings=["average_maximum"])
            return probe.head.layers[0].kernel.tobytes(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    kernel, peak = fit()
    monkeypatch.setattr(training_data, "IN_MEMORY", 100)
    monkeypatch.setattr(logistic_regression, "IN_MEMORY", 100)
    in_file, small_peak = fit()
    assert in_file == kernel
    assert small_peak < peak - 4 * 1000 * 128  # the pooled features, once
    assert [path.name for path in many_classes[0].features.headers[0].path.parent.iterdir()] == [
        many_classes[0].features.headers[0].path.name
    ]


@pytest.mark.parametrize(
    ("values", "lowest", "tried"),
    [
        ([1.0, 3.0, 10.0], 3.0, [1.0, 3.0, 10.0]),
        ([3.0, 1.0], 200.0, [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]),
        ([2.0, 5.0], 1e9, [2.0, 5.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]),
        ([1.0, 3.0], 0.1, [0.03, 0.1, 0.3, 1.0, 3.0]),
        ([1.0, 3.0], 0.0, [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]),
        ([3.0], 200.0, [3.0]),
    ],
)
def test_values_go_on_while_the_best_lies_at_an_end(values: list[float], lowest: float, tried: list[float]) -> None:
    def measure(value: float) -> dict[str, float]:
        return {"inverse_regularization": value, "log_loss": abs(np.log(value) - np.log(max(lowest, 1e-9)))}

    assert [one["inverse_regularization"] for one in try_values(values, measure)] == tried


def test_probe_finds_a_strength_beyond_the_settings(tmp_path: Path, change: Change) -> None:
    train, validation = make_splits(tmp_path, (200, 100), classes=5, channels=32, noise=0.5)
    rules = change("train.modern.inverse_regularization=[0.3, 1.0]").train.modern
    summary = fit_linear_probe(rules, "none", 5, train, validation, poolings=["average_maximum"]).summary
    losses = {one["inverse_regularization"]: one["log_loss"] for one in summary["candidates"]}
    best = summary["chosen"]["inverse_regularization"]
    assert best > 1.0
    assert losses[best] == min(losses.values())
    assert list(losses) == sorted(losses)


def test_sample_takes_every_class_by_its_share(tmp_path: Path) -> None:
    labels = np.array([0] * 100 + [1] * 50 + [2] * 2 + [0, 1] * 24, np.int32)
    arrays = np.ones((len(labels), 1, 1, 2))
    splits = write_splits(tmp_path, arrays, labels, 152)
    assert sample_splits(splits, 200) == splits
    train, validation = sample_splits(splits, 50)
    assert Counter(train.labels.tolist()) == {0: 25, 1: 12, 2: 1}
    assert Counter(validation.labels.tolist()) == {0: 6, 1: 6}
    for whole, part in zip(splits, (train, validation), strict=True):
        assert list(part.keys) == [key for key in whole.keys if key in set(part.keys)]
        assert [dict(zip(whole.keys, whole.labels, strict=True))[key] for key in part.keys] == part.labels.tolist()
    turned = [Split(one.features, one.keys[::-1], one.labels[::-1]) for one in splits]
    assert [set(one.keys) for one in sample_splits(turned, 50)] == [set(train.keys), set(validation.keys)]


def test_strength_is_chosen_on_a_sample_and_fitted_to_all(
    many_classes: list[Split], change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(models, weight, value, inputs, *rest):  # type: ignore[no-untyped-def]
        measured.append(len(inputs))
        return cross_validate(models, weight, value, inputs, *rest)

    monkeypatch.setattr(linear_probe, "cross_validate", measure)
    monkeypatch.setattr(linear_probe, "CHOICE_IMAGES", 500)
    rules = change("train.modern.inverse_regularization=[1.0, 10.0]").train.modern
    probe = fit_linear_probe(rules, "none", 40, *many_classes)
    assert set(measured) == {500}
    assert probe.summary["chosen_on"] == "100 of the validation images"
    chosen = probe.summary["chosen"]["inverse_regularization"]
    monkeypatch.setattr(linear_probe, "CHOICE_IMAGES", 1000)
    one_value = change(f"train.modern.inverse_regularization=[{chosen}]").train.modern
    whole = fit_linear_probe(one_value, "none", 40, *many_classes)
    assert set(measured) == {500, 1000}
    assert whole.summary["chosen_on"] == "validation"
    np.testing.assert_array_equal(probe.validation_probabilities, whole.validation_probabilities)


def unequal(folder: Path) -> list[Split]:
    """280 easy examples of two classes, and 20 of a third one that need strong regularization."""
    random = np.random.default_rng(0)
    labels = np.array(([0, 1] * 7 + [2]) * 20, np.int32)
    means = np.array([[4.0, 0, 1, 1], [0, 4.0, 1, 1], [1.5, 1.5, 1.5, 1]])
    arrays = means[labels][:, None, None] + random.normal(scale=1.0, size=(300, 1, 1, 4))
    return write_splits(folder, np.maximum(0, arrays), labels, 200)


def test_balanced_weights_hold_for_the_choice_too(tmp_path: Path, change: Change) -> None:
    train, validation = unequal(tmp_path)
    rules = change("train.modern.inverse_regularization=[10.0]").train.modern
    for weight, weights in (("none", None), ("balanced", example_weights(validation.labels, "balanced"))):
        probe = fit_linear_probe(rules, weight, 3, train, validation)  # type: ignore[arg-type]
        [candidate] = probe.summary["candidates"]
        losses = log_losses(probe.validation_probabilities, validation.labels)
        assert candidate["log_loss"] == pytest.approx(np.average(losses, weights=weights), abs=1e-3)


def test_folds_predict_each_image_by_a_fit_that_never_saw_it(tmp_path: Path) -> None:
    splits = make_splits(tmp_path, (60, 20), classes=3, channels=16, noise=1.0)
    keys = [key for split in splits for key in split.keys]
    fold_of = {key: number % 5 for number, key in enumerate(keys[:-1])}
    rules = load_settings(PROJECT).train.modern
    before = fit_linear_probe(rules, "none", 3, *splits, fold_of).folds
    assert before is not None
    assert set(before.keys) == set(keys[:-1])
    turned = replace(splits[0], labels=np.where(np.arange(60) == 7, (splits[0].labels + 1) % 3, splits[0].labels))
    fixed = rules.model_copy(update={"inverse_regularization": (10.0,)})
    one, other = (
        fit_linear_probe(fixed, "none", 3, split, splits[1], fold_of, poolings=("average_maximum",)).folds
        for split in (splits[0], turned)
    )
    assert one is not None
    assert other is not None
    same = np.array([fold_of[key] == fold_of[keys[7]] for key in one.keys])
    np.testing.assert_array_equal(one.probabilities[same], other.probabilities[same])
    assert (one.probabilities[~same] != other.probabilities[~same]).any()
