"""The backbone, VGG16 without its top, and the only function that turns images into its input.

The backbone exists three times: as layers of Keras (training), as operations of TensorFlow (features on a GPU or on
matrix units, exports) and as an ncnn network (features on a CPU, where Winograd convolutions need a quarter of the
multiplications of a 3x3 convolution, in float32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tasks.errors import WeightsError
from tasks.vgg.strategies.base import BLOCK_NAMES
from tasks.vgg.weights import BLOCKS, Weights

if TYPE_CHECKING:
    import keras

MEAN_BGR = (103.939, 116.779, 123.68)
"""Mean colour of ImageNet, blue green red, as `keras.applications.vgg16` in mode `caffe`."""

BOUNDARIES = tuple(f"{name}_pool" for name in BLOCK_NAMES)

T = TypeVar("T")


def preprocess(rgb: T) -> T:
    """Images as they are stored -> images as VGG16 was trained on: BGR minus mean, not scaled.

    Args:
        rgb: float (..., 3), RGB, 0 to 255; a NumPy array or a TensorFlow tensor.

    Returns:
        The same shape and type, BGR, about -124 to 151.
    """
    values: Any = rgb
    flipped: T = values[..., ::-1] - np.asarray(MEAN_BGR, dtype=np.float32)
    return flipped


def check_preprocessing() -> None:
    """Check `preprocess` on known numbers, so that a wrong channel order, scale or mean is noticed.

    Raises:
        WeightsError: `preprocess` doesn't return what VGG16 expects.
    """
    red_to_black = np.array([[255.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    expected = np.array([[-103.939, -116.779, 131.32], [-103.939, -116.779, -123.68]], dtype=np.float32)
    if not np.allclose(preprocess(red_to_black), expected, atol=1e-4):
        raise WeightsError("The preprocessing of images doesn't match VGG16 (BGR, minus mean, not scaled).")


def boundary_shape(boundary: str) -> tuple[int, int, int]:
    """Height, width and channels of a boundary's output for one image of 224x224."""
    block = BOUNDARIES.index(boundary) + 1
    side = 224 >> block
    return side, side, BLOCKS[block - 1][0]


def tensorflow_blocks(values: Any, tensors: Mapping[str, Any], last: str = BOUNDARIES[-1]) -> Iterator[tuple[str, Any]]:
    """Apply VGG16 by TensorFlow's operations; Keras computes exactly the same. Yields each boundary and its output.

    Args:
        values: images (n, 224, 224, 3), preprocessed.
        tensors: as `Weights`, in the data type of the values.
        last: the boundary to end with.
    """
    import tensorflow as tf

    for block, boundary in enumerate(BOUNDARIES[: BOUNDARIES.index(last) + 1], 1):
        for number in range(1, BLOCKS[block - 1][1] + 1):
            name = f"block{block}_conv{number}"
            values = tf.nn.conv2d(values, tensors[f"{name}/kernel"], 1, "SAME")
            values = tf.nn.relu(tf.nn.bias_add(values, tensors[f"{name}/bias"]))
        values = tf.nn.max_pool2d(values, 2, 2, "VALID")
        yield boundary, values


def keras_blocks(
    values: keras.KerasTensor, weights: Weights, blocks: Sequence[int], precision: str
) -> dict[str, keras.KerasTensor]:
    """Apply some blocks of VGG16 to the output of the block before; returns boundary -> output."""
    import keras

    dtype = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    outputs = {}
    for block in blocks:
        for number in range(1, BLOCKS[block - 1][1] + 1):
            name = f"block{block}_conv{number}"
            kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
            layer = keras.layers.Conv2D(len(bias), 3, padding="same", activation="relu", dtype=dtype, name=name)
            values = layer(values)
            layer.set_weights([kernel, bias])
        boundary = BOUNDARIES[block - 1]
        values = outputs[boundary] = keras.layers.MaxPooling2D(2, dtype=dtype, name=boundary)(values)
    return outputs
