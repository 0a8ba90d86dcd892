"""The search for near duplicates finds the same as comparing all with all, in less time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.images import duplicates
from tasks.images.duplicates import Hashes, Indices, Pairs, equal_pairs, find_duplicates, groups, near_pairs

RNG = np.random.default_rng(0)


def all_pairs(hashes: Hashes, radius: int) -> Pairs:
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= radius
    return np.argwhere(np.triu(near, 1))


def random_hashes(n: int) -> Hashes:
    return RNG.integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True)


def flipped(hashes: Hashes, bits: int) -> Hashes:
    changed = hashes.copy()
    for place in range(len(changed)):
        for bit in RNG.choice(64, bits, replace=False):
            changed[place] ^= np.uint64(1) << np.uint64(bit)
    return changed


def as_set(pairs: Pairs) -> set[tuple[int, ...]]:
    return {tuple(pair) for pair in pairs.tolist()}


def check(hashes: Hashes, radius: int) -> None:
    found, expected = near_pairs(hashes, radius), all_pairs(hashes, radius)
    n = len(hashes)
    assert as_set(found) <= as_set(expected)
    assert groups(n, found).tolist() == groups(n, expected).tolist()
    assert len(found) == n - len(set(groups(n, expected).tolist()))


@pytest.fixture(params=[None, 0, 1, 2, 3], ids=lambda shared: f"shared={shared}")
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks are chosen to be equal."""
    if request.param is not None:
        monkeypatch.setattr(duplicates, "_choose_shared", lambda hashes, radius: request.param)


