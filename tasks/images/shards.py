"""Shards: fixed-size arrays in append-only files, each verified by its own name.

A shard is a safetensors file with one tensor `data` (rows, ...). Its header describes each row (`key` first) and holds
the fingerprint of the recipe that made it. Its name is the start of the SHA-256 of its bytes. This module writes the
file itself, because the library's order of the header changes from run to run. There is no index that could be wrong:
the headers say which rows exist.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import IntegrityError
from tasks.files import atomic_file, file_sha256, sha256_hex, sweep_temporaries
from tasks.images.columns import Columns, ShardRow
from tasks.parallel import on_all_cores

Array = npt.NDArray[Any]

_NAME_DIGITS = 16
MAX_SMALL_SHARDS = 16
"""When more shards than this are less than half full, they are joined."""
_DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4"}
_NAMES = {dtype[-2:]: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard; `rows` hold at least `key`."""

    path: Path
    fingerprint: str
    rows: Sequence[ShardRow]
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def array(self) -> Array:
        """The rows as a read-only memory map (rows, ...)."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


class Shards:
    """The shards of one folder, read by key."""

    def __init__(self, headers: Iterable[ShardHeader]) -> None:
        self.headers = tuple(headers)
        self._places = {
            sys.intern(row["key"]): (number, place)  # the tables hold the same strings
            for number, header in reversed(list(enumerate(self.headers)))
            for place, row in enumerate(header.rows)
        }
        self._known_good: set[int] = set()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's array."""
        return self.headers[0].shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.headers[0].dtype)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def row(self, key: str) -> ShardRow:
        """The example's row in the header."""
        number, place = self._places[key]
        return self.headers[number].rows[place]

    def order(self, keys: Iterable[str]) -> list[str]:
        """The keys in their order on the disk.

        Raises:
            IntegrityError: a key is in no shard.
        """
        wanted = list(keys)
        self._require(wanted)
        return sorted(wanted, key=self._places.__getitem__)

    def read(self, keys: Sequence[str]) -> Array:
        """The arrays of the examples (len(keys), ...), in the order of the keys. Shards are verified at first use.

        Raises:
            IntegrityError: a key is in no shard, or a shard's bytes have changed.
        """
        self._require(keys)
        rows = np.empty((len(keys), *self.shape), self.dtype)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for row, key in enumerate(keys):
            number, place = self._places[key]
            wanted.setdefault(number, []).append((row, place))
        for number, places in wanted.items():
            # Read, not mapped: pages of a map count as memory of this process, and grow to everything that was read.
            with self._verified(number).path.open("rb", buffering=0) as file:
                for row, place in places:
                    file.seek(self.headers[number].offset + place * rows[row].nbytes)
                    if file.readinto(rows[row].data.cast("B")) != rows[row].nbytes:
                        raise _changed(self.headers[number].path)
        return rows

    def _require(self, keys: Sequence[str]) -> None:
        missing = [key for key in keys if key not in self._places]
        if missing or not self.headers:
            raise IntegrityError(
                f"{len(missing)} examples are in no shard (first: {(missing or ['-'])[0][:12]}). "
                "Run `dvc repro` from the start: an earlier stage is behind."
            )

    def _verified(self, number: int) -> ShardHeader:
        header = self.headers[number]
        if number not in self._known_good:
            if not verify_shard(header.path):
                raise _changed(header.path)
            self._known_good.add(number)
        return header


def _changed(path: Path) -> IntegrityError:
    return IntegrityError(
        f"The bytes of the shard {path} have changed since they were written. "
        f"Delete it and run again; only its rows are computed again: rm {path} && dvc repro"
    )


def open_shards(folder: Path) -> Shards:
    """All shards of a folder.

    Raises:
        IntegrityError: a file is not a whole shard.
    """
    return Shards(read_header(path) for path in sorted(folder.glob("*.safetensors")))


def read_header(path: Path) -> ShardHeader:
    """Read a shard's header without its data.

    Raises:
        IntegrityError: the file is cut short or is not a shard.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        tensor, metadata = header["data"], header["__metadata__"]
        dtype, shape = _DTYPES[tensor["dtype"]], tuple(tensor["shape"])
        if sha256_hex(metadata["rows"].encode()) != metadata["rows_sha256"]:
            raise ValueError("the rows in the header are not those that were written")
        rows = Columns(json.loads(metadata["rows"]))
        whole = 8 + length + math.prod(shape) * np.dtype(dtype).itemsize
        if size != whole or len(rows) != shape[0]:
            raise ValueError(f"{size} bytes instead of {whole}")
        return ShardHeader(path, metadata["fingerprint"], rows, dtype, shape, 8 + length)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is not a whole shard ({error}). Delete it and run again: rm {path} && dvc repro"
        ) from None


def verify_shard(path: Path) -> bool:
    """Whether the shard's bytes are those that were written."""
    return file_sha256(path).startswith(path.stem)


