"""Packs: ordinary tar files that can be verified, and that a killed run writes again with the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import IntegrityError
from tasks.images.packs import index_pack, index_packs, read_image, verify_pack, write_packs
from tests.conftest import contents


def images(count: int, size_bytes: int = 100) -> list[tuple[str, bytes]]:
    data = [hashlib.sha256(b"%d" % number).digest() * (size_bytes // 32 + 1) for number in range(count)]
    return [(hashlib.sha256(entry).hexdigest(), entry) for entry in data]


def test_pack_gives_back_every_image(tmp_path: Path) -> None:
    given_in = dict(images(10))
    packs = list(write_packs(tmp_path, given_in.items(), 300))
    assert [count for _, count in packs] == [3, 3, 3, 1]
    places = index_packs(tmp_path)
    assert {key: read_image(place, key) for key, place in places.items()} == given_in


def test_pack_is_a_tar_file_whose_name_is_its_checksum(tmp_path: Path) -> None:
    [(pack, _)] = write_packs(tmp_path, images(2), 10**6)
    assert hashlib.sha256(pack.read_bytes()).hexdigest().startswith(pack.stem)
    listed = subprocess.run(["tar", "tf", str(pack)], check=True, capture_output=True, text=True).stdout.split()
    assert listed == [key for key, _ in images(2)]


def test_pack_holds_nothing_of_the_time_or_the_user(tmp_path: Path) -> None:
    [(pack, _)] = write_packs(tmp_path, images(1), 10**6)
    with tarfile.open(pack) as members:
        [member] = members
    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12), st.integers(1, 900), st.data())
def test_packs_of_a_killed_run_are_those_of_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], pack_size: int, data: st.DataObject
) -> None:
    work = [images(number + 1, size)[-1] for number, size in enumerate(sizes)]
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    count = len(list(write_packs(whole, work, pack_size)))
    running = write_packs(killed, iter(work), pack_size)
    for _ in range(data.draw(st.integers(0, count))):
        next(running)
    running.close()
    done = set(index_packs(killed))
    list(write_packs(killed, [entry for entry in work if entry[0] not in done], pack_size))
    assert contents(killed) == contents(whole)


def test_damaged_pack_is_noticed_by_its_name_and_by_its_images(tmp_path: Path) -> None:
    [(pack, _)] = write_packs(tmp_path, images(3), 10**6)
    [(key, place), *others] = index_pack(pack).items()
    assert verify_pack(pack)
    content = bytearray(pack.read_bytes())
    content[place.offset + 5] ^= 1
    pack.write_bytes(content)
    assert not verify_pack(pack)
    with pytest.raises(IntegrityError, match=f"{key[:12]}.*rm {pack}"):
        read_image(place, key)
    assert all(read_image(place, key) for key, place in others)


@pytest.mark.parametrize("size", [0, 100, 700])
def test_pack_that_is_cut_short_is_named(tmp_path: Path, size: int) -> None:
    [(pack, _)] = write_packs(tmp_path, images(3), 10**6)
    pack.write_bytes(pack.read_bytes()[:size])
    with pytest.raises(IntegrityError, match="is damaged"):
        index_packs(tmp_path)
