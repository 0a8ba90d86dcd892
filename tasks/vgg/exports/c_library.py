"""A SavedModel run by TensorFlow's C library, as by servers and other languages.

The library loads in half a second, TensorFlow's Python package in four. Python's package brings the library along.
Functions and their contracts: tensorflow/c/c_api.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

_FLOAT, _STRING = 1, 7
_STRING_BYTES = 24
"""Size of a `TF_TString`."""
_INVALID_ARGUMENT = 3


class _Buffer(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("length", c_size_t), ("free", c_void_p))


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


_TENSORS = (POINTER(_Output), POINTER(c_void_p), c_int)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "TF_NewStatus": (c_void_p, ()),
    "TF_GetCode": (c_int, (c_void_p,)),
    "TF_Message": (c_char_p, (c_void_p,)),
    "TF_NewGraph": (c_void_p, ()),
    "TF_NewBuffer": (POINTER(_Buffer), ()),
    "TF_NewSessionOptions": (c_void_p, ()),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        (c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, POINTER(_Buffer), c_void_p),
    ),
    "TF_GraphOperationByName": (c_void_p, (c_void_p, c_char_p)),
    "TF_SessionRun": (
        None,
        (c_void_p, c_void_p, *_TENSORS, *_TENSORS, c_void_p, c_int, c_void_p, c_void_p),
    ),
    "TF_AllocateTensor": (c_void_p, (c_int, POINTER(c_int64), c_int, c_size_t)),
    "TF_DeleteTensor": (None, (c_void_p,)),
    "TF_TensorType": (c_int, (c_void_p,)),
    "TF_TensorData": (c_void_p, (c_void_p,)),
    "TF_TensorByteSize": (c_size_t, (c_void_p,)),
    "TF_NumDims": (c_int, (c_void_p,)),
    "TF_Dim": (c_int64, (c_void_p, c_int)),
    "TF_StringInit": (None, (c_void_p,)),
    "TF_StringCopy": (None, (c_void_p, c_char_p, c_size_t)),
    "TF_StringGetDataPointer": (c_void_p, (c_void_p,)),
    "TF_StringGetSize": (c_size_t, (c_void_p,)),
}


class RefusedError(Exception):
    """The model refuses its input; the text is TensorFlow's."""


def load_library() -> Any:
    """The C library with the types of its functions.

    Raises:
        OSError: TensorFlow isn't installed, or it has no C library.
    """
    package = find_spec("tensorflow")
    places = list(package.submodule_search_locations or ()) if package else []
    files = [file for place in places for file in Path(place).glob("libtensorflow_cc.*")]
    if not files:
        raise OSError(f"There is no libtensorflow_cc in {places}.")
    library = ctypes.CDLL(str(files[0]))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class SavedModel:
    """The signature `serving_default` of a SavedModel.

    Args:
        library: from `load_library`.
        folder: of the SavedModel.

    Raises:
        OSError: the SavedModel can't be loaded; repeats what TensorFlow says.
    """

    def __init__(self, library: Any, folder: Path) -> None:
        self._library = library
        self._status, self._graph = library.TF_NewStatus(), library.TF_NewGraph()
        about, tags = library.TF_NewBuffer(), (c_char_p * 1)(b"serve")
        options = library.TF_NewSessionOptions()
        self._session = library.TF_LoadSessionFromSavedModel(
            options, None, str(folder).encode(), tags, 1, self._graph, about, self._status
        )
        if library.TF_GetCode(self._status):
            raise OSError(self._message())
        content = memoryview(ctypes.string_at(about.contents.data, about.contents.length))
        self._inputs, self._outputs = _read_signature(content, "serving_default")

    def __call__(self, images: Sequence[bytes]) -> dict[str, Any]:
        """Encoded images -> each output by name: float32 arrays, or lists of bytes.

        Raises:
            RefusedError: the model refuses an image.
            OSError: it fails for another reason.
        """
        library, count = self._library, len(self._outputs)
        given, results = self._strings(images), (c_void_p * count)()
        places = (_Output * count)(*map(self._place, self._outputs.values()))
        entry = (_Output * 1)(self._place(self._inputs["images"]))
        call = (entry, (c_void_p * 1)(given), 1, places, results, count, None, 0, None)
        library.TF_SessionRun(self._session, None, *call, self._status)
        library.TF_DeleteTensor(given)
        code = library.TF_GetCode(self._status)
        if code:
            raise (RefusedError if code == _INVALID_ARGUMENT else OSError)(self._message())
        return dict(zip(self._outputs, map(self._values, results), strict=True))

    def _message(self) -> str:
        text: bytes = self._library.TF_Message(self._status)
        return text.decode("utf-8", "replace")

    def _place(self, tensor: str) -> _Output:
        name, _, index = tensor.partition(":")
        return _Output(self._library.TF_GraphOperationByName(self._graph, name.encode()), int(index))

    def _strings(self, values: Sequence[bytes]) -> int:
        """A new tensor (n,) of strings."""
        library, count = self._library, len(values)
        tensor: int = library.TF_AllocateTensor(_STRING, (c_int64 * 1)(count), 1, _STRING_BYTES * count)
        data = library.TF_TensorData(tensor)
        for place, value in zip(range(data, data + _STRING_BYTES * count, _STRING_BYTES), values, strict=True):
            library.TF_StringInit(place)
            library.TF_StringCopy(place, value, len(value))
        return tensor

    def _values(self, tensor: int) -> Any:
        """What a tensor holds; deletes it."""
        library = self._library
        shape = [library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor))]
        data, kind = library.TF_TensorData(tensor), library.TF_TensorType(tensor)
        if kind == _STRING:
            places = range(data, data + _STRING_BYTES * shape[0], _STRING_BYTES)
            found: Any = [
                ctypes.string_at(library.TF_StringGetDataPointer(place), library.TF_StringGetSize(place))
                for place in places
            ]
        elif kind == _FLOAT:
            content = ctypes.string_at(data, library.TF_TensorByteSize(tensor))
            found = np.frombuffer(content, np.float32).reshape(shape)
        else:
            raise OSError(f"An output has the unexpected data type {kind}.")
        library.TF_DeleteTensor(tensor)
        return found


def _read_signature(graph: memoryview, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Names of a signature's inputs and outputs -> their tensors. The graph is a `MetaGraphDef`."""
    signature = _entries(graph, 5)[name]
    inputs, outputs = (
        {key: bytes(dict(_fields(about))[1]).decode() for key, about in sorted(_entries(signature, number).items())}
        for number in (1, 2)
    )
    return inputs, outputs


def _entries(message: memoryview, field: int) -> dict[str, memoryview]:
    """A field of a protobuf message that is a map of texts to messages."""
    entries = [dict(_fields(value)) for number, value in _fields(message) if number == field]
    return {bytes(entry[1]).decode(): entry[2] for entry in entries}


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message that have a length: number, content."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        field, kind = divmod(number(), 8)
        if kind == 2:
            length = number()
            yield field, message[at : at + length]
            at += length
        elif kind == 0:
            number()
        else:
            at += {1: 8, 5: 4}[kind]
