"""Refuses model files with operations that our exports don't have: they could run code, or read and write other files.

Only names are read, never a number or a function, and neither ONNX nor TensorFlow is loaded: the check takes
milliseconds, before any library has seen the file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

Refusal = str | None
"""Why a file is refused, in words; None if it isn't."""

# fmt: off
ONNX_OPERATIONS = frozenset({
    "Add", "Concat", "Conv", "DequantizeLinear", "Div", "Flatten", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "Identity", "MatMul", "Max", "MaxPool", "Mean", "Mul", "QuantizeLinear", "ReduceL2", "Relu", "Reshape", "Slice",
    "Softmax", "Split", "Sqrt", "Transpose",
})
"""Those of `onnx_graph.py` and `quantized.py`; none has a graph inside."""
TENSORFLOW_OPERATIONS = frozenset({
    "Add", "AddV2", "All", "Any", "ArgMax", "AsString", "Assert", "AssignVariableOp", "BatchMatMulV2", "BiasAdd",
    "Cast", "ConcatV2", "Const", "Conv2D", "DecodeJpeg", "DecodePng", "DecodeRaw", "DisableCopyOnRead", "EnsureShape",
    "Equal", "ExpandDims", "ExtractJpegShape", "Fill", "Floor", "FloorDiv", "GatherV2", "Greater", "GreaterEqual",
    "Identity", "Less", "LessEqual", "LogicalAnd", "LogicalNot", "LogicalOr", "MatMul", "Max", "MaxPool", "Maximum",
    "Mean", "MergeV2Checkpoints", "Min", "Minimum", "Mul", "NoOp", "NotEqual", "Pack", "PartitionedCall",
    "Placeholder", "Prod", "Range", "Rank", "ReadVariableOp", "RealDiv", "ReduceJoin", "Relu", "Reshape", "RestoreV2",
    "ReverseV2", "RightShift", "SaveV2", "ScaleAndTranslate", "Select", "SelectV2", "Shape", "ShardedFilename",
    "Size", "Softmax", "Sqrt", "Squeeze", "StatefulPartitionedCall", "StatelessCase", "StatelessIf", "StatelessWhile",
    "StaticRegexFullMatch", "StaticRegexReplace", "StridedSlice", "StringJoin", "StringLength", "Sub", "Substr",
    "Sum", "TensorListFromTensor", "TensorListGetItem", "TensorListReserve", "TensorListSetItem", "TensorListStack",
    "Transpose", "VarHandleOp", "Where", "While",
})
# fmt: on
"""Those of `serving.py`, and of TensorFlow's own code that restores the variables."""
_LITERT_CUSTOM = 32
"""Number of LiteRT's operations that are looked up by a name: other people's code."""


def check_onnx(content: bytes) -> Refusal:
    """An ONNX file may have operations of our exports only, no functions, and all numbers inside.

    Raises:
        ValueError: the file is damaged.
    """
    for number, part in _fields(memoryview(content)):
        if number in (20, 25):
            return "it has functions or a training graph"
        if number == 8 and (domain := _text(part, 1)):
            return f"it needs the operations of the domain {json.dumps(domain)}"
        if number == 7 and (found := _check_onnx_graph(part)):
            return found
    return None


def _check_onnx_graph(graph: memoryview) -> Refusal:
    for number, part in _fields(graph):
        if number == 1:
            name, domain = _text(part, 4), _text(part, 7)
            if domain or name not in ONNX_OPERATIONS:
                return _unknown(f"{domain}.{name}" if domain else name)
            attributes = [field for kind, one in _fields(part) if kind == 5 for field in _fields(one)]
            if any(kind in (6, 11, 22, 23) for kind, _ in attributes):
                return f"the operation {name} has a graph inside, or a sparse tensor"
            if any(_is_outside(tensor) for kind, tensor in attributes if kind in (5, 10)):
                return _OUTSIDE
        if number == 15:
            return "it has sparse tensors"
        if number == 5 and _is_outside(part):
            return _OUTSIDE
    return None


_OUTSIDE = "its numbers are in another file, at a path that the file names"


def _is_outside(tensor: memoryview) -> bool:
    return any(number == 13 or (number == 14 and value) for number, value in _fields(tensor))


def check_saved_model(content: bytes) -> Refusal:
    """The graph of a SavedModel (`saved_model.pb`) may have the operations of our exports only.

    Raises:
        ValueError: the file is damaged.
    """
    graphs = [graph for meta in _inside(memoryview(content), 2) for graph in _inside(meta, 2)]
    nodes = [node for graph in graphs for node in _inside(graph, 1)]
    libraries = [library for graph in graphs for library in _inside(graph, 2)]
    nodes += [node for library in libraries for function in _inside(library, 1) for node in _inside(function, 3)]
    unknown = sorted({_text(node, 2) for node in nodes} - TENSORFLOW_OPERATIONS)
    return _unknown(unknown[0]) if unknown else None


def check_litert(content: bytes) -> Refusal:
    """A LiteRT file may have LiteRT's own operations only, none of which touches files.

    Raises:
        ValueError: the file is damaged.
    """
    from flatbuffers import encode, number_types, table

    try:
        root = table.Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0))
        codes = root.Offset(6)  # the schema's `operator_codes`
        for number in range(root.VectorLen(codes) if codes else 0):
            code = table.Table(content, root.Indirect(root.Vector(codes) + 4 * number))
            if code.Offset(6) or _LITERT_CUSTOM in (_number(code, 4, "Int8Flags"), _number(code, 10, "Int32Flags")):
                name = code.String(code.Offset(6) + code.Pos).decode("utf-8", "replace") if code.Offset(6) else "custom"
                return _unknown(name)
    except (struct.error, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"it is damaged ({error})") from None
    return None


def _number(code: Any, offset: int, kind: str) -> int:
    from flatbuffers import number_types

    place = code.Offset(offset)
    return int(code.Get(getattr(number_types, kind), place + code.Pos)) if place else 0


def _unknown(name: str) -> str:
    return f"it has the operation {json.dumps(name)}, which no export has"


CHECKS: dict[str, Callable[[bytes], Refusal]] = {
    "model.onnx": check_onnx,
    "model.int8.onnx": check_onnx,
    "model.tflite": check_litert,
    "model.int8.tflite": check_litert,
    "saved_model/saved_model.pb": check_saved_model,
}
"""By the name of a file in an export."""


def _inside(message: memoryview, wanted: int) -> list[memoryview]:
    return [part for number, part in _fields(message) if number == wanted]


def _text(message: memoryview, wanted: int) -> str:
    found = _inside(message, wanted)
    return bytes(found[-1]).decode("utf-8", "replace") if found else ""


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a message of Protocol Buffers: (number, bytes or number), in the order of the file."""
    if not isinstance(message, memoryview):
        raise ValueError("a field has another type")  # noqa: TRY004 - the file is wrong, not the caller
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("it has an unknown type of field")
        if at + size > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        value |= (message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError("it is cut off")
