"""Where the numbers of a model belong in its files: they are taken out of the files of one model and put in for others.

`variables.index` has no numbers but their checksums, so it gets these. How it is laid out:
tensorflow/core/util/tensor_bundle/tensor_bundle.h and tensorflow/core/lib/io/table_format.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tasks.errors import ExportError
from tasks.vgg.exports.crc32c import masked_crc32c
from tasks.vgg.exports.tensorflow_process import CURE
from tasks.vgg.head import Floats

SAVED_MODEL, LITERT = "saved_model", "model.tflite"
_GRAPH = f"{SAVED_MODEL}/saved_model.pb"
_VARIABLES = f"{SAVED_MODEL}/variables/variables.data-00000-of-00001"
_INDEX = f"{SAVED_MODEL}/variables/variables.index"
_HOLDS = {_GRAPH: "head", _VARIABLES: "block", _INDEX: "block", LITERT: ""}
"""File -> how the names of its tensors begin."""
_LITERT_AXES = {1: (0,), 2: (1, 0), 4: (3, 0, 1, 2)}
"""Dense layers have (units, inputs), convolutions (filters, rows, columns, channels)."""
_NEEDLE = 256
"""Bytes of a tensor that are searched for; the others are compared."""
_FOOTER = 48

Tensors = Mapping[str, Floats]
"""Of a backbone and of a head, by name."""
Places = Sequence[tuple[int, str]]
"""In the order of the file: where a tensor belongs in what is left of the file, and the tensor's name."""


def known_tensors(shapes: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
    """Tensors of random numbers, the same each time, so that they can be found in files."""
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def parts_of(model: str, tensors: Tensors) -> dict[str, dict[str, bytes]]:
    """What each file of a model contains of the tensors: path in the export -> the tensor's name -> bytes."""
    files = [file for file in _HOLDS if file.startswith(model)]
    return {file: {name: _part(file, tensors[name]) for name in _names(file, tensors)} for file in files}


def take_out(file: str, content: bytes, parts: Mapping[str, bytes]) -> tuple[bytes, Places]:
    """What is left of a file without the numbers, and their places.

    Args:
        file: its path in the export.
        content: of the file.
        parts: of the file, from `parts_of` known tensors.

    Raises:
        ExportError: the file doesn't contain each part once, or is laid out otherwise.
    """
    found, end = {}, 0
    for name, part in parts.items():
        offset = content.find(part[:_NEEDLE], end)  # most follow each other
        if offset < 0:
            offset = content.find(part[:_NEEDLE])
        if content.startswith(part, offset):
            found[offset], end = name, offset + len(part)
    rest, places, end = b"", [], 0
    for offset, name in sorted(found.items()):
        rest += content[end:offset]
        places.append((len(rest), name))
        end = offset + len(parts[name])
    rest += content[end:]
    for name, part in parts.items():
        if name not in found.values() or part[:_NEEDLE] in rest:
            raise ExportError(f"{file} doesn't contain the tensor {name} exactly once. {CURE}")
    if file == _INDEX and _seal(content) != content:
        raise ExportError(f"{file} is laid out in an unexpected way. {CURE}")
    return rest, places


def put_in(file: str, rest: bytes, places: Places, tensors: Tensors) -> Iterator[bytes]:
    """The file with the numbers of other tensors, in pieces."""
    pieces = _put_in(file, rest, places, tensors)
    return iter([_seal(b"".join(pieces))]) if file == _INDEX else pieces


def _put_in(file: str, rest: bytes, places: Places, tensors: Tensors) -> Iterator[bytes]:
    end = 0
    for offset, name in places:
        yield rest[end:offset]
        yield _part(file, tensors[name])
        end = offset
    yield rest[end:]


def _names(file: str, tensors: Tensors) -> list[str]:
    """The tensors of a file; kernels first, as in LiteRT."""
    names = [name for name in tensors if name.startswith(_HOLDS[file])]
    return sorted(names, key=lambda name: -tensors[name].ndim)


def _part(file: str, values: Floats) -> bytes:
    if file == LITERT:
        values = values.transpose(_LITERT_AXES[values.ndim])
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return masked_crc32c(content) if file == _INDEX else content


def _seal(index: bytes) -> bytes:
    """The index with the right checksum of its only block of entries, which ends where the next block begins."""
    end = shift = 0
    for byte in index[-_FOOTER:]:
        end, shift = end | (byte & 127) << shift, shift + 7
        if byte < 128:
            break
    return index[: end - 4] + masked_crc32c(index[: end - 4]) + index[end:]
