"""The check of int8 finds real losses and no others, and the calibration is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.images.folds import assign_folds
from tasks.images.manifest import Duplicate, Example
from tasks.vgg import calibration, quantized
from tasks.vgg.calibration import Calibration, calibrate, check, load_calibration, save_calibration


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
    return (centres[:, np.newaxis] + rng.normal(size=(count, 16))).astype(np.float32), labels


def test_small_rounding_passes_and_says_how_sure_that_is() -> None:
    features, labels = some_features()
    verdict = check(features, np.round(features * 64) / 64, images_of(labels), [])
    assert verdict.passed
    assert "of 200 validation images" in verdict.reason
    assert "log loss higher by" in verdict.reason


def test_harm_is_seen() -> None:
    features, labels = some_features()
    noise = np.random.default_rng(4).normal(scale=2, size=features.shape).astype(np.float32)
    assert not check(features, features + noise, images_of(labels), []).passed
    assert not check(features, -features, images_of(labels), []).passed


def test_few_images_tell_nothing() -> None:
    features, labels = some_features(98)
    verdict = check(features, features, images_of(labels), [])
    assert not verdict.passed
    assert verdict.reason == "98 validation images are too few to tell whether int8 costs accuracy"
    assert not check(features[:0], features[:0], images_of([]), []).passed
    assert not check(np.tile(features, (2, 1)), np.tile(features, (2, 1)), images_of(["ant"] * 196), []).passed


def test_classes_of_less_than_an_image_a_fold_are_left_out() -> None:
    features, labels = some_features()
    rare = ["cat"] * 4
    verdict = check(
        np.vstack([features, features[:4]]), np.vstack([features, features[:4]]), images_of(labels + rare), []
    )
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
    assert check(features, features, examples, twins).passed
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
