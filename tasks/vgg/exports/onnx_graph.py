"""The classifier as an ONNX graph, written node by node: in a second, without TensorFlow, always with the same bytes.

(tf2onnx took 10 s, and its nodes had a random order.) The export stage compares the predictions of the graph with those
of the trained model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.errors import ExportError
from tasks.vgg.backbone import BOUNDARIES, boundary_shape, preprocess
from tasks.vgg.head import SMALLEST_NORM, Floats, Head, Pooling
from tasks.vgg.weights import BLOCKS, Weights

INPUT, OUTPUT, FEATURES = "pixels", "probabilities", "features"
PLANES = "planes"
"""Input of the backbone alone: preprocessed, channels first."""
_OPSET, _IR_VERSION = 17, 8  # of 2022: read by every onnxruntime since 1.12


class _Graph:
    """Nodes and constants in the order in which they are added; each node's output carries its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: Floats) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
        return name

    def add(self, operation: str, name: str, *inputs: str, **attributes: float | Sequence[int]) -> str:
        self.nodes.append(helper.make_node(operation, list(inputs), [name], name, **attributes))
        return name


def build_onnx(
    head: Head,
    classes: Sequence[str],
    weights: Weights,
    test_time_augmentation: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The model file: `pixels` (n, 224, 224, 3), float32 RGB, 0 to 255 -> `probabilities` (n, classes), float32.

    The second output, `features` (n, 1024), is what `tasks.vgg.foreign` needs: pooled as by `average_maximum`. With
    `test_time_augmentation` a prediction is the mean over the image and its mirror image; the features are those of the
    image alone. The classes are also in the model's metadata, under `classes`, as JSON, beside the given metadata.
    """
    graph = _Graph()
    pixels = _add_mirror_images(graph) if test_time_augmentation else INPUT
    features = _add_backbone(graph, _add_preprocessing(graph, pixels), weights)
    output = "both_probabilities" if test_time_augmentation else OUTPUT
    values = _add_pooling(graph, features, head.pooling)
    pooled = values if head.pooling == "average_maximum" else _add_pooling(graph, features, "average_maximum")
    for number, layer in enumerate(head.layers, 1):
        name, last = f"head_{number}", number == len(head.layers)
        kernel, bias = graph.constant(f"{name}/kernel", layer.kernel), graph.constant(f"{name}/bias", layer.bias)
        values = graph.add("Gemm", name, values, kernel, bias)
        if layer.activation == "relu":
            values = graph.add("Relu", f"{name}_relu", values)
        else:
            values = graph.add("Softmax", output if last else f"{name}_softmax", values, axis=1)
    if test_time_augmentation:
        _add_mean(graph, output)
        graph.nodes.append(helper.make_node("Split", [pooled], [FEATURES, "mirrored_features"], "own_features", axis=0))
    else:
        graph.add("Identity", FEATURES, pooled)
    properties = {"classes": json.dumps(list(classes), ensure_ascii=False), **(metadata or {})}
    return _serialize(graph, len(classes), 2 * weights[f"block{len(BLOCKS)}_conv{BLOCKS[-1][1]}/bias"].size, properties)


def backbone_model(weights: Weights, outputs: Sequence[str]) -> onnx.ModelProto:
    """The backbone alone: `planes` (n, 3, 224, 224), float32, preprocessed -> outputs of its layers, channels first."""
    graph = _Graph()
    _add_backbone(graph, PLANES, weights)
    given = helper.make_tensor_value_info(PLANES, TensorProto.FLOAT, ["n", 3, 224, 224])
    wanted = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return _make_model(helper.make_graph(graph.nodes, "vgg16", [given], wanted, graph.constants))


def colour_matrix() -> tuple[Floats, Floats]:
    """The function `tasks.vgg.backbone.preprocess` as rgb @ matrix (3, 3) + offset (3,).

    Raises:
        ExportError: `preprocess` is no longer a permutation of the channels with an offset, so this export is wrong.
    """
    offset = np.asarray(preprocess(np.zeros(3, np.float32)), np.float32)
    matrix = np.rint(preprocess(np.eye(3, dtype=np.float32)) - offset).astype(np.float32)
    colours = np.random.default_rng(0).uniform(0, 255, (64, 3)).astype(np.float32)
    if not np.allclose(colours @ matrix + offset, preprocess(colours), atol=1e-3):
        raise ExportError(
            "tasks/vgg/exports/onnx_graph.py can't export tasks.vgg.backbone.preprocess any more: adapt onnx_graph.py."
        )
    return matrix, offset


def _add_mirror_images(graph: _Graph) -> str:
    """The batch, followed by the mirror image of each image (2n, 224, 224, 3)."""
    for name, value in (("last", -1), ("before_first", -(1 << 31)), ("width_axis", 2), ("backwards", -1)):
        graph.constants.append(numpy_helper.from_array(np.array([value], np.int64), name))
    mirrored = graph.add("Slice", "mirrored", INPUT, "last", "before_first", "width_axis", "backwards")
    return graph.add("Concat", "both", INPUT, mirrored, axis=0)


def _add_mean(graph: _Graph, both: str) -> None:
    halves = ["plain_probabilities", "mirrored_probabilities"]
    graph.nodes.append(helper.make_node("Split", [both], halves, "halves", axis=0))
    graph.add("Mean", OUTPUT, *halves)


def _add_preprocessing(graph: _Graph, pixels: str) -> str:
    matrix, offset = colour_matrix()
    swapped = graph.add("MatMul", "swap_channels", pixels, graph.constant("swap_channels/matrix", matrix))
    centred = graph.add("Add", "subtract_mean", swapped, graph.constant("subtract_mean/offset", offset))
    return graph.add("Transpose", "channels_first", centred, perm=[0, 3, 1, 2])


def _add_backbone(graph: _Graph, values: str, weights: Weights) -> str:
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            name = f"block{block}_conv{conv}"
            kernel = graph.constant(f"{name}/kernel", weights[f"{name}/kernel"].transpose(3, 2, 0, 1))
            bias = graph.constant(f"{name}/bias", weights[f"{name}/bias"])
            shapes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
            values = graph.add("Relu", f"{name}_relu", graph.add("Conv", name, values, kernel, bias, **shapes))
        values = graph.add("MaxPool", f"block{block}_pool", values, kernel_shape=[2, 2], strides=[2, 2])
    return values


def _add_pooling(graph: _Graph, features: str, pooling: Pooling) -> str:
    """`tasks.vgg.head.pool` on channels-first features."""
    if pooling == "flatten":
        last = graph.add("Transpose", "channels_last", features, perm=[0, 2, 3, 1])
        return graph.add("Flatten", "flatten", last, axis=1)
    if pooling == "bilinear":
        return _add_unit_length(
            graph, "products", graph.add("Flatten", "products_flat", _add_products(graph, features))
        )
    joined = []
    for kind, operation in (("average", "GlobalAveragePool"), ("maximum", "GlobalMaxPool")):
        pooled = graph.add("Flatten", f"{kind}_flat", graph.add(operation, kind, features), axis=1)
        joined.append(_add_unit_length(graph, kind, pooled))
    return graph.add("Concat", "pooled", *joined, axis=1)


def _add_products(graph: _Graph, features: str) -> str:
    """Square roots of the mean products of all pairs of channels (n, c, c)."""
    height, width, channels = boundary_shape(BOUNDARIES[-1])
    graph.constants.append(numpy_helper.from_array(np.array([0, channels, height * width], np.int64), "places_shape"))
    places = graph.add("Reshape", "places", features, "places_shape")
    products = graph.add("MatMul", "products", places, graph.add("Transpose", "places_first", places, perm=[0, 2, 1]))
    scale = graph.constant("products_scale", np.array([1 / (height * width)], np.float32))
    return graph.add("Sqrt", "roots", graph.add("Mul", "mean_products", products, scale))


def _add_unit_length(graph: _Graph, kind: str, values: str) -> str:
    smallest = "smallest_norm"
    if not any(constant.name == smallest for constant in graph.constants):
        graph.constant(smallest, np.array([SMALLEST_NORM], np.float32))
    norm = graph.add("ReduceL2", f"{kind}_norm", values, axes=[1], keepdims=1)
    return graph.add("Div", f"{kind}_unit", values, graph.add("Max", f"{kind}_bounded_norm", norm, smallest))


def _serialize(graph: _Graph, classes: int, features: int, metadata: Mapping[str, str]) -> bytes:
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 224, 224, 3])
    sizes = {OUTPUT: classes, FEATURES: features}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in sizes.items()]
    model = _make_model(helper.make_graph(graph.nodes, "rootstock", [given], outputs, graph.constants))
    helper.set_model_props(model, dict(metadata))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _make_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, producer_name="rootstock", opset_imports=[opset], ir_version=_IR_VERSION)
