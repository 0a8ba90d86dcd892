"""The check of int8 finds real losses and no others, and the calibration is stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.images.folds import assign_folds
from tasks.images.manifest import Duplicate, Example
from tasks.vgg import calibration, quantized
from tasks.vgg.calibration import Calibration, calibrate, check, choose_checked, load_calibration, save_calibration
from tasks.vgg.head import Pooling

AVERAGE: tuple[Pooling, ...] = ("average_maximum",)


def images_of(labels: list[str]) -> list[Example]:
    return [
        Example(f"{number:064x}", f"{number}.png", label, "validation", 9, 9, "PNG", "")
        for number, label in enumerate(labels)
    ]


def some_features(count: int = 200) -> tuple[np.ndarray, list[str]]:
    """Two classes that overlap a little."""
    rng = np.random.default_rng(3)
    labels = ["ant", "bee"] * (count // 2)
    centres = np.where(np.array(labels) == "ant", 0.3, -0.3)
    return (centres[:, np.newaxis] + rng.normal(size=(count, 16))).astype(np.float32).reshape(count, 1, 1, 16), labels


def test_small_rounding_passes_and_says_how_sure_that_is() -> None:
    features, labels = some_features()
    verdict = check(features, np.round(features * 64) / 64, images_of(labels), [], AVERAGE)
    assert verdict.passed
    assert "of 200 validation images" in verdict.reason
    assert "log loss higher by" in verdict.reason


def test_harm_is_seen() -> None:
    features, labels = some_features()
    noise = np.random.default_rng(4).normal(scale=2, size=features.shape).astype(np.float32)
    assert not check(features, features + noise, images_of(labels), [], AVERAGE).passed
    assert not check(features, -features, images_of(labels), [], AVERAGE).passed


def test_rounding_that_costs_nothing_passes_whichever_way_a_coin_falls() -> None:
    """A prediction more or less that is correct is chance: of 8 roundings too small to matter, all pass."""
    features, labels = some_features()
    rng = np.random.default_rng(5)
    noise = [rng.normal(scale=0.02, size=features.shape).astype(np.float32) for _ in range(8)]
    verdicts = [check(features, features + one, images_of(labels), [], AVERAGE) for one in noise]
    assert [verdict.reason for verdict in verdicts if not verdict.passed] == []


def test_every_pooling_that_training_may_choose_must_pass() -> None:
    """Harm to single places of the feature maps, which flattened features show and maxima don't."""
    rng = np.random.default_rng(6)
    labels = ["ant", "bee"] * 100
    features = np.zeros((200, 3, 3, 4), np.float32)
    features[:, 0, 0] = 5
    features[:, 1, 1] += np.where(np.array(labels) == "ant", 1, 0)[:, np.newaxis] + rng.normal(size=(200, 4)) / 4
    moved = features.copy()
    moved[:, 1, 1], moved[:, 2, 2] = features[:, 2, 2], features[:, 1, 1]
    assert check(features, moved, images_of(labels), [], AVERAGE).passed
    verdict = check(features, moved, images_of(labels), [], (*AVERAGE, "flatten"))
    assert not verdict.passed
    assert "with average_maximum pooling" in verdict.reason
    assert "with flatten pooling" in verdict.reason


def test_few_images_tell_nothing() -> None:
    features, labels = some_features(98)
    verdict = check(features, features, images_of(labels), [], AVERAGE)
    assert not verdict.passed
    assert verdict.reason.startswith("98 validation images that don't belong together are too few to tell")
    assert not check(features[:0], features[:0], images_of([]), [], AVERAGE).passed
    twice = np.tile(features, (2, 1, 1, 1))
    assert not check(twice, twice, images_of(["ant"] * 196), [], AVERAGE).passed


def test_images_of_a_group_count_as_one() -> None:
    features, labels = some_features()
    examples = [replace(one, group=f"{number // 4}") for number, one in enumerate(images_of(labels))]
    verdict = check(features, features, examples, [], AVERAGE)
    assert verdict.reason.startswith("50 validation images that don't belong together")
    differences = np.repeat(np.random.default_rng(0).normal(size=100), 4)
    apart, together = np.arange(400), np.arange(400) // 4
    (mean, one), (same, other) = (calibration._mean_and_bound(differences, groups) for groups in (apart, together))
    assert mean == same
    assert other - mean == pytest.approx(2 * (one - mean), rel=0.01)


@pytest.mark.parametrize(("classes", "each"), [(60, 4), (101, 3), (300, 5)])
def test_many_classes_of_few_images_can_be_checked(classes: int, each: int) -> None:
    rng = np.random.default_rng(7)
    labels = [f"class {number:03d}" for number in range(classes) for _ in range(each)]
    centres = rng.normal(size=(classes, 64)).repeat(each, axis=0)
    chosen = choose_checked(images_of(labels))
    rows = [int(one.key, 16) for one in chosen]
    features = (centres + 0.3 * rng.normal(size=centres.shape))[rows].astype(np.float32).reshape(-1, 1, 1, 64)
    verdict = check(features, features, chosen, [], AVERAGE)
    assert verdict.passed, verdict.reason


def test_checked_images_are_those_of_each_class_in_turn() -> None:
    chosen = choose_checked(images_of(["ant"] * 900 + ["bee"] * 100))
    assert Counter(one.label for one in chosen) == {"ant": 156, "bee": 100}
    assert choose_checked(images_of(["ant"] * 900 + ["bee"] * 100)[::-1]) == chosen


def test_classes_of_less_than_an_image_a_fold_are_left_out() -> None:
    features, labels = some_features()
    rare = np.vstack([features, features[:4]])
    verdict = check(rare, rare, images_of(labels + ["cat"] * 4), [], AVERAGE)
    assert "of 200 validation images" in verdict.reason
    assert verdict.passed


def test_near_duplicates_stay_in_one_fold_of_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = some_features()
    examples = images_of(labels)
    twins = [Duplicate(f"{n + 2}.png", labels[n], "", f"{n}.png", "", "near", "kept_together") for n in range(0, 40, 4)]
    drawn: list[dict[str, int]] = []

    def assign(*arguments: Any) -> dict[str, int]:
        drawn.append(assign_folds(*arguments))
        return drawn[-1]

    monkeypatch.setattr(calibration, "assign_folds", assign)
    assert check(features, features, examples, twins, AVERAGE).passed
    [fold_of] = drawn
    assert all(fold_of[examples[n].key] == fold_of[examples[n + 2].key] for n in range(0, 40, 4))


def test_calibration_looks_at_the_same_images_whatever_their_order(monkeypatch) -> None:
    monkeypatch.setattr(quantized, "measure_ranges", lambda _, images: (float(images.sum()),))
    monkeypatch.setattr(calibration, "IMAGES", 2)

    def read(keys: tuple[str, ...]) -> np.ndarray:
        return np.array([int(key) for key in keys])

    assert (
        calibrate({}, ["3", "1", "2"], read) == calibrate({}, ["1", "2", "3"], read) == Calibration(("1", "2"), (3.0,))
    )


def test_calibration_is_kept_for_its_recipe_only(tmp_path: Path) -> None:
    kept = Calibration(("a", "b"), (1.5, 0.1))
    save_calibration(tmp_path, kept, "recipe")
    assert load_calibration(tmp_path, "recipe") == kept
    assert load_calibration(tmp_path, "other") is None
    (tmp_path / calibration.FILE).write_text("{")
    assert load_calibration(tmp_path, "recipe") is None
    assert load_calibration(tmp_path / "none", "recipe") is None
