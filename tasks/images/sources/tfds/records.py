"""Shards of tf.train.Example records, prepared by TFDS: one pass makes an index, then images are read at random.

The index is in the cache. It holds the place of each image's bytes, their SHA-256 and their class. While the shards are
the same files (`source_cache.identity`), they aren't read for the listing. Memory: the index, some 400 bytes an image.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import SourceError
from tasks.files import atomic_file, fingerprint, sha256_hex
from tasks.images.sources.listing import SourceImage
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.random_access_file import RandomAccessFile
from tasks.images.sources.source_cache import identity

VERSION = "sha256:"
FORMATS = ("tfrecord", "array_record")
_HEADER, _FOOTER = 12, 4  # TFRecord: length and its CRC, the record, its CRC
_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("number", pa.int64()),  # of the record in its shard
        ("offset", pa.int64()),  # of the image's bytes in a tfrecord file, -1 in others
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("label", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Fields:
    """Names of the features with the image and with the number of its class."""

    image: str
    label: str


class Shard:
    """A file of records, whose images are read at random; `version` of an image is the SHA-256 of its bytes."""

    def __init__(self, path: Path, file_format: str, fields: Fields) -> None:
        self.path, self._fields = path, fields
        self._file = RandomAccessFile(path) if file_format == "tfrecord" else None
        self._source: Any = None
        self._lock = threading.Lock()

    def read(self, image: SourceImage) -> bytes:
        """The bytes of an image; a SourceError if they have changed since they were listed."""
        try:
            data = self._bytes(image.place, image.size_bytes)
        except Exception as error:  # noqa: BLE001 - see _index
            raise _damaged(self.path, error) from None
        if f"{VERSION}{sha256_hex(data)}" != image.version:
            raise _damaged(self.path, f"{image.path} has changed since it was listed")
        return data

    def read_head(self, _image: SourceImage) -> None:
        """No head: it would have to be verified, too."""

    def _bytes(self, place: int, size: int) -> bytes:
        if self._file is not None:
            return self._file.read(place, size)
        with self._lock:
            if self._source is None:
                self._source = _array_record_source(self.path)
            record = self._source[place]
        return _parse(record, self._fields)[0]


@dataclass(frozen=True, slots=True)
class Record:
    """One image in a shard; `label` is the number of its class, and `size` counts its bytes.

    `place` is the offset of its bytes in a tfrecord file, else its number in the shard.
    """

    shard: Shard
    number: int
    place: int
    label: int
    size: int
    sha256: str


def list_records(shards: Sequence[Path], file_format: str, fields: Fields, policy: SourcePolicy) -> Iterator[Record]:
    """Every image in the shards, in their order.

    Raises:
        SourceError: a shard is missing or damaged.
    """

    def make(path: Path) -> None:
        rows = [row for place, shard in enumerate(shards) for row in _index(place, shard, file_format, fields)]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(_SCHEMA)
        with atomic_file(path) as file:
            pq.write_table(pa.table(columns, schema=_SCHEMA), file, compression="zstd")

    group = "\n".join([*map(str, shards), file_format, fields.image, fields.label])
    table = pq.read_table(policy.cache.keep("tfds", group, _identity(shards), make)[0])
    readers = [Shard(shard, file_format, fields) for shard in shards]
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            number, offset = row["number"], row["offset"]
            place = number if offset < 0 else offset
            yield Record(readers[row["shard"]], number, place, row["label"], row["size"], row["sha256"])


def _identity(shards: Sequence[Path]) -> str:
    try:
        return fingerprint([[str(shard.resolve()), identity(shard)] for shard in shards])
    except OSError as error:
        raise SourceError(f"A shard is missing: {error.filename}. {_again(Path(str(error.filename)))}") from None


def _index(place: int, shard: Path, file_format: str, fields: Fields) -> Iterator[tuple[int, int, int, int, str, int]]:
    start = 0
    records = _tfrecords(shard) if file_format == "tfrecord" else _array_records(shard)
    try:
        for number, record in enumerate(records):
            data, label = _parse(record, fields)
            offset = start + _HEADER + record.find(data) if file_format == "tfrecord" else -1
            yield place, number, offset, len(data), sha256_hex(data), label
            start += _HEADER + len(record) + _FOOTER
    except Exception as error:  # noqa: BLE001 - errors of TensorFlow, protobuf and ArrayRecord, without a common class
        raise _damaged(shard, error) from None


def _tfrecords(shard: Path) -> Iterator[bytes]:
    """The records, read by TensorFlow, which checks the CRC of every record."""
    import tensorflow as tf  # only to make an index

    yield from tf.data.TFRecordDataset(str(shard), buffer_size=8 << 20).as_numpy_iterator()


def _array_records(shard: Path) -> Iterator[bytes]:
    source = _array_record_source(shard)
    for number in range(len(source)):
        yield source[number]


def _parse(record: bytes, fields: Fields) -> tuple[bytes, int]:
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    [data] = features[fields.image].bytes_list.value
    [label] = features[fields.label].int64_list.value
    return data, label


def _array_record_source(shard: Path) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource  # type: ignore[import-untyped]

    return ArrayRecordDataSource([str(shard)])


def _damaged(shard: Path, what: object) -> SourceError:
    said = " ".join(str(what).split())[:200]
    return SourceError(f"The shard {shard} is damaged ({said}). {_again(shard)}")


def _again(shard: Path) -> str:
    return f"Prepare the data set again: remove {shard.parent}, then run the same command or `tfds build`."
