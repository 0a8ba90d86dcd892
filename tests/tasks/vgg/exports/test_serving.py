"""The serving signatures, mostly on a tiny network."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.images.decoding import PERMISSIVE, decode
from tests.conftest import PROJECT
from tests.tasks.vgg.exports.decoders import (
    BACKGROUND,
    encode,
    image,
)


def tiny_served(classes: tuple[str, ...] = ("ant", "bee")) -> Any:
    """The serving module around a network that averages colours: its answer can be worked out by hand."""
    import keras

    from tasks.vgg.backbone import preprocess
    from tasks.vgg.exports.serving import Served

    given_ = keras.Input((224, 224, 3))
    average = keras.layers.GlobalAveragePooling2D()(given_)
    dense = keras.layers.Dense(len(classes), activation="softmax")
    network = keras.Model(given_, dense(average))
    dense.set_weights([np.array([[0.02, 0], [0, 0.02], [0, 0]], np.float32), np.zeros(2, np.float32)])
    tensors = [weight.value for weight in network.weights]
    return Served(lambda pixels: network(preprocess(pixels)), tensors, classes, BACKGROUND, PERMISSIVE.max_pixels)


def test_served_labels_images_through_the_one_preprocessing() -> None:
    import tensorflow as tf

    from tasks.vgg.backbone import preprocess
    from tasks.vgg.head import softmax

    blue, green = (encode(Image.new("RGB", (30, 20), colour), "PNG") for colour in ((0, 0, 250), (0, 250, 0)))
    answer = tiny_served(("ant", "Ä<b>")).serving_default(tf.constant([blue, green]))
    assert [label.decode() for label in answer["label"].numpy()] == ["ant", "Ä<b>"]
    colours = np.array([[0, 0, 250], [0, 250, 0]], np.float32)
    expected = softmax(preprocess(colours)[:, :2] * np.float32(0.02))
    np.testing.assert_allclose(answer["probabilities"].numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(answer["probability"].numpy(), answer["probabilities"].numpy().max(axis=1))


def test_request_that_the_docs_show_fits_the_only_input_of_the_signature() -> None:
    """TensorFlow Serving's rule: an instance is the value of the only input, and {"b64": ...} is a string of bytes."""
    import tensorflow as tf

    content = encode(image(), "JPEG")
    [shown] = re.findall(r'curl -d "(.*)" http\S*:predict', (PROJECT / "docs/serving.md").read_text())
    text = shown.replace('\\"', '"').replace("$(base64 -w0 one.jpg)", base64.b64encode(content).decode())
    [instance] = json.loads(text)["instances"]
    served = tiny_served()
    [given], _ = served.serving_default.get_concrete_function().structured_input_signature
    assert (given.name, given.dtype, given.shape.as_list()) == ("images", tf.string, [None])
    sent = served.serving_default(tf.constant([base64.b64decode(instance["b64"])]))
    direct = served.pixels(tf.constant(decode(content)[0][np.newaxis].astype(np.float32)))["probabilities"]
    np.testing.assert_allclose(sent["probabilities"].numpy(), direct.numpy(), atol=1e-3)


def test_saved_model_loads_without_its_random_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    from tasks.vgg.exports.serving import save_served

    save_served(tiny_served(), tmp_path / "a")
    assert not list(tmp_path.rglob("fingerprint.pb"))
    loaded = tf.saved_model.load(str(tmp_path / "a"))
    content = encode(image(), "JPEG")
    answer = loaded.signatures["serving_default"](images=tf.constant([content]))
    pixels = decode(content)[0][np.newaxis].astype(np.float32)
    direct = loaded.signatures["pixels"](pixels=tf.constant(pixels))["probabilities"].numpy()
    np.testing.assert_allclose(answer["probabilities"].numpy(), direct, atol=1e-3)


def test_litert_answers_as_the_graph() -> None:
    import tensorflow as tf

    from tasks.vgg.exports.check_serving import run_litert
    from tasks.vgg.exports.serving import convert_litert

    served = tiny_served()
    pixels = np.stack([decode(encode(image(), "PNG"))[0]] * 3).astype(np.float32)
    expected = served.pixels(tf.constant(pixels))["probabilities"].numpy()
    with pytest.warns(UserWarning, match="tf.lite.Interpreter is deprecated"):
        answered = run_litert(convert_litert(served), pixels, 1)
    np.testing.assert_allclose(answered, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["EagerPyFunc", "ReadFile", "WriteFile"])
def test_saved_model_that_could_do_more_is_refused(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    from tasks.vgg.exports.safe_graphs import check_saved_model

    def run(images: Any) -> Any:
        if name == "EagerPyFunc":
            return tf.py_function(lambda one: one, [images], tf.string)
        if name == "ReadFile":
            return tf.map_fn(tf.io.read_file, images)
        with tf.control_dependencies([tf.io.write_file("written", "x")]):
            return tf.identity(images)

    module = tf.Module()
    module.run = tf.function(run, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    tf.saved_model.save(module, str(tmp_path))
    refusal = check_saved_model((tmp_path / "saved_model.pb").read_bytes())
    assert refusal == f'it has the operation "{name}", which no export has'
