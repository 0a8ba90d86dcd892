"""Shards: append-only, verified, and reconciled with the wanted rows without changing intact ones."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tasks.errors import IntegrityError
from tasks.files import TEMPORARY_SUFFIX
from tasks.images.shards import (
    MAX_SMALL_SHARDS,
    Reconciled,
    append,
    open_shards,
    read_header,
    reconcile,
    usable_headers,
    verify_shard,
    write_shard,
)
from tests.conftest import contents

RECIPE, OTHER = "0123456789abcdef", "fedcba9876543210"
SHARD_SIZE = 3

key_sets = st.sets(st.integers(0, 20), max_size=12)


def key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def array(name: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(name), np.uint8).reshape(4, 8)


def compute(keys: Iterable[str]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for name in keys:
        yield {"key": name, "note": name[:3]}, array(name)


def bring_in_line(folder: Path, keys: Sequence[str], recipe: str = RECIPE) -> Reconciled:
    state = reconcile(folder, keys, recipe, 256)
    list(append(folder, state.missing, SHARD_SIZE, recipe, compute))
    return state


def stored(folder: Path) -> dict[str, bytes]:
    shards = open_shards(folder)
    keys = [row["key"] for header in shards.headers for row in header.rows]
    assert len(keys) == len(set(keys))
    return {name: shards.read([name])[0].tobytes() for name in keys}


def expected(keys: Iterable[str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(name) for name in keys}


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@settings(max_examples=60, deadline=None)
@given(key_sets, key_sets)
def test_reconcile_and_append_store_exactly_what_is_wanted(
    tmp_path_factory: pytest.TempPathFactory, before: set[int], after: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    old, new = ([key(number) for number in sorted(numbers)] for numbers in (before, after))
    bring_in_line(folder, old)
    untouched = {
        header.path: (identity(header.path), header.path.read_bytes())
        for header in open_shards(folder).headers
        if {row["key"] for row in header.rows} <= set(new)
    }
    state = bring_in_line(folder, new)
    assert stored(folder) == expected(new)
    assert list(state.missing) == [name for name in new if name not in old]
    assert {path: (identity(path), path.read_bytes()) for path in untouched} == untouched


@settings(max_examples=40, deadline=None)
@given(key_sets, key_sets)
def test_removed_examples_are_gone_from_the_disk(
    tmp_path_factory: pytest.TempPathFactory, before: set[int], after: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    bring_in_line(folder, [key(number) for number in sorted(before)])
    bring_in_line(folder, [key(number) for number in sorted(after)])
    everything = b"".join(contents(folder).values())
    for number in before - after:
        assert bytes.fromhex(key(number)) not in everything
        assert key(number).encode() not in everything


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 20), min_size=2, max_size=12), st.data())
def test_reconcile_that_was_killed_anywhere_loses_no_row(
    tmp_path_factory: pytest.TempPathFactory, before: set[int], data: st.DataObject
) -> None:
    folder, done = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("done")
    old = [key(number) for number in sorted(before)]
    new = [name for name in old if data.draw(st.booleans())]
    bring_in_line(folder, old)
    shutil.copytree(folder, done, dirs_exist_ok=True)
    bring_in_line(done, new)
    for path in done.iterdir():  # the kill came after some copies were written, before their originals went
        if data.draw(st.booleans()):
            shutil.copy(path, folder)
    state = bring_in_line(folder, new)
    assert state.missing == ()
    assert stored(folder) == expected(new)
    assert contents(folder) == contents(done)


def test_reconcile_rebuilds_only_the_damaged_shard(tmp_path: Path) -> None:
    keys = [key(number) for number in range(9)]
    bring_in_line(tmp_path, keys)
    before = contents(tmp_path)
    paths = sorted(tmp_path.iterdir())
    lost = {row["key"] for row in read_header(paths[1]).rows}
    kept = [identity(path) for path in (paths[0], paths[2])]
    damage(paths[1])
    state = bring_in_line(tmp_path, keys)
    assert set(state.missing) == lost
    assert [identity(path) for path in (paths[0], paths[2])] == kept
    assert contents(tmp_path) == before


@pytest.mark.parametrize("size", [0, 5, 8, 40, 300, -1])
def test_reconcile_rebuilds_a_shard_that_is_cut_short(tmp_path: Path, size: int) -> None:
    keys = [key(number) for number in range(6)]
    bring_in_line(tmp_path, keys)
    before = contents(tmp_path)
    first = min(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:size])
    assert len(bring_in_line(tmp_path, keys).missing) == 3
    assert contents(tmp_path) == before


def test_reconcile_drops_what_another_recipe_made(tmp_path: Path) -> None:
    keys = [key(number) for number in range(6)]
    bring_in_line(tmp_path, keys, OTHER)
    state = bring_in_line(tmp_path, keys)
    assert (state.missing, state.dropped) == (tuple(keys), 2)
    assert {header.fingerprint for header in open_shards(tmp_path).headers} == {RECIPE}


def test_reconcile_sweeps_what_a_killed_writer_left(tmp_path: Path) -> None:
    leftover = tmp_path / f".shard.safetensors.999999999{TEMPORARY_SUFFIX}"
    leftover.write_bytes(b"half")
    reconcile(tmp_path, [], RECIPE, 256)
    assert not leftover.exists()


def test_shard_is_the_same_file_for_the_same_content(tmp_path: Path) -> None:
    rows = [{"key": key(1)}, {"key": key(2)}]
    data = np.stack([array(row["key"]) for row in rows])
    one, two = write_shard(tmp_path, rows, data, RECIPE), write_shard(tmp_path, rows, data, RECIPE)
    assert one == two
    assert verify_shard(one)
    assert one != write_shard(tmp_path, rows, data, OTHER)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_shard_keeps_type_shape_and_rows(tmp_path: Path, dtype: str) -> None:
    data = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    rows = [{"key": key(1), "note": "ü"}, {"key": key(2), "note": "\n"}]
    path = write_shard(tmp_path, rows, data, RECIPE)
    shards = open_shards(tmp_path)
    assert (shards.shape, shards.dtype, shards.row(key(2))) == ((3, 4), np.dtype(dtype), rows[1])
    assert np.array_equal(shards.read([key(2), key(1), key(2)]), data[[1, 0, 1]])
    assert np.array_equal(load_file(path)["data"], data)  # other tools read it


def test_shard_with_a_changed_byte_is_refused_when_it_is_read(tmp_path: Path) -> None:
    bring_in_line(tmp_path, [key(number) for number in range(6)])
    first, second = sorted(tmp_path.iterdir())
    damage(first)
    shards = open_shards(tmp_path)
    assert shards.read([read_header(second).rows[0]["key"]]).shape == (1, 4, 8)
    with pytest.raises(IntegrityError, match=f"rm {first}"):
        shards.read([read_header(first).rows[0]["key"]])


def test_header_with_any_changed_bit_is_refused_or_means_the_same(tmp_path: Path) -> None:
    [header] = append(tmp_path, [key(1), key(2)], SHARD_SIZE, RECIPE, compute)
    content = header.path.read_bytes()
    for place in range(header.offset):
        for bit in (0, 3, 6):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            header.path.write_bytes(damaged)
            assert all(found == header for found in usable_headers(tmp_path, RECIPE)), (place, bit)


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header.pop("data"),
        lambda header: header.pop("__metadata__"),
        lambda header: header["data"].update(dtype="I64"),
        lambda header: header["data"].update(shape=[1, 4, 8]),
        lambda header: header["__metadata__"].update(rows="[]"),
        lambda header: header["__metadata__"].update(rows="nonsense"),
    ],
)
def test_header_that_does_not_fit_the_file_is_refused(tmp_path: Path, edit: Any) -> None:
    [made] = append(tmp_path, [key(1), key(2)], SHARD_SIZE, RECIPE, compute)
    content = made.path.read_bytes()
    header = json.loads(content[8 : made.offset])
    edit(header)
    text = json.dumps(header).encode()
    made.path.write_bytes(len(text).to_bytes(8, "little") + text + content[made.offset :])
    with pytest.raises(IntegrityError, match=f"rm {made.path}"):
        read_header(made.path)


def test_reading_a_key_that_is_in_no_shard_names_the_fix(tmp_path: Path) -> None:
    bring_in_line(tmp_path, [key(1)])
    for shards in (open_shards(tmp_path), open_shards(tmp_path / "nowhere")):
        with pytest.raises(IntegrityError, match="dvc repro"):
            shards.read([key(2)])
        with pytest.raises(IntegrityError, match="dvc repro"):
            shards.order([key(2)])


def test_order_is_that_of_the_disk(tmp_path: Path) -> None:
    keys = [key(number) for number in range(9)]
    bring_in_line(tmp_path, keys)
    on_disk = [row["key"] for path in sorted(tmp_path.iterdir()) for row in read_header(path).rows]
    assert open_shards(tmp_path).order(keys) == on_disk


def test_append_hands_on_each_shard_when_it_is_whole(tmp_path: Path) -> None:
    running = append(tmp_path, [key(number) for number in range(7)], SHARD_SIZE, RECIPE, compute)
    for finished, rows in ((1, 3), (2, 3), (3, 1)):
        assert len(next(running).rows) == rows
        assert len(list(tmp_path.iterdir())) == finished


def test_arrays_can_not_be_written_to(tmp_path: Path) -> None:
    [header] = append(tmp_path, [key(1)], SHARD_SIZE, RECIPE, compute)
    with pytest.raises(ValueError, match="read-only"):
        header.array()[0] = 0


def test_many_small_shards_are_joined_and_nothing_is_computed_again(tmp_path: Path) -> None:
    names: list[str] = []
    sizes = []
    for number in range(MAX_SMALL_SHARDS + 4):
        names += [f"{2 * number + place:064x}" for place in range(2)]
        state = reconcile(tmp_path, names, RECIPE, 24)
        assert len(state.missing) == 2
        list(append(tmp_path, state.missing, 24, RECIPE, compute))
        sizes.append(len(list(tmp_path.iterdir())))
    assert max(sizes) == MAX_SMALL_SHARDS + 1
    assert sizes[-1] < 6
    assert stored(tmp_path) == expected(names)


def test_joining_that_was_killed_ends_the_same(tmp_path: Path) -> None:
    names = [f"{number:064x}" for number in range(MAX_SMALL_SHARDS + 1)]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for name in names:
        for folder in (killed, whole):
            list(append(folder, [name], 24, RECIPE, compute))
    reconcile(whole, names, RECIPE, 24)
    for path in whole.iterdir():  # the kill came after the joined shard was written, before the small ones went
        shutil.copy(path, killed)
    reconcile(killed, names, RECIPE, 24)
    assert contents(killed) == contents(whole)
