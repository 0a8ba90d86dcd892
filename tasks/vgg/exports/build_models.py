"""Writes a SavedModel and a LiteRT file of known numbers, in a process of its own, because only this needs TensorFlow.

Run as a file (`python -P tasks/vgg/exports/build_models.py`). It loads TensorFlow at once. Then it reads one line of
JSON from stdin, see `build`. It writes `saved_model/` and then, if it is wanted, `model.tflite` to the folder. Each has
its name only when it is whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tasks.vgg.exports.places import known_tensors
from tasks.vgg.head import restore


def main() -> int:
    from tasks.vgg.exports import serving  # noqa: F401 - loads TensorFlow before the request comes

    line = sys.stdin.readline()
    if not line:
        return 1  # the caller has given up
    build(json.loads(line))
    return 0


def build(request: dict[str, Any]) -> None:
    """Write the files.

    Args:
        request: `template.Outline.facts`, and `folder`.
    """
    from tasks.vgg.exports.serving import build_served, convert_litert, save_served

    folder, tensors = Path(request["folder"]), known_tensors(request["shapes"])
    served = build_served(
        restore(request["head"], tensors),
        request["classes"],
        {name: value for name, value in tensors.items() if name.startswith("block")},
        tuple(request["background_rgb"]),
        request["max_pixels"],
        request["test_time_augmentation"],
    )
    save_served(served, folder / "part")
    (folder / "part").rename(folder / "saved_model")
    if request["litert"]:
        (folder / "part").write_bytes(convert_litert(served))
        (folder / "part").rename(folder / "model.tflite")


if __name__ == "__main__":
    raise SystemExit(main())
