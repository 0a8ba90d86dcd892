"""Numbers are taken out of files and others put in: on files of a few bytes."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.errors import ExportError
from tasks.vgg.exports.crc32c import masked_crc32c
from tasks.vgg.exports.places import known_tensors, parts_of, put_in, take_out

SHAPES = {"block1/kernel": (3, 3, 2, 4), "block1/bias": (4,), "head_1/kernel": (5, 3), "head_1/bias": (3,)}
KNOWN = known_tensors(SHAPES)
OTHER = {name: value + 1 for name, value in KNOWN.items()}
INDEX = "saved_model/variables/variables.index"


def index(bias: bytes, kernel: bytes) -> bytes:
    """A block of entries with checksums, its kind and its checksum; another block; a footer with the other's place."""
    block = b"first" * 50 + bias + b"second" + kernel + b"\0"
    other = len(block) + 4
    footer = bytes([other & 127 | 128, other >> 7, 9]).ljust(48, b"\0")
    return block + masked_crc32c(block) + b"another block" + footer


def test_index_gets_the_checksums_of_other_numbers_and_its_own() -> None:
    known, other = (parts_of("saved_model", tensors)[INDEX] for tensors in (KNOWN, OTHER))
    assert known["block1/bias"] == masked_crc32c(KNOWN["block1/bias"].tobytes())
    content = index(known["block1/bias"], known["block1/kernel"])
    rest, places = take_out(INDEX, content, known)
    assert [name for _, name in places] == ["block1/bias", "block1/kernel"]
    assert b"".join(put_in(INDEX, rest, places, KNOWN)) == content
    assert b"".join(put_in(INDEX, rest, places, OTHER)) == index(other["block1/bias"], other["block1/kernel"])


def test_index_of_another_layout_is_refused() -> None:
    known = parts_of("saved_model", KNOWN)[INDEX]
    content = index(known["block1/bias"], known["block1/kernel"])
    with pytest.raises(ExportError, match=r"variables\.index is laid out in an unexpected way"):
        take_out(INDEX, b"more" + content, known)


def test_litert_has_outputs_before_inputs_in_whatever_order_of_tensors() -> None:
    def content(tensors: dict[str, np.ndarray], names: list[str]) -> bytes:
        axes = {1: (0,), 2: (1, 0), 4: (3, 0, 1, 2)}
        return b"".join(name.encode() + tensors[name].transpose(axes[tensors[name].ndim]).tobytes() for name in names)

    parts = parts_of("model.tflite", KNOWN)["model.tflite"]
    for names in (list(SHAPES), list(SHAPES)[::-1]):
        rest, places = take_out("model.tflite", content(KNOWN, names), parts)
        assert rest == "".join(names).encode()
        assert b"".join(put_in("model.tflite", rest, places, OTHER)) == content(OTHER, names)


def test_tensors_without_anything_between_them_keep_their_order() -> None:
    file = "saved_model/variables/variables.data-00000-of-00001"
    names = ["block1/kernel", "block1/bias"]
    content, wanted = (b"".join(tensors[name].tobytes() for name in names) for tensors in (KNOWN, OTHER))
    rest, places = take_out(file, content, parts_of("saved_model", KNOWN)[file])
    assert (rest, [offset for offset, _ in places]) == (b"", [0, 0])
    assert b"".join(put_in(file, rest, places, OTHER)) == wanted


@pytest.mark.parametrize("again", ["block1/kernel", "block1/bias"])
def test_tensor_that_is_there_twice_is_refused(again: str) -> None:
    """Else a second copy would keep the known random numbers."""
    file = "saved_model/variables/variables.data-00000-of-00001"
    known = parts_of("saved_model", KNOWN)[file]
    content = known["block1/kernel"] + known["block1/bias"]
    for twice in (content + known[again], known[again] + content):
        with pytest.raises(ExportError, match=f"doesn't contain the tensor {again} exactly once"):
            take_out(file, twice, known)
