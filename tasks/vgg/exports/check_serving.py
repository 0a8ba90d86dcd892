"""Loads a SavedModel in a process that knows nothing but the model's folder, and predicts images with it.

Run as a file, isolated (`python -P tasks/vgg/exports/check_serving.py`). It loads TensorFlow at once, while the caller
does other things. Then it reads one line of JSON from stdin: {"model": folder, "images": [paths]}. For each image it
writes one line of JSON to stdout: {"label", "probability", "probabilities"} or {"refused": message}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    import tensorflow as tf

    line = sys.stdin.readline()
    if not line:
        return 1  # the caller has given up
    request = json.loads(line)
    serve = tf.saved_model.load(request["model"]).signatures["serving_default"]
    for path in request["images"]:
        try:
            prediction = _plain(serve(images=tf.constant([Path(path).read_bytes()])))
        except tf.errors.InvalidArgumentError as error:
            prediction = {"refused": error.message.splitlines()[0]}
        print(json.dumps(prediction), flush=True)
    return 0


def _plain(prediction: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": prediction["label"].numpy()[0].decode("utf-8", "surrogateescape"),
        "probability": float(prediction["probability"].numpy()[0]),
        "probabilities": [float(value) for value in prediction["probabilities"].numpy()[0]],
    }


if __name__ == "__main__":
    raise SystemExit(main())
