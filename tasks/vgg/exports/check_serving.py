"""Loads exported models in a process that knows nothing but their files, and predicts images with them.

Run as a file (`python -P tasks/vgg/exports/check_serving.py python`). It loads TensorFlow at once, while the caller
does other things: its Python package, or with `library` its C library alone, which takes an eighth of the time. Then it
reads a line of JSON from stdin for each model, and begins with each at once, so that they fill each other's gaps:
- {"saved_model": folder, "images": [paths]}: for each image a line of JSON on stdout, {"label", "probability",
  "probabilities"} or {"refused": message};
- {"litert": file, "pixels": .npy file, "threads": number}: a line with the probabilities for all pixels.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tasks.vgg.exports.c_library import RefusedError, SavedModel, load_library

_BATCH = 4

Serve = Callable[[Sequence[bytes]], dict[str, Any]]
"""Encoded images -> `label` (bytes), `probability`, `probabilities` of each; raises RefusedError."""


def main() -> None:
    load = {"python": _load_python, "library": _load_library}[sys.argv[1]]()
    with ThreadPoolExecutor() as pool:
        begun = [pool.submit(_answer, json.loads(line), load) for line in sys.stdin]
        for one in begun:
            for answer in one.result():
                print(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # TensorFlow's own end takes half a second


def _answer(request: dict[str, Any], load: Callable[[Path], Serve]) -> list[Any]:
    """What is to be written for a model."""
    if "litert" in request:
        content, pixels = Path(request["litert"]).read_bytes(), np.load(request["pixels"])
        return [run_litert(content, pixels, request["threads"]).tolist()]
    serve = load(Path(request["saved_model"]))
    images = [Path(path).read_bytes() for path in request["images"]]
    batches = (images[at : at + _BATCH] for at in range(0, len(images), _BATCH))
    return [prediction for batch in batches for prediction in _predict(serve, batch)]


def _load_python() -> Callable[[Path], Serve]:
    import tensorflow as tf

    def load(folder: Path) -> Serve:
        signature = tf.saved_model.load(str(folder)).signatures["serving_default"]

        def serve(images: Sequence[bytes]) -> dict[str, Any]:
            try:
                return {name: value.numpy() for name, value in signature(images=tf.constant(images)).items()}
            except tf.errors.InvalidArgumentError as error:
                raise RefusedError(error.message) from None

        return serve

    return load


def _load_library() -> Callable[[Path], Serve]:
    library = load_library()
    package = find_spec("tensorflow")
    assert package
    # LiteRT's interpreter is a module of TensorFlow that needs no other; the empty package keeps out the others
    empty = sys.modules["tensorflow"] = types.ModuleType("tensorflow")
    empty.__path__ = list(package.submodule_search_locations or ())
    return lambda folder: SavedModel(library, folder)


def _predict(serve: Serve, images: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Predict a batch; the SavedModel refuses it as a whole if it refuses one image, then each image alone."""
    try:
        answers = serve(images)
    except RefusedError as error:
        if len(images) == 1:
            yield {"refused": str(error).splitlines()[0]}
        else:
            for image in images:
                yield from _predict(serve, [image])
        return
    for place in range(len(images)):
        yield {
            "label": answers["label"][place].decode("utf-8", "surrogateescape"),
            "probability": float(answers["probability"][place]),
            "probabilities": answers["probabilities"][place].tolist(),
        }


def run_litert(content: bytes, pixels: Any, threads: int) -> Any:
    """Images (n, 224, 224, 3), float32 RGB, 0 to 255 -> probabilities (n, classes), by LiteRT's interpreter."""
    from tensorflow.lite.python.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    probabilities = []
    for image in pixels:
        interpreter.set_tensor(given["index"], image[np.newaxis])
        interpreter.invoke()
        probabilities.append(interpreter.get_tensor(result["index"])[0])
    return np.stack(probabilities)


if __name__ == "__main__":
    main()
