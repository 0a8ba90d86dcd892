"""The rate of each format and engine, without a server: it gets decoded images, only the SavedModel decodes itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.images.decoding import decode
from tasks.parallel import usable_cores
from tasks.serving.batches import BATCH_SIZE
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.weights import load_weights

Row = tuple[str, float, float, float]
"""What was measured, images/s, median and 99th percentile of the seconds a call."""


def timed(name: str, images_a_call: int, call: Callable[[], Any], seconds: float) -> Row:
    call()
    took: list[float] = []
    began = time.monotonic()
    while not took or time.monotonic() - began < seconds:
        start = time.monotonic()
        call()
        took.append(time.monotonic() - start)
    return name, images_a_call * len(took) / sum(took), *np.percentile(took, (50, 99)).tolist()


def engines(model: Path, contents: Sequence[bytes], seconds: float) -> Iterator[Row]:
    """Each format that the export has, with one image and, where it can, a batch; and ncnn, without a head."""
    pixels = [decode(content)[0] for content in contents]
    batch = np.stack(list(islice(cycle(pixels), BATCH_SIZE)))
    extract = build_extractor(Engine("ncnn", "float32"), load_weights(), ("block5_pool",), BATCH_SIZE)
    yield timed(f"ncnn, features only, {BATCH_SIZE} at once", BATCH_SIZE, lambda: extract(batch), seconds)
    exported = ExportedModel(model)
    for size in (1, BATCH_SIZE):
        some = pixels[:size]
        yield timed(f"ONNX Runtime, {size} at once", size, lambda some=some: exported.answer(some), seconds)
    if (model / "model.int8.onnx").exists():
        for size in (1, BATCH_SIZE):
            call = _onnx(model / "model.int8.onnx", batch[:size].astype(np.float32))
            yield timed(f"ONNX Runtime, int8, {size} at once", size, call, seconds)
    for file, form in (("model.tflite", "LiteRT"), ("model.int8.tflite", "LiteRT, int8")):
        if (model / file).exists():
            yield timed(f"{form}, 1 at once", 1, _litert(model / file, batch[:1].astype(np.float32)), seconds)
    call = _saved_model(model / "saved_model", islice(cycle(contents), BATCH_SIZE))
    yield timed(f"SavedModel, decodes, {BATCH_SIZE} at once", BATCH_SIZE, call, seconds)


def _onnx(file: Path, batch: Any) -> Callable[[], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    return lambda: session.run(None, {given: batch})


def _litert(file: Path, image: Any) -> Callable[[], Any]:
    from tensorflow.lite.python.interpreter import Interpreter

    interpreter = Interpreter(model_content=file.read_bytes(), num_threads=usable_cores())
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]

    def call() -> None:
        interpreter.set_tensor(place, image)
        interpreter.invoke()

    return call


def _saved_model(folder: Path, contents: Iterator[bytes]) -> Callable[[], Any]:
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    images = tf.constant(list(contents))
    return lambda: signature(images=images)
