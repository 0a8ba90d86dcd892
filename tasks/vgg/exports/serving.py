"""The served model: one TensorFlow graph that turns encoded images into labels and probabilities.

`build_served` joins the decoder, the preprocessing function, the backbone and the head. `save_served` writes it as a
SavedModel whose bytes depend only on the model, so the same inputs give the same hashes in dvc.lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tasks.vgg.exports.graph_decoding import decode_batch
from tasks.vgg.exports.graph_network import Network
from tasks.vgg.head import Head
from tasks.vgg.weights import Weights

IMAGES = tf.TensorSpec((None,), tf.string, name="images")
PIXELS = tf.TensorSpec((None, 224, 224, 3), tf.float32, name="pixels")

Classify = Callable[[Any], Any]
"""Images (n, 224, 224, 3), float32 RGB, 0 to 255 -> probabilities (n, classes)."""


class Served(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """The exported classifier.

    Attributes:
        serving_default: encoded images (n,), string -> `label` (n,), string; `probability` (n,), float32, of the label;
            `probabilities` (n, classes), float32, in the order of `labels`.
        pixels: float32 RGB (n, 224, 224, 3), 0 to 255 -> `probabilities`.
        tensors: those that `classify` uses.
        labels: the classes (classes,), string, UTF-8.
    """

    def __init__(
        self,
        classify: Classify,
        tensors: Sequence[Any],
        classes: Sequence[str],
        background_rgb: tuple[int, int, int],
        max_pixels: int,
    ) -> None:
        super().__init__(name="rootstock")
        self.tensors = list(tensors)
        self.labels = tf.constant([name.encode("utf-8", "surrogateescape") for name in classes])
        self.pixels = _pixels(classify)
        self.serving_default = _serving(self.pixels, self.labels, background_rgb, max_pixels)


def build_served(
    head: Head,
    classes: Sequence[str],
    weights: Weights,
    background_rgb: tuple[int, int, int],
    max_pixels: int,
    test_time_augmentation: bool = False,
) -> Served:
    """The whole graph.

    Args:
        head: the trained head.
        classes: their names, in the order of the head's probabilities.
        weights: of the backbone.
        background_rgb: what shows through transparent pixels.
        max_pixels: an encoded image with more is refused.
        test_time_augmentation: predict the mean over an image and its mirror image.
    """
    network = Network(head, weights, test_time_augmentation)
    return Served(network, network.tensors, classes, background_rgb, max_pixels)


def save_served(served: Served, folder: Path) -> None:
    """Write the SavedModel; the same model gives the same bytes in every process."""
    signatures = {"serving_default": served.serving_default, "pixels": served.pixels}
    tf.saved_model.save(served, str(folder), signatures)
    # it holds a random number and hashes of the other files; only a usage counter reads it
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    graph = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    graph.write_bytes(message.SerializeToString(deterministic=True))  # maps in the order of their keys


def _pixels(classify: Classify) -> Any:
    @tf.function(input_signature=[PIXELS], autograph=False)  # type: ignore[untyped-decorator]
    def pixels(pixels: Any) -> dict[str, Any]:
        return {"probabilities": classify(pixels)}

    return pixels


def _serving(classify: Any, labels: Any, background_rgb: tuple[int, int, int], max_pixels: int) -> Any:
    @tf.function(input_signature=[IMAGES], autograph=False)  # type: ignore[untyped-decorator]
    def serving_default(images: Any) -> dict[str, Any]:
        pixels = decode_batch(images, background_rgb, max_pixels)
        probabilities = classify(tf.cast(pixels, tf.float32))["probabilities"]
        return {
            "label": tf.gather(labels, tf.argmax(probabilities, axis=1)),
            "probability": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    return serving_default


def convert_litert(served: Served, int8: bool = False) -> bytes:
    """The classifier as a LiteRT (TensorFlow Lite) file: `pixels` (1, 224, 224, 3), resizable -> `probabilities`.

    With `int8` it has kernels of 8-bit integers, and each layer's input is quantized by its own range for each image
    (LiteRT's dynamic range quantization). With ranges from calibration images, as LiteRT's full quantization needs
    them, the head lost half of its accuracy on ants and bees: it divides by lengths.
    """
    needed = tf.Module(name="pixels")  # the converter writes and reads a whole module, also a decoder that isn't needed
    needed.tensors = served.tensors
    converter = tf.lite.TFLiteConverter.from_concrete_functions([served.pixels.get_concrete_function()], needed)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content: bytes = converter.convert()
    return content
