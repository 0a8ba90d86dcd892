"""Does the memory of scoring grow with the images? Scores a simulated source with a stand-in for the network.

    python -m benchmarks.scoring_memory [--images 200000]

The listing, reading ahead, decoding in processes, batches and parts are those of `tasks.score`; the images are a few
small PNG files, again and again, and the network answers at once. Shown is the resident memory of the process and of
its decoders when so many rows were written.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
from PIL import Image

from benchmarks.workspaces import PROJECT
from tasks import score as scoring
from tasks.images.sources import SourceImage, SourceListing
from tasks.params import load_settings
from tasks.progress import Progress
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.workspace import Workspace
from tests.tasks.exporting import save_export

_MARKS = (1_000, 10_000, 50_000, 100_000, 200_000)


class Simulated:
    """Reads every image from memory; one of a hundred is no image."""

    def __init__(self) -> None:
        self._contents = [_encoded(number) for number in range(99)] + [b"<html>"]

    def read(self, image: SourceImage) -> bytes:
        return self._contents[image.place % len(self._contents)]

    def read_head(self, _image: SourceImage) -> bytes | None:
        return None


def _encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def answer(model: ExportedModel, pixels: list) -> tuple[list[dict], None]:
    """What the stand-in says of any images."""
    shares = dict.fromkeys(model.classes, 1 / len(model.classes))
    one = {"label": model.classes[0], "probability": 0.5, "probabilities": shares, "unsure": True, "foreign": False}
    return [dict(one) for _ in pixels], None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring_memory", description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    given = parser.parse_args()
    process, began, marks = psutil.Process(), time.monotonic(), [mark for mark in _MARKS if mark <= given.images]

    def watch(self: Progress, units: int = 1, *_: object) -> None:
        self.done += units
        while marks and self.done >= marks[0]:
            own = process.memory_info().rss / 1e6
            decoders = sum(child.memory_info().rss for child in process.children(recursive=True)) / 1e6
            print(
                f"{marks.pop(0):,} rows after {time.monotonic() - began:.0f} s: {own:.0f} MB, decoders {decoders:.0f}"
            )

    reader = Simulated()
    images = [SourceImage(f"{n:07d}.png", "", None, reader, n, str(n)) for n in range(given.images)]
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as temporary:
        folder = Path(temporary)
        wanted = scoring.Wanted(save_export(folder / "export"), "simulated", folder / "out")
        with (
            mock.patch.object(scoring, "discover", return_value=SourceListing.of(images)),
            mock.patch.object(ExportedModel, "answer_with_features", answer),
            mock.patch.object(Progress, "advance", watch),
        ):
            summary = scoring.score(wanted, load_settings(PROJECT), Workspace.at(PROJECT))
    print(f"{summary['rows']:,} rows, {summary['errors']}")


if __name__ == "__main__":
    main()
