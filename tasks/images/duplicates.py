"""Near duplicates among many images: pairs of hashes within a Hamming radius, without comparing all pairs.

The 64 bits are cut into radius + k chunks. Two hashes within the radius differ in at most `radius` chunks, so at least
k chunks are equal. There is one table for each choice of k chunks. Two hashes that share these chunks are in one bucket
of that table, and are compared there (the pigeonhole principle of multi-index hashing: M. Norouzi, A. Punjani, D. J.
Fleet, Fast Search in Hamming Space with Multi-Index Hashing, CVPR 2012; with several chunks: G. S. Manku et al.,
Detecting Near-Duplicates for Web Crawling, WWW 2007). A larger k means more tables with smaller buckets; k is chosen by
counting the buckets of the given hashes.

The result is groups, so images that are already connected are not compared again. Therefore many near duplicates of one
image don't take quadratic time: the first rows of comparisons connect them into one group, and after that only members
outside of a bucket's largest group are compared with the other members.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tasks.images.perceptual_hash import Thumbnails, are_near_duplicates, are_plain

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
Agree = Callable[[Indices, Indices], npt.NDArray[np.bool_]]

RADIUS = 10
"""Bits out of 64; perceptual_hash.are_near_duplicates was measured with this radius."""

MAX_RADIUS = 16
_BITS = 64
_MAX_SHARED_CHUNKS = 3
_TESTS_AT_ONCE = 1 << 17  # 1 MB of differences fits into the processor's cache
_AGREE_AT_ONCE = 1 << 12

_SECONDS_A_KEY = 1.2e-7  # for sorting a table; only the ratios of these three matter
_SECONDS_A_BUCKET = 2.5e-5
_SECONDS_A_TEST = 1.3e-9


def find_duplicates(hashes: Hashes, thumbnails: Thumbnails, radius: int = RADIUS) -> Pairs:
    """Pairs of near duplicates: hashes within the radius, and thumbnails that confirm it.

    Args:
        hashes: (n,) of perceptual_hash.perceptual_hash.
        thumbnails: (n, 16, 16) uint8 of perceptual_hash.thumbnail. Plain thumbnails (`are_plain`) are in no pair.
        radius: 0...16.

    Returns:
        (m, 2) pairs in the form of near_pairs.
    """
    telling = np.flatnonzero(~are_plain(thumbnails))

    def agree(one: Indices, other: Indices) -> npt.NDArray[np.bool_]:
        return are_near_duplicates(thumbnails[telling[one]], thumbnails[telling[other]])

    return telling[near_pairs(hashes[telling], radius, agree)]


def near_pairs(hashes: Hashes, radius: int, agree: Agree | None = None) -> Pairs:
    """Pairs of hashes within a Hamming radius, just enough to connect all hashes that belong together.

    The result is exact. Take all pairs within the radius that `agree` accepts: the returned pairs are some of them, and
    have the same connected components. A pair is left out if its hashes are connected already.

    Cost: a million random hashes take 28 s at radius 8, 99 s at 10 (benchmarks.data.duplicates). Two kinds of pairs
    stay quadratic: pairs within the radius that `agree` refuses (100 ns each, each pair once), and different images in
    one bucket (1 ns each).

    Args:
        hashes: (n,) uint64.
        radius: bits that may differ, 0...16.
        agree: takes two arrays of indices (m,) and returns which pairs are accepted (m,) bool; None accepts all.

    Returns:
        (m, 2) int64, m < n, the smaller index first, sorted.

    Raises:
        ValueError: the radius is out of range, or the hashes have another type.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius must be 0...{MAX_RADIUS}. Received: {radius}")
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError(f"hashes must be (n,) uint64. Received: {hashes.shape} {hashes.dtype}")
    forest = _Forest(len(hashes))
    chunks = _chunks(radius + _choose_shared(hashes, radius))
    for table in itertools.combinations(range(len(chunks)), len(chunks) - radius):
        before = [chunk for place, chunk in enumerate(chunks[: max(table, default=0)]) if place not in table]
        for bucket in _buckets(hashes, [chunks[place] for place in table]):
            _link(forest, bucket, hashes, radius, before, agree)
    return forest.pairs()


def equal_pairs(digests: Sequence[str]) -> Pairs:
    """Pairs that connect all equal digests (perceptual_hash.pixel_digest), the smaller index first; (m, 2), m < n."""
    last: dict[str, int] = {}
    pairs = []
    for place, digest in enumerate(digests):
        if digest in last:
            pairs.append((last[digest], place))
        last[digest] = place
    return np.array(pairs, np.int64).reshape(-1, 2)


def groups(n: int, pairs: Pairs) -> Indices:
    """Connected components of 0...n-1 under pairs (m, 2): the smallest member of each one's component (n,) int64."""
    if not len(pairs):
        return np.arange(n, dtype=np.int64)
    from scipy.sparse import coo_array  # takes half a second, and isn't needed without near duplicates
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(matrix, directed=False)
    first = np.full(n, n, np.int64)
    np.minimum.at(first, labels, np.arange(n))
    return np.asarray(first[labels])


