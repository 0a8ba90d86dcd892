"""A small exported model for tests of programs that use one: red against green, without VGG16."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save

from tasks.files import sha256_hex, write_bytes, write_json
from tasks.vgg.exports.onnx_graph import build_onnx
from tasks.vgg.head import Dense, Head
from tests.tasks.vgg.exports.test_onnx_graph import zero_weights

CLASSES = ("red", "grün")
FEATURES = 1024


def save_export(folder: Path, classes: Sequence[str] = CLASSES, strength: float = 0.05) -> Path:
    """Compares the mean of red with that of green; an image without much of either is foreign, a mixed one unsure.

    Args:
        folder: for the export.
        classes: two names.
        strength: how sure the model is; so exports differ.
    """
    wide = np.eye(3, FEATURES, dtype=np.float32)
    return _save(folder, classes, tiny_model(compare_red_with_green(strength), wide), np.eye(2, FEATURES))


def compare_red_with_green(strength: float = 0.05) -> npt.NDArray[np.float32]:
    """The kernel (channels, classes) of a model that does."""
    return np.array([[strength, 0], [0, strength], [0, 0]], np.float32)


def tiny_model(kernel: npt.NDArray[np.float32], wide: npt.NDArray[np.float32] | None = None) -> bytes:
    """An ONNX file: the mean colour times the kernel, then softmax; with `wide`, the mean times it are the features."""
    constants, sizes = [numpy_helper.from_array(kernel, "kernel")], {"probabilities": kernel.shape[1]}
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("GlobalAveragePool", ["planes"], ["means"]),
        helper.make_node("Flatten", ["means"], ["mean"]),
        helper.make_node("MatMul", ["mean", "kernel"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    if wide is not None:
        constants.append(numpy_helper.from_array(wide, "wide"))
        nodes.append(helper.make_node("MatMul", ["mean", "wide"], ["features"]))
        sizes["features"] = wide.shape[1]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 224, 224, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in sizes.items()]
    graph = helper.make_graph(nodes, "tiny", [given], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def save_vgg_export(folder: Path) -> Path:
    """VGG16 whose first channels pass the image through: red against green again, with places that speak for them."""
    kernel = np.zeros((FEATURES, 2), np.float32)
    kernel[2, 0] = kernel[1, 1] = 20  # channels are blue, green, red
    head = Head("average_maximum", (Dense(kernel, np.zeros(2, np.float32), "softmax"),))
    known = np.eye(FEATURES)[[2, 1]] + np.eye(FEATURES)[[514, 513]]  # average and maximum
    return _save(folder, CLASSES, build_onnx(head, CLASSES, zero_weights()), known)


def _save(folder: Path, classes: Sequence[str], model: bytes, known: npt.NDArray[Any]) -> Path:
    fitted = save({"known": np.repeat(known.astype(np.float16), 10, axis=0)})
    files = {"model.onnx": model, "foreign.safetensors": fitted}
    for name, content in files.items():
        write_bytes(folder / name, content)
    about: dict[str, Any] = {
        "classes": list(classes),
        "decoder": {"background_rgb": [255, 255, 255]},
        "answers": {"thresholds": [0.9, 0.9]},
        "foreign": {"score": "nearest_neighbours", "threshold": 0.9},
        "sha256": {name: sha256_hex(content) for name, content in files.items()},
    }
    write_json(folder / "export.json", about)
    return folder


def encoded(colour: tuple[int, int, int], form: str = "PNG", size: tuple[int, int] = (30, 20), **options: Any) -> bytes:
    """An image file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form, **options)
    return buffer.getvalue()
