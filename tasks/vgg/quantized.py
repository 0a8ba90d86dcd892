"""The frozen network in 8-bit integers, by ONNX Runtime: computes features of training images on CPUs with fast int8.

Kernels are quantized per filter, activations per layer; the largest value on a fixed set of training images sets the
range (B. Jacob et al., Quantization and Training of Neural Networks for Integer-Arithmetic-Only Inference, 2018).
Kernels have 7 bits: a CPU without VNNI adds two products in 16 bits, where products of 8-bit kernels overflow. The
cosine to float32 is 0.998 with 7 bits on every CPU; with 8 bits it is 0.999 with VNNI and 0.965 without.
Measured on two cores with VNNI: 28 images/s, ncnn in float32 15.5, TensorFlow in bfloat16 14.0.

No reported metric uses int8: validation and test images pass the network that is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.vgg.backbone import preprocess
from tasks.vgg.exports.onnx_graph import PLANES, backbone_model
from tasks.vgg.head import Floats
from tasks.vgg.weights import BLOCKS, Weights, layer_names

Pixels = npt.NDArray[np.uint8]
KERNEL_BITS = 7
_BATCH = 8


def measure_ranges(weights: Weights, images: Pixels) -> tuple[float, ...]:
    """The largest output of each convolution, from the input to the output, over images (n, 224, 224, 3) RGB."""
    session = _session(backbone_model(weights, list(map(_activation, layer_names()))), threads=0)
    largest = np.zeros(len(layer_names()), np.float32)
    for start in range(0, len(images), _BATCH):
        outputs = session.run(None, {PLANES: _planes(images[start : start + _BATCH])})
        largest = np.maximum(largest, [output.max() for output in outputs])
    return tuple(map(float, largest))


class QuantizedNetwork:
    """The network as a function of one image.

    Args:
        weights: of the network, float32.
        ranges: see `measure_ranges`.
        boundaries: whose outputs are returned, from the input to the output.
    """

    def __init__(self, weights: Weights, ranges: Sequence[float], boundaries: Sequence[str]) -> None:
        self._session = _session(quantize(backbone_model(weights, boundaries), ranges), threads=1)

    def __call__(self, pixels: Pixels) -> list[Floats]:
        """An image (224, 224, 3) uint8 RGB -> for each boundary (h, w, c) float32."""
        outputs = self._session.run(None, {PLANES: _planes(pixels[np.newaxis])})
        return [output[0].transpose(1, 2, 0) for output in outputs]


def quantize(model: Any, ranges: Sequence[float], given: str = PLANES, excluded: Sequence[str] = ()) -> Any:
    """An ONNX model with the network's layers -> the same with 8-bit activations and kernels of KERNEL_BITS.

    Args:
        model: changed, too.
        ranges: see `measure_ranges`.
        given: the name of the first convolution's input.
        excluded: the names of nodes after the network, which stay as they are.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    black, white = (preprocess(np.full((1, 3), level, np.float32)) for level in (0, 255))
    known = {given: (black.min(), white.max())}
    for layer, largest in zip(layer_names(), ranges, strict=True):
        known[layer] = (np.float32(-largest), np.float32(largest))  # the range of the relu that follows is used
        known[_activation(layer)] = (np.float32(0), np.float32(largest))
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        known[f"block{block}_pool"] = known[_activation(f"block{block}_conv{convolutions}")]
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=KERNEL_BITS < 8,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, known),
        nodes_to_quantize=None,
        nodes_to_exclude=list(excluded),
        op_types_to_quantize=["Conv", "Relu", "MaxPool"],
        extra_options={},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _session(model: Any, threads: int) -> Any:
    """A session with this number of threads; 0: one for each core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _planes(images: Pixels) -> Floats:
    return np.ascontiguousarray(preprocess(images.astype(np.float32)).transpose(0, 3, 1, 2))


def _activation(layer: str) -> str:
    return f"{layer}_relu"
