"""The exported model in 8-bit integers, as ONNX and as LiteRT: a quarter of the size, at the price of some accuracy.

ONNX gets the network of `tasks.vgg.quantized`, with ranges that were measured on training images; the head stays in
float32. LiteRT gets kernels of 8 bits, and measures the ranges of the layers' inputs in each image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors.numpy import save_file

from tasks.parallel import usable_cores
from tasks.vgg.engines import Pixels
from tasks.vgg.exports.template import Outline
from tasks.vgg.exports.tensorflow_process import TensorFlowProcess
from tasks.vgg.head import Floats, Head
from tasks.vgg.weights import Weights

ONNX_INT8, LITERT_INT8 = "model.int8.onnx", "model.int8.tflite"
_FIRST = "channels_first"


def build_onnx_int8(content: bytes, ranges: Sequence[float]) -> bytes:
    """The ONNX model with a network of 8-bit integers.

    Args:
        content: of `onnx_graph.build_onnx`; its metadata stay.
        ranges: of `quantized.measure_ranges`.
    """
    import onnx

    from tasks.vgg.quantized import quantize

    model = onnx.load_model_from_string(content)
    metadata = {one.key: one.value for one in model.metadata_props}
    head = [node.name for node in model.graph.node if node.name.startswith("head_")]
    quantized = quantize(model, ranges, _FIRST, head)
    domains = {node.domain for node in quantized.graph.node} | {""}
    for one in [one for one in quantized.opset_import if one.domain not in domains]:
        quantized.opset_import.remove(one)
    onnx.helper.set_model_props(quantized, metadata)
    made: bytes = quantized.SerializeToString(deterministic=True)
    return made


class Int8Process(TensorFlowProcess):
    """`build_int8.py`: writes the LiteRT file in 8-bit integers, and predicts images with it."""

    def __init__(self) -> None:
        super().__init__("build_int8.py", "The LiteRT file in 8-bit integers can't be built or used")

    def build(self, outline: Outline, head: Head, weights: Weights, images: Pixels) -> None:
        """Begin to build the file, and to predict images (n, 224, 224, 3), uint8."""
        tensors = self.files / "tensors.safetensors"
        named = {**weights, **head.tensors()}
        save_file({name: np.ascontiguousarray(value) for name, value in named.items()}, tensors)
        np.save(self.files / "images.npy", images)
        paths = {"tensors": tensors, "images": self.files / "images.npy", "file": self.files / LITERT_INT8}
        self.ask({**outline.facts(), **{name: str(path) for name, path in paths.items()}, "threads": usable_cores()})

    def result(self) -> tuple[bytes, Floats]:
        """Wait for the file, and for its probabilities (n, classes).

        Raises:
            ExportError: the process failed.
        """
        (probabilities,) = self.answers()
        return (self.files / LITERT_INT8).read_bytes(), np.array(probabilities, np.float32)
