"""Files are complete or absent, whatever kills the writer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import IntegrityError
from tasks.files import (
    atomic_file,
    atomic_folder,
    fingerprint,
    read_table,
    sweep_temporaries,
    write_bytes,
    write_json,
    write_table,
)
from tests.conftest import PROJECT, contents

# Every call into the operating system by which a writer changes the disk, in its order: the n-th one kills.
KILLER = """
import os, pathlib, shutil, signal, sys
from pathlib import Path
from tasks import files

calls = 0

def counted(function):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

for owner, name in ((os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (pathlib.Path, "replace"),
                    (pathlib.Path, "rename"), (pathlib.Path, "open"), (files, "_exchange")):
    setattr(owner, name, counted(getattr(owner, name)))
target = Path(sys.argv[1])
"""
WRITE_FILE = """
with files.atomic_file(target) as file:
    file.write(b"new" * 1000)
"""
WRITE_FOLDER = """
with files.atomic_folder(target) as folder:
    for name in ("a", "b"):
        (folder / name).write_bytes(b"new")
"""


def run(script: str, *arguments: object) -> int:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, check=False, capture_output=True).returncode


def kill_at_every_point(script: str, target: Path) -> list[dict[str, bytes]]:
    """What is to be seen under the target's name after a kill at the first, the second, ... call."""
    seen = []
    for number in range(1, 60):
        code = run(KILLER + script, target, number)
        seen.append(contents(target) if target.is_dir() else {"": target.read_bytes()})
        if code == 0:
            return seen
        assert code == -signal.SIGKILL
    raise AssertionError("the script never came to its end")


def test_atomic_file_leaves_the_old_or_the_new_version_when_killed_anywhere(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    seen = kill_at_every_point(WRITE_FILE, target)
    assert len(seen) >= 4
    assert all(state in ({"": b"old"}, {"": b"new" * 1000}) for state in seen)
    assert seen[0] == {"": b"old"}


@pytest.mark.slow
def test_atomic_folder_leaves_the_old_or_the_new_version_when_killed_anywhere(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    old = {"b": b"old", "c": b"old"}
    for name, data in old.items():
        (target / name).write_bytes(data)
    seen = kill_at_every_point(WRITE_FOLDER, target)
    assert len(seen) >= 6
    assert all(state in (old, {"a": b"new", "b": b"new"}) for state in seen)
    assert seen[0] == old


def test_atomic_folder_replaces_also_where_names_can_not_be_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.files.ctypes.CDLL", lambda *_, **__: object())
    for text in (b"old", b"new"):
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "a").write_bytes(text)
    assert contents(tmp_path) == {"folder/a": b"new"}


@pytest.mark.parametrize(
    "script", [WRITE_FILE.replace("1000", "100000"), WRITE_FOLDER.replace('b"new"', "b'n' * 300000")]
)
def test_atomic_writers_keep_the_old_version_when_the_disk_is_full(tmp_path: Path, script: str) -> None:
    target = tmp_path / "target"
    if "folder" in script:
        target.mkdir()
        (target / "a").write_bytes(b"old")
    else:
        target.write_bytes(b"old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
    code = run(limit + KILLER + script, target, -1)
    assert code == 1
    assert set(contents(tmp_path).values()) == {b"old"}


def test_atomic_file_leaves_nothing_behind_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError), atomic_file(tmp_path / "file") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_atomic_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda self, other: (steps.append("rename"), replace(self, other))[1])
    write_bytes(tmp_path / "file", b"data")
    assert steps == ["fsync", "rename", "fsync"]


WRITER = """
import os, sys
from pathlib import Path
from tasks import files

os.getpid = lambda: int(sys.argv[2])
with files.{kind}(Path(sys.argv[1])):
    print("open", flush=True)
    input()
"""
NOBODY = 2**22 + 1
"""As a number of a process, larger than any: the number that a process has in another container tells nothing here."""


@contextlib.contextmanager
def writer(kind: str, path: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    """A process that is writing to the path, and whose number is seen as another one."""
    command = [sys.executable, "-c", WRITER.format(kind=kind), str(path), str(number)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process


@pytest.mark.parametrize("kind", ["atomic_file", "atomic_folder"])
def test_sweep_spares_live_writers_whatever_their_numbers_and_removes_what_killed_ones_left(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "whole").write_bytes(b"whole")
    with writer(kind, tmp_path / "one", NOBODY) as one:
        assert sweep_temporaries(tmp_path) == 0
        one.communicate("\n")
    assert (tmp_path / "one").exists()
    with writer(kind, tmp_path / "two", os.getppid()) as two:
        two.kill()
    assert sweep_temporaries(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "one"}


def test_sweep_spares_a_file_that_this_process_writes(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as file:
        assert sweep_temporaries(tmp_path) == 0
        file.write(b"whole")
    assert contents(tmp_path) == {"file": b"whole"}


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_error_of_any_kind_passes_through_and_leaves_nothing(
    tmp_path: Path, atomic: Callable[[Path], contextlib.AbstractContextManager[object]]
) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), atomic(tmp_path / "one"):
        raise FileNotFoundError("mine")
    assert contents(tmp_path) == {}


def test_two_writers_with_one_number_do_not_mix(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as one:
        one.write(b"one")
        write_bytes(tmp_path / "file", b"two")
        assert contents(tmp_path)["file"] == b"two"
    assert contents(tmp_path) == {"file": b"one"}


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_json_is_the_same_bytes_for_the_same_value(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    first = path.read_bytes()
    write_json(path, json.loads(first))
    assert path.read_bytes() == first
    assert json.loads(first) == value


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"loss": float("nan")})


SCHEMA = pa.schema([("name", pa.string()), ("size", pa.int32())])


def test_table_comes_back_as_it_was_and_is_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"name": "ü\n", "size": 1}, {"name": None, "size": None}]
    write_table(tmp_path / "one.parquet", rows, SCHEMA)
    write_table(tmp_path / "two.parquet", rows, SCHEMA)
    assert read_table(tmp_path / "one.parquet") == rows
    assert read_table(tmp_path / "one.parquet", ["size"]) == [{"size": 1}, {"size": None}]
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_table_without_rows_comes_back_empty(tmp_path: Path) -> None:
    write_table(tmp_path / "none.parquet", [], SCHEMA)
    assert read_table(tmp_path / "none.parquet") == []


def test_table_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(IntegrityError, match=r"rows\.parquet is missing or damaged"):
        read_table(path)
    write_table(path, [{"name": "a", "size": 1}], SCHEMA)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match=r"rows\.parquet is missing or damaged"):
        read_table(path)


def test_table_with_a_flipped_bit_in_its_data_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_table(path, [{"name": f"name {number}", "size": number} for number in range(500)], SCHEMA)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError):
        read_table(path)


@given(st.dictionaries(st.text(), st.integers()), st.text(), st.integers())
def test_fingerprint_depends_on_the_values_alone(value: dict[str, int], name: str, number: int) -> None:
    reordered = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(reordered)
    changed = {**value, name: number}
    assert (fingerprint(changed) == fingerprint(value)) == (changed == value)
