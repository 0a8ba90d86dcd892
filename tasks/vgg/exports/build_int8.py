"""Writes the LiteRT file in 8-bit integers and predicts images with it, in a process of its own, with TensorFlow.

Run as a file (`python -P tasks/vgg/exports/build_int8.py`). It reads one line of JSON from stdin, see `build`, and
writes one line with the probabilities of all images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tasks.vgg.head import restore


def main() -> int:
    from tasks.vgg.exports.check_serving import run_litert

    line = sys.stdin.readline()
    if not line:
        return 1  # the caller has given up
    request = json.loads(line)
    content = build(request)
    Path(request["file"]).write_bytes(content)
    images = np.load(request["images"], mmap_mode="r")
    pixels = (image.astype(np.float32) for image in images)
    print(json.dumps(run_litert(content, pixels, request["threads"]).tolist()), flush=True)
    return 0


def build(request: dict[str, Any]) -> bytes:
    """The file's content.

    Args:
        request: `template.Outline.facts`; `tensors`, a file with those of the backbone and the head.
    """
    from tasks.vgg.exports.serving import build_served, convert_litert

    tensors = load_file(request["tensors"])
    served = build_served(
        restore(request["head"], tensors),
        request["classes"],
        {name: value for name, value in tensors.items() if name.startswith("block")},
        tuple(request["background_rgb"]),
        request["max_pixels"],
        request["test_time_augmentation"],
    )
    return convert_litert(served, int8=True)


if __name__ == "__main__":
    raise SystemExit(main())