class _Forest:
    """Union-find over 0...n-1 in arrays. It remembers the pairs that joined two trees.

    SciPy's DisjointSet takes five times as long for a million near duplicates (10 s), and four times the memory.
    """

    def __init__(self, n: int) -> None:
        self._parent = np.arange(n, dtype=np.int64)
        self._joined: list[Pairs] = []

    def roots(self, places: Indices) -> Indices:
        roots = self._parent[places]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[places] = roots
        return roots

    def join(self, one: Indices, other: Indices) -> None:
        """Connect pairs. If several pairs connect the same two trees, one of them is kept."""
        ends = np.sort(np.stack([self.roots(one), self.roots(other)]), axis=0)
        apart = ends[0] != ends[1]
        if not apart.any():
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        _, first = np.unique(ends[0, apart] * len(self._parent) + ends[1, apart], return_index=True)
        chosen = np.flatnonzero(apart)[first]
        nodes, local = np.unique(ends[:, chosen], return_inverse=True)
        low, high = local.reshape(2, -1)
        shape = (len(nodes), len(nodes))
        tree = minimum_spanning_tree(coo_array((np.arange(1.0, len(chosen) + 1), (low, high)), shape=shape).tocsr())
        kept = chosen[tree.data.astype(np.int64) - 1]
        self._joined.append(np.stack([one[kept], other[kept]], axis=1))
        _, labels = connected_components(tree, directed=False)
        first_of = np.full(len(nodes), len(nodes), np.int64)
        np.minimum.at(first_of, labels, np.arange(len(nodes)))
        self._parent[nodes] = nodes[first_of[labels]]

    def pairs(self) -> Pairs:
        if not self._joined:
            return np.empty((0, 2), np.int64)
        pairs = np.sort(np.concatenate(self._joined), axis=1)
        return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


def _chunks(count: int) -> list[np.uint64]:
    """Masks of `count` chunks. They take the bits in turn, so that each chunk has low and high frequencies."""
    return [np.uint64(sum(1 << bit for bit in range(first, _BITS, count))) for first in range(count)]


def _choose_shared(hashes: Hashes, radius: int) -> int:
    """The number of chunks that must be equal, chosen for the least cost; the first table of each size is measured."""
    if len(hashes) < 2:
        return 0
    costs = [len(hashes) ** 2 * _SECONDS_A_TEST / 2]  # one bucket with everything
    for shared in range(1, _MAX_SHARED_CHUNKS + 1):
        tables = math.comb(radius + shared, shared)
        if tables * len(hashes) * _SECONDS_A_KEY > min(costs):
            costs.append(math.inf)
            continue
        chunks = _chunks(radius + shared)[:shared]
        sizes = np.array([len(bucket) for bucket in _buckets(hashes, chunks)], np.float64)
        table = len(sizes) * _SECONDS_A_BUCKET + (sizes**2).sum() * _SECONDS_A_TEST
        costs.append(tables * (len(hashes) * _SECONDS_A_KEY + table))
    return int(np.argmin(costs))


def _buckets(hashes: Hashes, chunks: Sequence[np.uint64]) -> Iterator[Indices]:
    """Yield the indices of two or more hashes that are equal in all the chunks."""
    keys = hashes & np.uint64(sum(int(chunk) for chunk in chunks))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    ends = np.append(starts[1:], len(keys))
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        yield order[start:end]


def _link(
    forest: _Forest, bucket: Indices, hashes: Hashes, radius: int, before: Sequence[np.uint64], agree: Agree | None
) -> None:
    """Compare the members of a bucket, some rows at a time, and connect those that are near."""
    left, rounds, sort_at = bucket, 0, 1
    while len(left) > 1:
        count = max(1, _TESTS_AT_ONCE // len(left))
        rounds += 1
        if count < len(left) and rounds == sort_at:
            sort_at *= 2  # sorting costs as much as one round of comparisons
            left, groups_left = _largest_group_last(forest, left)
            if groups_left == 1:
                return
        rows, columns, left = left[:count], left, left[count:]
        differences = hashes[rows][:, None] ^ hashes[columns][None, :]
        near = np.bitwise_count(differences) <= radius
        if np.count_nonzero(near) == len(rows):
            continue  # only to itself
        one, other = np.nonzero(near)
        later = one < other  # the rows are the first of the columns
        one, other = one[later], other[later]
        new = _is_first_meeting(differences[one, other], before)
        _join_agreed(forest, rows[one[new]], columns[other[new]], agree)


def _largest_group_last(forest: _Forest, places: Indices) -> tuple[Indices, int]:
    """The indices with the largest group at the end, and the number of groups."""
    _, group, sizes = np.unique(forest.roots(places), return_inverse=True, return_counts=True)
    return places[np.argsort(group == np.argmax(sizes), kind="stable")], len(sizes)


def _is_first_meeting(differences: Hashes, before: Sequence[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether this table is the first one with the pair: up to its last chunk, the pair shares only its chunks."""
    new = np.ones(len(differences), np.bool_)
    for chunk in before:
        new &= (differences & chunk) != 0
    return new


def _join_agreed(forest: _Forest, one: Indices, other: Indices, agree: Agree | None) -> None:
    for start in range(0, len(one), _AGREE_AT_ONCE):
        first, second = one[start : start + _AGREE_AT_ONCE], other[start : start + _AGREE_AT_ONCE]
        apart = forest.roots(first) != forest.roots(second)
        first, second = first[apart], second[apart]
        if agree is not None and len(first):
            accepted = agree(first, second)
            first, second = first[accepted], second[accepted]
        forest.join(first, second)
