"""Pooled features of few examples as a linear classifier sees them: exact, and as small as there are examples.

A bilinear pooling has 262,144 numbers an example, but n examples span n dimensions at most. A rotation into these
changes no product of two examples, so a regularised linear classifier is the same there; its kernel is rotated back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.vgg.examples import Split
from tasks.vgg.head import Floats, Pooling, pool

_SMALLEST = 1e-7
"""Directions with a smaller share of the longest one's length hold rounding errors only."""


@dataclass(frozen=True)
class FeatureBasis:
    """Examples in a space of few dimensions.

    Attributes:
        fitted: those that span it (n, r) float32.
        measured: others (m, r), as far as they lie in it.
        back: (inputs, r), which turns a kernel in these coordinates into one for the pooled features.
    """

    fitted: Floats
    measured: Floats
    back: npt.NDArray[np.float32] | None

    def kernel(self, kernel: Floats) -> Floats:
        """A kernel (r, classes) in these coordinates, for the pooled features (inputs, classes)."""
        return kernel if self.back is None else self.back @ kernel


def take_feature_basis(pooling: Pooling, fitted: Sequence[Split], measured: Sequence[Split] = ()) -> FeatureBasis:
    """Read and pool the splits; gives coordinates that the `fitted` ones span.

    `average_maximum` is small as it is. For `bilinear` all of the fitted examples are in memory, 1 MB each.
    """
    inputs = _pooled(pooling, fitted)
    if pooling != "bilinear":
        others = _pooled(pooling, measured) if measured else inputs[:0]
        return FeatureBasis(inputs, others, None)
    lengths, directions = np.linalg.eigh((inputs @ inputs.T).astype(np.float64))
    kept = lengths > _SMALLEST * lengths[-1]
    back = inputs.T @ (directions[:, kept] / np.sqrt(lengths[kept])).astype(np.float32)
    found = [pool(split.features.read(keys), pooling) @ back for split in measured for keys in split.chunks()]
    others = np.concatenate(found) if found else np.empty((0, back.shape[1]), np.float32)
    return FeatureBasis(inputs @ back, others, back)


def _pooled(pooling: Pooling, splits: Sequence[Split]) -> Floats:
    return np.concatenate([split.pooled(pooling) for split in splits])
