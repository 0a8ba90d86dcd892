"""Program `exported_scores`: loads an exported model in a process of its own, and scores prepared images. For the gate.

    python -m tasks.exported_scores FOLDER IMAGES.npy SCORES.npz [PUBLIC-KEY]

IMAGES are (n, 224, 224, 3) uint8 RGB. SCORES hold `classes`, `probabilities` (n, classes), and `latency_ms`: the median
for one image at a time, on this machine. With a public key, a model that isn't signed by its owner isn't loaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.program import run_program
from tasks.vgg.exports.exported_model import ExportedModel

_BATCH = 16
_TRIES = 7


def score(folder: Path, images: Path, scores: Path, public_key: Path | None = None) -> None:
    """Score images and write what is described above.

    Raises:
        PredictError: the model can't be loaded.
    """
    model, pixels = ExportedModel(folder, public_key), np.load(images, mmap_mode="r")
    answers = []
    for start in range(0, len(pixels), _BATCH):
        answers += model.answer(list(pixels[start : start + _BATCH]))
    seconds = []
    for _ in range(_TRIES if len(pixels) else 0):
        began = time.perf_counter()
        model.answer([pixels[0]])
        seconds.append(time.perf_counter() - began)
    np.savez(
        scores,
        classes=np.array(model.classes),
        probabilities=np.array([[one["probabilities"][name] for name in model.classes] for one in answers], np.float32),
        latency_ms=1000 * float(np.median(seconds)) if seconds else 0.0,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    folder, images, scores, *key = map(Path, sys.argv[1:] if arguments is None else arguments)
    return run_program(lambda: score(folder, images, scores, *key))


if __name__ == "__main__":
    raise SystemExit(main())
