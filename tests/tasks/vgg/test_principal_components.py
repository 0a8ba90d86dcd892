"""The map's directions are scikit-learn's, and don't depend on chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tasks.images.shards import open_shards, write_shard
from tasks.vgg import principal_components as module
from tasks.vgg.principal_components import principal_components, read_averages


def test_positions_are_those_of_scikit_learn_but_for_the_sign() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 5)) * [5, 1, 3, 0.5, 0.1] + 7
    positions, explained = principal_components(rows)
    expected = PCA(2).fit(rows)
    assert np.abs(positions) == pytest.approx(np.abs(expected.transform(rows)))
    assert explained == pytest.approx(expected.explained_variance_ratio_.sum())


def test_sign_of_a_direction_is_fixed() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3)) * [5, 3, 1]
    mirrored, _ = principal_components(-rows)
    assert principal_components(rows)[0] == pytest.approx(-mirrored)


@pytest.mark.parametrize("rows", [np.ones((1, 4)), np.ones((5, 4)), np.array([[1.0], [2.0]])])
def test_images_without_a_second_direction_are_all_at_one_place(rows: np.ndarray) -> None:
    positions, explained = principal_components(rows)
    assert (positions.tolist(), explained) == ([[0.0, 0.0]] * len(rows), 0.0)


def test_features_are_averaged_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    features = np.random.default_rng(0).random((5, 2, 2, 3)).astype(np.float16)
    features[4] = 0
    keys = [f"{number:064x}" for number in range(5)]
    write_shard(tmp_path, [{"key": key} for key in keys], features, "test")
    means = features.astype(float).mean(axis=(1, 2))
    means[:4] /= np.linalg.norm(means[:4], axis=1, keepdims=True)
    found = read_averages(open_shards(tmp_path), keys[::-1])
    assert found == pytest.approx(means[::-1], abs=1e-6)
