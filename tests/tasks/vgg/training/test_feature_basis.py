"""The basis of pooled features: the same classifier, in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks.errors import TrainingError
from tasks.vgg.head import Head, Pooling
from tasks.vgg.training import feature_basis
from tasks.vgg.training.feature_basis import take_feature_basis
from tasks.vgg.training.logistic_regression import fit_layer, new_model
from tasks.vgg.training_data import read_pooled
from tests.tasks.vgg.training.made_splits import make_splits, write_splits


@pytest.mark.parametrize("examples", [12, 120])  # fewer than the 16 columns of pooled features, and more
def test_layer_fitted_in_the_basis_is_the_one_fitted_to_pooled_features(tmp_path: Path, examples: int) -> None:
    splits = make_splits(tmp_path, (examples * 2 // 3, examples // 3))
    basis = take_feature_basis("average_maximum", splits)
    labels = np.concatenate([split.labels for split in splits])
    layer = basis.layer(fit_layer(new_model("none"), 30.0, basis.fitted, labels, 3))
    pooled = read_pooled(splits, "average_maximum")
    plain = LogisticRegression(C=30.0, tol=1e-10, max_iter=10_000).fit(pooled.astype(np.float64), labels)
    features = splits[0].features.read([key for split in splits for key in split.keys])
    given = Head("average_maximum", (layer,)).probabilities(features)
    np.testing.assert_allclose(given, plain.predict_proba(pooled), atol=2e-3)


@pytest.mark.parametrize("block_bytes", [1 << 30, 4 * 60 * 16 * 3, 1], ids=["one block", "3 channels", "1 channel"])
def test_bilinear_blocks_give_the_layer_that_is_fitted_to_all_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(feature_basis, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(feature_basis, "_ROWS", 25)
    splits = make_splits(tmp_path, (40, 20), channels=16)
    basis = take_feature_basis("bilinear", splits)
    labels = np.concatenate([split.labels for split in splits])
    layer = basis.layer(fit_layer(new_model("none"), 30.0, basis.fitted, labels, 3))
    pooled = read_pooled(splits, "bilinear")
    plain = LogisticRegression(C=30.0, tol=1e-10, max_iter=10_000).fit(pooled.astype(np.float64), labels)
    features = splits[0].features.read([key for split in splits for key in split.keys])
    given = Head("bilinear", (layer,)).probabilities(features)
    np.testing.assert_allclose(given, plain.predict_proba(pooled), atol=2e-3)
    np.testing.assert_allclose(layer.kernel.reshape(16, 16, 3), layer.kernel.reshape(16, 16, 3).transpose(1, 0, 2))


def test_memory_does_not_hold_the_products_of_all_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_basis, "_BLOCK_BYTES", 1 << 20)
    splits = make_splits(tmp_path, (300, 100), channels=128)
    tracemalloc.start()
    try:
        basis = take_feature_basis("bilinear", splits)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert basis.fitted.shape[1] < 400
    products = 400 * 128 * 128 * 4
    assert held < 0.1 * products
    assert peak < 0.4 * products


@pytest.mark.parametrize("pooling", ["average_maximum", "bilinear"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_counted(tmp_path: Path, pooling: Pooling, broken: float) -> None:
    arrays = np.ones((30, 2, 2, 8))
    arrays[7, 1, 0, 5] = arrays[20, 0, 0, 0] = broken
    with pytest.raises(TrainingError, match="The features of 2 images are NaN or infinite"):
        take_feature_basis(pooling, write_splits(tmp_path, arrays, np.arange(30, dtype=np.int32) % 3, 20))
