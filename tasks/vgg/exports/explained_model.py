"""Which places of an image speak for an exported model's answer, from nothing but its ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.images.decoding import Pixels
from tasks.vgg.activation_maps import Doubles, explain
from tasks.vgg.backbone import BOUNDARIES
from tasks.vgg.exports.onnx_graph import INPUT, OUTPUT
from tasks.vgg.head import Floats, Head, Pooling, restore

_PLACES = BOUNDARIES[-1]


class ExplainedModel:
    """A second copy of the network that also returns the backbone's output.

    Args:
        content: of `model.onnx`, as `onnx_graph.build_onnx` writes it.

    Raises:
        ValueError: it was written by something else.
    """

    def __init__(self, content: bytes) -> None:
        import onnx
        import onnxruntime

        proto = onnx.load_model_from_string(content)
        self._head = _head(proto)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(_PLACES, onnx.TensorProto.FLOAT, None))
        self._session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def places(self, pixels: Pixels) -> Doubles:
        """An image (224, 224, 3) uint8 -> (7, 7): above 0 where it speaks for the first class against the second."""
        batch = pixels[np.newaxis].astype(np.float32)
        probabilities, features = self._session.run([OUTPUT, _PLACES], {INPUT: batch})
        chosen, other = np.argsort(probabilities[0], kind="stable")[::-1][:2].tolist()
        return explain(self._head, features[0].transpose(1, 2, 0), chosen, other).places  # the image, not its mirror


def _head(proto: Any) -> Head:
    from onnx import numpy_helper

    names = {node.name for node in proto.graph.node}
    tensors: dict[str, Floats] = {
        one.name: numpy_helper.to_array(one) for one in proto.graph.initializer if one.name.startswith("head_")
    }
    layers = len(tensors) // 2
    if _PLACES not in names or not layers:
        raise ValueError("this file is no VGG16 with a head")
    pooling: Pooling = "flatten" if "flatten" in names else "bilinear" if "products" in names else "average_maximum"
    activations = ["relu" if f"head_{number}_relu" in names else "softmax" for number in range(1, layers + 1)]
    return restore({"pooling": pooling, "activations": activations}, tensors)
