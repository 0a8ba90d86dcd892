"""Pooled features of few examples in a small basis: exact for a linear classifier, with no more columns than examples.

Bilinear pooling has 262,144 numbers an example, but n examples span n dimensions at most. A rotation into these changes
no product of two examples, so a regularized linear classifier is the same there; its kernel is rotated back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.vgg.head import Floats, Pooling
from tasks.vgg.training_data import Split

_SMALLEST = 1e-7
"""Directions shorter than this share of the longest one hold only rounding errors."""


@dataclass(frozen=True)
class FeatureBasis:
    """Examples in a space of few dimensions.

    Attributes:
        fitted: the examples (n, r) float32.
        basis: (inputs, r), whose columns span the space; None: the pooled features are small as they are.
    """

    fitted: Floats
    basis: npt.NDArray[np.float32] | None

    def kernel(self, kernel: Floats) -> Floats:
        """A kernel (r, classes) in this basis -> the same one for the pooled features (inputs, classes)."""
        return kernel if self.basis is None else self.basis @ kernel


def take_feature_basis(pooling: Pooling, splits: Sequence[Split]) -> FeatureBasis:
    """Read and pool the splits, one after the other, in a basis that they span.

    `average_maximum` is small as it is. For `bilinear` all of the examples are in memory, 1 MB each.
    """
    inputs = np.concatenate([split.pooled(pooling) for split in splits])
    if pooling != "bilinear":
        return FeatureBasis(inputs, None)
    lengths, directions = np.linalg.eigh((inputs @ inputs.T).astype(np.float64))
    kept = lengths > _SMALLEST * lengths[-1]
    basis = inputs.T @ (directions[:, kept] / np.sqrt(lengths[kept])).astype(np.float32)
    return FeatureBasis(inputs @ basis, basis)
