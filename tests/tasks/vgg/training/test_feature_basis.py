"""The basis of pooled features: the same classifier, in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks.vgg.head import Head
from tasks.vgg.training.feature_basis import take_feature_basis
from tasks.vgg.training.logistic_regression import fit_layer, new_model
from tasks.vgg.training_data import read_pooled
from tests.tasks.vgg.training.made_splits import make_splits


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


def test_bilinear_features_are_in_memory_once(tmp_path: Path) -> None:
    splits = make_splits(tmp_path, (300, 100), channels=128)
    once = 400 * 128 * 128 * 4
    tracemalloc.start()
    try:
        basis = take_feature_basis("bilinear", splits)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert basis.fitted.shape[1] < 400
    assert held < 1.2 * once
    assert peak < 1.6 * once