@pytest.fixture(params=[1 << 6, 1 << 18], ids=lambda tests: f"at_once={tests}")
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that buckets take many rounds, or as they are."""
    monkeypatch.setattr(duplicates, "_TESTS_AT_ONCE", request.param)
    monkeypatch.setattr(duplicates, "_AGREE_AT_ONCE", max(1, request.param >> 4))


@pytest.mark.parametrize("radius", [0, 1, 4, 8, 16])
def test_groups_are_those_of_comparing_all_with_all(radius: int, shared: None, at_once: None) -> None:
    far = random_hashes(150)
    near = np.concatenate([flipped(far[:20], bits) for bits in (radius, radius + 1, radius // 2, 0)])
    check(RNG.permutation(np.concatenate([far, near])), radius)


@given(st.lists(st.integers(0, 2**12 - 1), max_size=60), st.integers(0, 4))
@settings(deadline=None)
def test_groups_are_those_of_comparing_all_with_all_where_all_are_close(numbers: list[int], radius: int) -> None:
    check(np.array(numbers, np.uint64), radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_choose_shared", lambda hashes, radius: 2)
        patch.setattr(duplicates, "_TESTS_AT_ONCE", 16)
        check(np.array(numbers, np.uint64) << np.uint64(37), radius)


def test_pairs_at_the_radius_are_found_wherever_the_bits_are() -> None:
    for bits in itertools.islice(itertools.combinations(range(0, 64, 3), 4), 300):
        other = np.uint64(sum(1 << bit for bit in bits))
        hashes = np.array([0x0123456789ABCDEF, 0x0123456789ABCDEF ^ int(other)], np.uint64)
        assert len(near_pairs(hashes, 4)) == 1
        assert len(near_pairs(hashes, 3)) == 0


@pytest.mark.usefixtures("shared")
def test_only_pairs_that_are_agreed_on_are_given(at_once: None) -> None:
    hashes = np.repeat(random_hashes(12), 10)
    kind = RNG.integers(0, 3, len(hashes))
    asked: list[tuple[int, int]] = []

    def agree(one: Indices, other: Indices) -> np.ndarray:
        asked.extend(zip(np.minimum(one, other).tolist(), np.maximum(one, other).tolist(), strict=True))
        return kind[one] == kind[other]

    found = near_pairs(hashes, 2, agree)
    expected = np.array([pair for pair in all_pairs(hashes, 2).tolist() if kind[pair[0]] == kind[pair[1]]])
    assert groups(len(hashes), found).tolist() == groups(len(hashes), expected).tolist()
    assert as_set(found) <= as_set(expected)
    assert len(asked) == len(set(asked))  # what was refused once is not asked again in another table


@pytest.mark.parametrize("crowd", ["identical", "close"])
def test_a_crowd_of_like_images_does_not_cost_its_square(crowd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tests, asked = 0, 0
    count = np.bitwise_count

    def counted(differences: Hashes) -> np.ndarray:
        nonlocal tests
        tests += differences.size
        return count(differences)

    def agree(one: Indices, other: Indices) -> np.ndarray:
        nonlocal asked
        asked += len(one)
        return np.ones(len(one), np.bool_)

    n = 20_000
    hashes = np.full(n, 1 << 63, np.uint64)
    if crowd == "close":
        hashes ^= np.uint64(1) << RNG.integers(0, 64, n).astype(np.uint64)
    monkeypatch.setattr(duplicates.np, "bitwise_count", counted)
    monkeypatch.setattr(duplicates, "_choose_shared", lambda hashes, radius: 2)
    pairs = near_pairs(hashes, 8, agree)
    assert len(pairs) == n - 1
    assert tests < n * n / 2  # in all 45 tables together less than all with all once
    assert asked < 20 * n


def test_strangers_in_the_bucket_of_a_crowd_are_still_compared(at_once: None) -> None:
    crowd = np.full(3000, 0xFF, np.uint64)
    pair = np.array([0xFFFF_0000_0000_00FF, 0xFFFF_0000_0000_00FE], np.uint64)
    hashes = np.concatenate([pair[:1], crowd, pair[1:]])
    assert set(groups(len(hashes), near_pairs(hashes, 2)).tolist()) == {0, 1}


@pytest.mark.parametrize("n", [0, 1])
def test_few_hashes_have_no_pairs(n: int) -> None:
    assert near_pairs(random_hashes(n), 8).shape == (0, 2)
    assert groups(n, near_pairs(random_hashes(n), 8)).tolist() == list(range(n))


@pytest.mark.parametrize(("hashes", "radius"), [(random_hashes(3), -1), (random_hashes(3), 17)])
def test_radius_out_of_range_is_refused(hashes: Hashes, radius: int) -> None:
    with pytest.raises(ValueError, match=f"Received: {radius}"):
        near_pairs(hashes, radius)


def test_signed_hashes_are_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        near_pairs(np.arange(3), 2)


def test_chunks_share_out_all_bits() -> None:
    for count in range(1, 20):
        chunks = [int(chunk) for chunk in duplicates._chunks(count)]
        assert sum(chunks) == 2**64 - 1
        assert len({chunk.bit_count() for chunk in chunks}) <= 2


def test_more_chunks_are_shared_where_there_are_more_hashes() -> None:
    chosen = [duplicates._choose_shared(random_hashes(n), 8) for n in (2, 1_000, 300_000)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] > 0


def test_group_is_named_by_its_smallest_member() -> None:
    assert groups(6, np.array([[4, 2], [5, 4]])).tolist() == [0, 1, 2, 3, 2, 2]
    assert groups(3, np.empty((0, 2), np.int64)).tolist() == [0, 1, 2]


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_equal_digests_are_one_group(digests: list[str]) -> None:
    assert groups(len(digests), equal_pairs(digests)).tolist() == [digests.index(digest) for digest in digests]


def thumbnails() -> Iterator[np.ndarray]:
    while True:
        yield RNG.integers(0, 256, (16, 16), dtype=np.uint8)


def test_plain_and_unconfirmed_images_are_not_duplicates() -> None:
    one, other = itertools.islice(thumbnails(), 2)
    plain = np.full((16, 16), 200, np.uint8)
    hashes = np.zeros(6, np.uint64)
    found = find_duplicates(hashes, np.stack([plain, one, other, plain, one, other]))
    assert as_set(found) == {(1, 4), (2, 5)}
