"""VGG16 as a Keras model, the usual way: what the other ways must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.images.image_size import IMAGE_SIZE_PX
from tasks.vgg.backbone import BOUNDARIES, keras_blocks
from tasks.vgg.weights import Weights

if TYPE_CHECKING:
    import keras


def build_keras_backbone(
    weights: Weights, boundaries: Sequence[str] = BOUNDARIES[-1:], precision: str = "float32"
) -> keras.Model:
    """VGG16: float images (n, 224, 224, 3), preprocessed -> a list of the outputs at the boundaries.

    Args:
        weights: of all layers; their shapes determine how many filters each layer has.
        boundaries: from the input to the output.
        precision: of the activations, `float32` or `bfloat16`; weights are float32 either way.
    """
    import keras

    images = keras.Input((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), name="images")
    outputs = keras_blocks(images, weights, range(1, BOUNDARIES.index(boundaries[-1]) + 2), precision)
    return keras.Model(images, [outputs[name] for name in boundaries], name="vgg16")
