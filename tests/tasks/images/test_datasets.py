"""The tf.data pipeline: every example once in an epoch, and a position that is only (epoch, step)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.images.datasets import batches, epoch_order, steps_per_epoch
from tasks.images.shards import Shards, open_shards, write_shard

SIZE, BATCH = 10, 4


@given(st.integers(0, 200), st.integers(0, 9), st.integers(0, 9))
def test_order_of_an_epoch_holds_every_example_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(size, seed, epoch)) == list(range(size))


def test_order_differs_from_epoch_to_epoch_and_from_seed_to_seed() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert tuple(epoch_order(50, 3, 2)) in orders


def test_order_without_a_seed_is_that_of_the_keys() -> None:
    assert list(epoch_order(5, None, 3)) == [0, 1, 2, 3, 4]


@given(st.integers(0, 1000), st.integers(1, 100))
def test_no_step_has_more_examples_than_a_batch(size: int, batch_size: int) -> None:
    assert steps_per_epoch(size, batch_size) == len(range(0, size, batch_size))


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    """Ten examples, in three shards, whose arrays hold their number."""
    for numbers in (range(4), range(4, 8), range(8, SIZE)):
        data = np.stack([np.full((2, 3), number, np.float16) for number in numbers])
        write_shard(tmp_path, [{"key": f"key{number}"} for number in numbers], data, "test")
    return open_shards(tmp_path)


def make(shards: Shards, **options: Any) -> Any:
    keys = [f"key{number}" for number in range(SIZE)]
    labels = np.arange(0, 10 * SIZE, 10, dtype=np.int32)
    return batches(shards, lambda _: keys, labels, np.arange(1, SIZE + 1, dtype=np.float32), BATCH, **options)


def read(shards: Shards, **options: Any) -> list[list[int]]:
    """The numbers of the examples, batch by batch; checks that arrays, labels and weights belong together."""
    found = []
    for parts in make(shards, **options):
        arrays, labels, weights = (part.numpy() for part in parts)
        assert (arrays.dtype, labels.dtype, weights.dtype) == (np.float16, np.int32, np.float32)
        assert (arrays.shape, labels.shape, weights.shape) == ((BATCH, 2, 3), (BATCH,), (BATCH,))
        real = weights > 0
        assert not arrays[~real].any()
        assert np.array_equal(arrays[real, 0, 0] * 10, labels[real])
        assert np.array_equal(arrays[real, 0, 0] + 1, weights[real])
        found.append([int(label) // 10 for label in labels[real]])
    return found


def flat(found: list[list[int]]) -> list[int]:
    return [number for batch in found for number in batch]


def test_batches_give_every_example_once_an_epoch_and_are_as_large_as_each_other(shards: Shards) -> None:
    first, second = (read(shards, epoch=epoch, seed=0) for epoch in range(2))
    assert [len(batch) for batch in first] == [3, 3, 4]
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(SIZE))
    assert first != second


def test_batches_are_the_same_for_the_same_seed(shards: Shards) -> None:
    assert read(shards, epoch=3, seed=7) == read(shards, epoch=3, seed=7)
    assert read(shards, epoch=3, seed=7) != read(shards, epoch=3, seed=8)


def test_batches_for_evaluation_keep_the_order(shards: Shards) -> None:
    assert flat(read(shards)) == list(range(SIZE))


def test_batches_that_resume_anywhere_are_the_tail_of_the_uninterrupted_ones(shards: Shards) -> None:
    for epoch in range(3):
        whole = read(shards, epoch=epoch, seed=1)
        for step in range(4):
            assert read(shards, epoch=epoch, seed=1, start_step=step) == whole[step:], (epoch, step)


def test_epochs_of_a_dataset_are_those_of_single_ones(shards: Shards) -> None:
    single = [batch for epoch in range(1, 4) for batch in read(shards, epoch=epoch, seed=1)]
    assert read(shards, epoch=1, start_step=2, epochs=3, seed=1) == single[2:]
    assert read(shards, epochs=2) == 2 * read(shards)


def test_names_may_differ_between_epochs(shards: Shards) -> None:
    asked = []

    def name(epoch: int) -> list[str]:
        asked.append(epoch)
        return [f"key{(number + epoch) % SIZE}" for number in range(SIZE)]

    ones = np.ones(SIZE, np.float32)
    dataset = batches(shards, name, np.zeros(SIZE, np.int32), ones, BATCH, epoch=2, epochs=2)
    found = [value for arrays, _, weights in dataset for value in arrays.numpy()[weights.numpy() > 0, 0, 0].tolist()]
    assert found == [(number + epoch) % SIZE for epoch in (2, 3) for number in range(SIZE)]
    assert sorted(asked) == [2, 3], "once an epoch, not once a batch"


def test_damaged_shard_is_told_in_words(shards: Shards) -> None:
    path = shards.headers[1].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="have changed since they were written"):
        read(shards)


def test_batches_know_how_many_they_are(shards: Shards) -> None:
    assert int(make(shards, start_step=2).cardinality()) == 1


def test_batches_can_be_mapped_and_iterated_again(shards: Shards) -> None:
    dataset = make(shards, seed=4).map(lambda arrays, labels, _: (arrays * 2, labels))
    first, second = ([batch[0].numpy().tolist() for batch in dataset] for _ in range(2))
    assert first == second
    assert sum(len(batch) for batch in first) == 3 * BATCH
