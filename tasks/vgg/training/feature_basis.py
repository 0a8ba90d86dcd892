"""Pooled features as a linear classifier learns from them: centred, and with no more columns than examples.

Both changes are exact. The classifier's intercept isn't regularized, so it takes up any shift of the inputs; without
the mean that all images share, a fit needs fewer steps. n examples span n dimensions at most, and a rotation into these
changes no product of two examples. The fitted layer is turned back.

Bilinear pooling has 262,144 numbers an example. They are never in memory together: the products of the examples are
sums over blocks of columns, and each block is pooled when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np
import numpy.typing as npt

from tasks.errors import TrainingError
from tasks.parallel import on_all_cores
from tasks.vgg.head import Dense, Floats, Pooling, pool_products
from tasks.vgg.training_data import Split, read_each, read_pooled

_SMALLEST = 1e-7
"""Directions shorter than this share of the longest one hold only rounding errors."""
_COLUMNS = 1 << 15
"""Features of a piece; a fixed number, so that the sums are the same on any number of cores."""
_ROWS = 512
"""Examples of a piece of their products."""
_BLOCK_BYTES = 256 << 20
"""Size of a block of bilinear columns, which all examples have in memory at the same time."""

Doubles = npt.NDArray[np.float64]
Turn = Callable[[Floats], tuple[Floats, Floats]]


@dataclass(frozen=True)
class FeatureBasis:
    """Examples in a space of few dimensions.

    Attributes:
        fitted: the examples (n, r) float32, with the mean 0.
        turn: a kernel (r, units) for `fitted` -> the same one (inputs, units) for pooled features, and what it makes of
            their mean (units,).
    """

    fitted: Floats
    turn: Turn

    def layer(self, fitted: Dense) -> Dense:
        """A layer for `fitted` -> the same one for pooled features."""
        kernel, shift = self.turn(fitted.kernel)
        return Dense(kernel, (fitted.bias - shift).astype(np.float32), fitted.activation)


def take_feature_basis(pooling: Pooling, splits: Sequence[Split]) -> FeatureBasis:
    """Read and pool the splits, one after the other.

    Memory: 4 bytes for each pooled feature of each example; `bilinear`: n x n numbers, and a block of columns.

    Raises:
        TrainingError: a feature is not a finite number.
    """
    if pooling == "bilinear":
        return _bilinear_basis(splits)
    pooled = read_pooled(splits, pooling)
    _require_finite(pooled.sum(axis=1))  # a mask of all values would take a quarter of their memory
    if len(pooled) >= pooled.shape[1]:
        mean = pooled.mean(axis=0, dtype=np.float64).astype(np.float32)
        pooled -= mean
        return FeatureBasis(pooled, lambda kernel: (kernel, mean @ kernel))
    cuts = [slice(start, start + _COLUMNS) for start in range(0, pooled.shape[1], _COLUMNS)]
    products = np.zeros((len(pooled), len(pooled)))
    for some in on_all_cores(lambda cut: pooled[:, cut] @ pooled[:, cut].T, cuts):
        products += some
    return _span(products, lambda shares: pooled.T @ shares)


def _bilinear_basis(splits: Sequence[Split]) -> FeatureBasis:
    examples = sum(len(split) for split in splits)
    products = np.zeros((examples, examples))
    starts = range(0, examples, _ROWS)
    for _, block in _blocks(splits):
        flat = block.reshape(examples, -1)
        _require_finite(flat.sum(axis=1))
        parts = on_all_cores(partial(_multiply, flat), starts)
        for start, part in zip(starts, parts, strict=True):
            products[start : start + _ROWS, start:] += part
    for start in starts:  # only one of two equal products was computed
        products[start:, start : start + _ROWS] = products[start : start + _ROWS, start:].T
    return _span(products, lambda shares: _sum_bilinear(splits, shares))


def _blocks(splits: Sequence[Split]) -> Iterator[tuple[slice, Floats]]:
    """Some channels, and all examples' products of them and of the channels that follow (n, channels, rest).

    Of two channels' product, which bilinear pooling has twice, only one is here, times the square root of 2.
    """
    examples, channels = sum(len(split) for split in splits), splits[0].features.shape[-1]
    width = max(1, _BLOCK_BYTES // (4 * examples * channels))
    for start in range(0, channels, width):
        some = slice(start, min(start + width, channels))
        block = read_each(splits, partial(pool_products, channels=some))
        block[:, :, some.stop - start :] *= np.float32(sqrt(2))
        yield some, block


def _sum_bilinear(splits: Sequence[Split], shares: Floats) -> Floats:
    """The sums of all examples' bilinear features, by shares (n, units): (inputs, units)."""
    channels, units = splits[0].features.shape[-1], shares.shape[1]
    kernel = np.empty((channels, channels, units), np.float32)
    for some, block in _blocks(splits):
        flat, width = block.reshape(len(block), -1), block.shape[1]
        cuts = [slice(start, start + _COLUMNS) for start in range(0, flat.shape[1], _COLUMNS)]
        sums = np.concatenate(on_all_cores(partial(_sum, flat, shares), cuts))
        sums = sums.reshape(width, -1, units)
        sums[:, width:] /= np.float32(sqrt(2))
        kernel[some, some.start :] = sums
        kernel[some.stop :, some] = sums[:, width:].transpose(1, 0, 2)
    return kernel.reshape(-1, units)


def _multiply(flat: Floats, start: int) -> Floats:
    return flat[start : start + _ROWS] @ flat[start:].T


def _sum(flat: Floats, shares: Floats, cut: slice) -> Floats:
    return flat[:, cut].T @ shares


def _span(products: Doubles, combine: Callable[[Floats], Floats]) -> FeatureBasis:
    """The basis of examples with these products (n, n); centred without a copy of their features.

    Args:
        products: of all pairs of examples; changed.
        combine: shares (n, units) -> the sums of all examples' pooled features (inputs, units).
    """
    means = products.mean(axis=0)
    products -= means
    products -= products.mean(axis=1, keepdims=True)
    squares, vectors = np.linalg.eigh(products)
    kept = squares > _SMALLEST * squares[-1]
    lengths, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    directions = (vectors / lengths).astype(np.float32)

    def turn(kernel: Floats) -> tuple[Floats, Floats]:
        shares = directions @ kernel
        return combine(shares), (means @ shares).astype(np.float32)

    return FeatureBasis((vectors * lengths).astype(np.float32), turn)


def _require_finite(sums: Floats) -> None:
    broken = int((~np.isfinite(sums)).sum())
    if broken:
        raise TrainingError(
            f"The features of {broken} images are NaN or infinite. Compute them again: "
            "rm -r data/features && dvc repro --force --single-item features"
        )
