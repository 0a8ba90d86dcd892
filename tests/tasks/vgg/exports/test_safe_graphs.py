"""Model files with operations that no export has are refused; `test_serving.py` tries SavedModels, for TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import flatbuffers
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.vgg.exports.safe_graphs import CHECKS, check_litert, check_onnx


def model() -> onnx.ModelProto:
    node = helper.make_node("Relu", ["pixels"], ["probabilities"])
    given, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("pixels", "probabilities")
    )
    graph = helper.make_graph([node], "small", [given], [result], [numpy_helper.from_array(np.ones(2), "ones")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def add_domain(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))


def add_custom(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Relu", ["pixels"], ["x"], domain="com.evil"))


def add_loop(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Loop", ["pixels"], ["x"]))


def add_graph(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Relu", ["pixels"], ["x"], body=proto.graph))


def add_function(proto: onnx.ModelProto) -> None:
    proto.functions.append(helper.make_function("com.evil", "Relu", [], [], [], []))


def make_external(proto: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "../../../etc/passwd")


def make_attribute_external(proto: onnx.ModelProto) -> None:
    tensor = onnx.TensorProto()
    tensor.CopyFrom(proto.graph.initializer[0])
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    proto.graph.node.append(helper.make_node("Relu", ["pixels"], ["x"], value=tensor))


def add_sparse(proto: onnx.ModelProto) -> None:
    proto.graph.sparse_initializer.add()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add_domain, 'needs the operations of the domain "ai.onnx.contrib"'),
        (add_custom, 'the operation "com.evil.Relu", which no export has'),
        (add_loop, 'the operation "Loop", which no export has'),
        (add_graph, "the operation Relu has a graph inside"),
        (add_function, "it has functions"),
        (make_external, "its numbers are in another file"),
        (make_attribute_external, "its numbers are in another file"),
        (add_sparse, "sparse tensors"),
    ],
)
def test_onnx_file_that_could_do_more_is_refused(change: Callable[[onnx.ModelProto], None], reason: str) -> None:
    proto = model()
    assert check_onnx(proto.SerializeToString()) is None
    change(proto)
    assert reason in str(check_onnx(proto.SerializeToString()))


def litert(custom: bytes | None, builtin: int) -> bytes:
    """A LiteRT file with one operation."""
    builder = flatbuffers.Builder()
    name = builder.CreateString(custom) if custom else None
    builder.StartObject(4)
    builder.PrependInt8Slot(0, builtin, 0)
    if name is not None:
        builder.PrependUOffsetTRelativeSlot(1, name, 0)
    builder.PrependInt32Slot(3, builtin, 0)
    code = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(code)
    codes = builder.EndVector()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, codes, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    return bytes(builder.Output())


def test_litert_file_with_the_operation_of_other_people_is_refused() -> None:
    assert check_litert(litert(None, 3)) is None
    assert check_litert(litert(b"FlexReadFile", 32)) == 'it has the operation "FlexReadFile", which no export has'
    assert check_litert(litert(None, 32)) == 'it has the operation "custom", which no export has'


@pytest.mark.parametrize("name", CHECKS)
def test_cut_file_is_damaged(name: str) -> None:
    content = litert(None, 3)[:20] if "tflite" in name else model().SerializeToString()[:-3]
    with pytest.raises(ValueError, match=r"cut off|damaged"):
        CHECKS[name](content)
