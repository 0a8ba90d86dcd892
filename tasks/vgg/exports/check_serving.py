"""Loads exported models in a process that knows nothing but their files, and predicts images with them.

Run as a file, isolated (`python -P tasks/vgg/exports/check_serving.py`). It loads TensorFlow at once, while the caller
does other things. Then it reads one line of JSON from stdin:
{"saved_model": folder, "images": [paths], "litert": file or null, "pixels": .npy file, "threads": number}. For each
image it writes one line of JSON to stdout: {"label", "probability", "probabilities"} or {"refused": message}. If there
is a LiteRT file, one more line has its probabilities for all pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 4


def main() -> int:
    import tensorflow as tf

    line = sys.stdin.readline()
    if not line:
        return 1  # the caller has given up
    request = json.loads(line)
    serve = tf.saved_model.load(request["saved_model"]).signatures["serving_default"]
    images = [Path(path).read_bytes() for path in request["images"]]
    for at in range(0, len(images), _BATCH):
        for prediction in _predict(serve, images[at : at + _BATCH]):
            print(json.dumps(prediction), flush=True)
    if request["litert"]:
        content, pixels = Path(request["litert"]).read_bytes(), np.load(request["pixels"])
        print(json.dumps(run_litert(content, pixels, request["threads"]).tolist()), flush=True)
    return 0


def _predict(serve: Any, images: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Predict a batch; the SavedModel refuses it as a whole if it refuses one image, then each image alone."""
    import tensorflow as tf

    try:
        answers = {name: value.numpy() for name, value in serve(images=tf.constant(images)).items()}
    except tf.errors.InvalidArgumentError as error:
        if len(images) == 1:
            yield {"refused": error.message.splitlines()[0]}
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
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    probabilities = []
    for image in pixels:
        interpreter.set_tensor(given["index"], image[np.newaxis])
        interpreter.invoke()
        probabilities.append(interpreter.get_tensor(result["index"])[0])
    return np.stack(probabilities)


if __name__ == "__main__":
    raise SystemExit(main())