def write_shard(folder: Path, rows: Sequence[ShardRow], data: Array, fingerprint: str) -> Path:
    """Write one shard, whole or not at all. The same content always makes the same file."""
    text = json.dumps(list(rows), sort_keys=True, separators=(",", ":"))
    metadata = {"fingerprint": fingerprint, "rows": text, "rows_sha256": sha256_hex(text.encode())}
    tensor = {
        "dtype": _NAMES[data.dtype.newbyteorder("<").str[1:]],
        "shape": data.shape,
        "data_offsets": [0, data.nbytes],
    }
    header = json.dumps({"__metadata__": metadata, "data": tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format requires aligned data
    start = len(header).to_bytes(8, "little") + header
    values = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data  # no copy
    digest = hashlib.sha256(start)
    digest.update(values)
    path = folder / f"{digest.hexdigest()[:_NAME_DIGITS]}.safetensors"
    with atomic_file(path) as file:
        file.write(start)
        file.write(values)
    return path


@dataclass(frozen=True)
class Reconciled:
    """The shards that are kept, and the keys that are missing."""

    kept: Shards
    missing: tuple[str, ...]
    dropped: int


def reconcile(
    folder: Path, wanted: Sequence[str], fingerprint: str, shard_size: int, others: Collection[str] = ()
) -> Reconciled:
    """Bring a folder of shards in line with the wanted keys: keep whole shards, delete the others.

    A shard is not touched if it has the wanted recipe, its bytes verify and all of its rows are wanted. If some of its
    rows are no longer wanted, the wanted rows are copied to a new shard and the old one is deleted. So nothing remains
    of images that were removed at the source. Damaged shards, and shards of another recipe, are deleted; their rows are
    then missing. When there are too many small shards, they are joined. Shards of the recipes `others`, which hold
    other keys, are not touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(folder)
    still_wanted = set(wanted)
    kept: list[ShardHeader] = []
    dropped = 0
    left_alone = {header.path for other in others for header in usable_headers(folder, other)}
    paths = [path for path in sorted(folder.glob("*.safetensors")) if path not in left_alone]
    found = list(zip(paths, on_all_cores(lambda path: _usable(path, fingerprint), paths), strict=True))
    # The largest first: if a killed run joined small shards, the joined shard wins over the small ones.
    for path, header in sorted(found, key=lambda entry: -len(entry[1].rows) if entry[1] else 0):
        if any(path == other.path for other in kept):
            continue  # a killed run has made the same copy
        alive = [n for n, row in enumerate(header.rows) if row["key"] in still_wanted] if header else []
        if header and len(alive) == len(header.rows):
            kept.append(header)
        else:
            if header and alive:
                rows = [header.rows[n] for n in alive]
                kept.append(read_header(write_shard(folder, rows, header.array()[alive], fingerprint)))
            path.unlink()
            dropped += 1
        still_wanted -= {row["key"] for row in header.rows} if header else set()
    kept, joined = _join_small(folder, kept, fingerprint, shard_size)
    missing = tuple(key for key in wanted if key in still_wanted)
    return Reconciled(Shards(sorted(kept, key=lambda header: header.path)), missing, dropped + joined)


def _join_small(
    folder: Path, headers: list[ShardHeader], fingerprint: str, shard_size: int
) -> tuple[list[ShardHeader], int]:
    """Copy the rows of many small shards into a few. Returns the headers, and how many shards were deleted."""
    small = sorted((header for header in headers if 2 * len(header.rows) < shard_size), key=lambda header: header.path)
    if len(small) <= MAX_SMALL_SHARDS:
        return headers, 0

    def copies(keys: Iterator[str]) -> Iterator[tuple[ShardRow, Array]]:
        return zip((source.row(key) for key in keys), (source.read([key])[0] for key in order), strict=True)

    source = Shards(small)
    order = source.order(row["key"] for header in small for row in header.rows)
    joined = list(append(folder, order, shard_size, fingerprint, copies))
    gone = {header.path for header in small} - {header.path for header in joined}
    for path in gone:
        path.unlink()
    return [header for header in headers if header not in small] + joined, len(gone)


class Writer:
    """Gathers rows into shards of a folder. Each full shard is written at once; `close` writes the last rows."""

    def __init__(self, folder: Path, fingerprint: str, shard_size: int) -> None:
        self._folder, self._fingerprint, self._shard_size = folder, fingerprint, shard_size
        self._rows: list[ShardRow] = []
        self._data: Array | None = None

    def add(self, row: ShardRow, array: Array) -> ShardHeader | None:
        """Add one row. Returns the header of the shard if the row fills it, else None."""
        if self._data is None:  # one buffer for all shards: new memory costs more than the copy
            self._data = np.empty((self._shard_size, *array.shape), array.dtype)
        self._data[len(self._rows)] = array
        self._rows.append(row)
        return self.close() if len(self._rows) == self._shard_size else None

    def close(self) -> ShardHeader | None:
        """Write the last rows as a shard. Returns its header; None if there are no rows."""
        if self._data is None or not self._rows:
            return None
        path = write_shard(self._folder, self._rows, self._data[: len(self._rows)], self._fingerprint)
        self._rows = []
        return read_header(path)


def append(
    folder: Path,
    keys: Iterable[str],
    shard_size: int,
    fingerprint: str,
    compute: Callable[[Iterator[str]], Iterator[tuple[ShardRow, Array]]],
) -> Iterator[ShardHeader]:
    """Compute rows for the keys and write them as shards. Yields the header of each finished shard."""
    writer = Writer(folder, fingerprint, shard_size)
    for row, array in compute(iter(keys)):
        if header := writer.add(row, array):
            yield header
    if header := writer.close():
        yield header


def usable_headers(folder: Path, fingerprint: str) -> list[ShardHeader]:
    """Headers of the shards of the wanted recipe; their data is not verified."""
    headers = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            headers.append(read_header(path))
        except IntegrityError:
            continue  # reconcile will delete it
    return [header for header in headers if header.fingerprint == fingerprint]


def _usable(path: Path, fingerprint: str) -> ShardHeader | None:
    try:
        header = read_header(path)
    except IntegrityError:
        return None
    return header if header.fingerprint == fingerprint and verify_shard(path) else None
