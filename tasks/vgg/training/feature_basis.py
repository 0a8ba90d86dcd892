"""Pooled features as a linear classifier learns from them: centred, and with no more columns than examples.

Both changes are exact. The classifier's intercept isn't regularized, so it takes up any shift of the inputs; without
the mean that all images share, a fit needs fewer steps. n examples span n dimensions at most, and a rotation into these
changes no product of two examples (bilinear pooling has 262,144 numbers an example). The fitted layer is turned back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.errors import TrainingError
from tasks.parallel import on_all_cores
from tasks.vgg.head import Dense, Floats, Pooling
from tasks.vgg.training_data import Split, read_pooled

_SMALLEST = 1e-7
"""Directions shorter than this share of the longest one hold only rounding errors."""
_COLUMNS = 1 << 15
"""Features of a piece; a fixed number, so that the sums are the same on any number of cores."""


@dataclass(frozen=True)
class FeatureBasis:
    """Examples in a space of few dimensions.

    Attributes:
        fitted: the examples (n, r) float32, with the mean 0.
        pooled: the pooled features (n, inputs); None: `fitted` has their columns.
        directions: (n, r); `pooled.T @ directions` spans the space. None: `fitted` has the columns of the features.
        mean: of the pooled features (inputs,).
    """

    fitted: Floats
    pooled: Floats | None
    directions: Floats | None
    mean: Floats

    def layer(self, fitted: Dense) -> Dense:
        """A layer for `fitted` -> the same one for pooled features."""
        kernel = fitted.kernel
        if self.pooled is not None and self.directions is not None:
            kernel = self.pooled.T @ (self.directions @ kernel)
        return Dense(kernel, fitted.bias - self.mean @ kernel, fitted.activation)


def take_feature_basis(pooling: Pooling, splits: Sequence[Split]) -> FeatureBasis:
    """Read and pool the splits, one after the other; all pooled features are in memory (`bilinear`: 1 MB an image).

    Raises:
        TrainingError: a feature is not a finite number.
    """
    pooled = read_pooled(splits, pooling)
    _require_finite(pooled)
    mean = pooled.mean(axis=0, dtype=np.float64).astype(np.float32)
    if len(pooled) >= pooled.shape[1]:
        pooled -= mean
        return FeatureBasis(pooled, None, None, mean)
    products = _products(pooled)  # centred without a copy of the features:
    squares, vectors = np.linalg.eigh(_centred(_centred(products).T))
    kept = squares > _SMALLEST * squares[-1]
    lengths, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    return FeatureBasis((vectors * lengths).astype(np.float32), pooled, (vectors / lengths).astype(np.float32), mean)


def _products(pooled: Floats) -> npt.NDArray[np.float64]:
    """Products of all pairs of examples (n, n): sums over pieces of the features, added in their order."""
    cuts = [slice(start, start + _COLUMNS) for start in range(0, pooled.shape[1], _COLUMNS)]
    products = np.zeros((len(pooled), len(pooled)))
    for some in on_all_cores(lambda cut: pooled[:, cut] @ pooled[:, cut].T, cuts):
        products += some
    return products


def _require_finite(pooled: Floats) -> None:
    broken = int((~np.isfinite(pooled.sum(axis=1))).sum())  # a mask of all values would take a quarter of their memory
    if broken:
        raise TrainingError(
            f"The features of {broken} images are NaN or infinite. Compute them again: "
            "rm -r data/features && dvc repro --force --single-item features"
        )


def _centred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred: npt.NDArray[np.float64] = values - values.mean(axis=0)
    return centred
