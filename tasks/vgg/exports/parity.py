"""Checks that exported models predict what the trained model predicts, on held-out images and variants of one of them.

The reference is the training side: `tasks.images.decoding.decode`, features by ncnn in float32, the head in NumPy. So
the reference and the exported models share no code that computes.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.errors import ExportError, IntegrityError
from tasks.images.decoding import PERMISSIVE, ImagePolicy, Pixels, decode
from tasks.images.manifest import Example
from tasks.images.packs import PackEntry, index_packs, read_image
from tasks.images.reason_codes import Refused
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.head import Floats
from tasks.vgg.trained_model import Trained
from tasks.vgg.weights import Weights

_BATCH = 8
_ORIENTATION = 0x0112
_TIME_LIMIT_S = 1800


@dataclass(frozen=True)
class Checks:
    """Images that every format must agree on.

    Attributes:
        names: of the images, for errors: mostly paths of the source.
        contents: their bytes.
        pixels: (n, 224, 224, 3), float32 RGB, 0 to 255, by the training decoder.
        probabilities: (n, classes), float32, by the trained model.
        classes: names, in the order of the probabilities.
        tolerance: largest difference of a probability that passes.
    """

    names: tuple[str, ...]
    contents: tuple[bytes, ...]
    pixels: Floats
    probabilities: Floats
    classes: tuple[str, ...]
    tolerance: float


def check_images(
    examples: Sequence[Example],
    raw: Path,
    trained: Trained,
    weights: Weights,
    count: int,
    background_rgb: tuple[int, int, int],
    max_pixels: int,
    tolerance: float,
) -> Checks:
    """Choose held-out images, add variants of the first, and predict them by the trained model.

    Args:
        examples: the held-out ones.
        raw: the folder of the packs.
        trained: the champion.
        weights: of the backbone.
        count: how many real images; the same images are chosen every time, each class in turn.
        background_rgb: what shows through transparent pixels.
        max_pixels: of an image that training accepts.
        tolerance: see `Checks`.

    Raises:
        IntegrityError: there are no held-out images, or one is in no pack.
    """
    chosen = choose(examples, count)
    if not chosen:
        raise IntegrityError("There are no held-out images to check the export with. Run: dvc repro")
    packed = index_packs(raw)
    images = [(example.path, read_image(_place(packed, raw, example), example.key)) for example in chosen]
    images += [(f"{chosen[0].path} ({name})", content) for name, content in variants(images[0][1])]
    policy = replace(PERMISSIVE, max_pixels=max_pixels)
    pixels = np.stack([_decode(name, content, policy, background_rgb) for name, content in images])
    engine = Engine("ncnn", "float32")
    extract = build_extractor(engine, weights, ("block5_pool",), _BATCH, dtype=np.float32)

    def predict(images: Pixels) -> Floats:
        parts = [extract(images[at : at + _BATCH])[0] for at in range(0, len(images), _BATCH)]
        return trained.head.probabilities(np.concatenate(parts))

    probabilities = predict(pixels)
    if trained.test_time_augmentation:
        mirrored = predict(np.ascontiguousarray(pixels[:, :, ::-1]))
        probabilities = ((probabilities + mirrored) / 2).astype(np.float32)
    names, contents = zip(*images, strict=True)
    return Checks(
        names,
        contents,
        pixels.astype(np.float32),
        probabilities,
        trained.classes,
        tolerance,
    )


def choose(examples: Sequence[Example], count: int) -> list[Example]:
    """Up to `count` examples, each class in turn, in the order of their content's hash."""
    ranked: list[tuple[int, str, Example]] = []
    seen: dict[str, int] = {}
    for example in sorted(examples, key=lambda one: one.key):
        rank = seen[example.label] = seen.get(example.label, -1) + 1
        ranked.append((rank, example.key, example))
    return [example for *_, example in sorted(ranked, key=lambda one: one[:2])[:count]]


def variants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The image as JPEG and PNG, upright and turned by EXIF: (what it is, bytes)."""
    with Image.open(io.BytesIO(content)) as image:
        rgb = image.convert("RGB")
    for name, form, orientation in (
        ("as JPEG", "JPEG", 1),
        ("as JPEG, EXIF orientation 6", "JPEG", 6),
        ("as JPEG, EXIF orientation 5", "JPEG", 5),
        ("as PNG", "PNG", 1),
        ("as PNG, EXIF orientation 8", "PNG", 8),
    ):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        buffer = io.BytesIO()
        rgb.save(buffer, form, exif=exif) if orientation > 1 else rgb.save(buffer, form)
        yield name, buffer.getvalue()


def run_onnx(model: bytes, pixels: Floats) -> Floats:
    """Images (n, 224, 224, 3), float32 RGB, 0 to 255 -> probabilities (n, classes), by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"pixels": pixels[at : at + _BATCH]})[0] for at in range(0, len(pixels), _BATCH)]
    return np.concatenate(parts)


_CURE = (
    "Nothing was exported. Run `dvc repro --force --single-item export` again; if it fails again, the installed "
    "versions of tensorflow, keras, onnx or pillow don't fit together: install the locked ones with `make setup`."
)


def compare(
    form: str, predicted: npt.NDArray[Any], checks: Checks, chosen: Sequence[int] | None = None, cure: str = _CURE
) -> float:
    """The largest difference of a probability.

    Args:
        form: the format's name.
        predicted: probabilities (n, classes).
        checks: what they should be.
        chosen: which of the checks were predicted; None for all.
        cure: the end of the error, in words.

    Raises:
        ExportError: one differs by more than the tolerance; names the format, the image and both predictions.
    """
    places = list(range(len(checks.names)) if chosen is None else chosen)
    expected = checks.probabilities[places]
    if predicted.shape != expected.shape:
        raise ExportError(f"{form} returned the shape {predicted.shape}, expected {expected.shape}. {cure}")
    differences = np.abs(predicted - expected).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not differences[worst] <= checks.tolerance:
        raise ExportError(
            f"{form} doesn't predict what the trained model does on {checks.names[places[worst]]}: "
            f"{_words(predicted[worst], checks.classes)} instead of {_words(expected[worst], checks.classes)}; "
            f"a probability differs by {differences[worst]:.3g}, more than export.probability_tolerance="
            f"{checks.tolerance:g}. {cure}"
        )
    return float(differences[worst])


class FreshProcess:
    """`tasks/vgg/exports/check_serving.py` as a child process: it loads TensorFlow at once and waits for a model."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("check_serving.py")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        self._images = tempfile.TemporaryDirectory(prefix="rootstock-check-")
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},  # the parent holds the GPU's memory
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.communicate()
        self._errors.close()
        self._images.cleanup()

    def ask(self, model: Path, checks: Checks) -> None:
        """Send the images; the child predicts while the caller does other things."""
        paths = []
        for number, content in enumerate(checks.contents):
            path = Path(self._images.name) / str(number)
            path.write_bytes(content)
            paths.append(str(path))
        self._request = json.dumps({"model": str(model), "images": paths}) + "\n"
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(self._request)
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def compare(self, checks: Checks) -> tuple[float, int]:
        """Wait for the predictions: the largest difference, and how many images were refused.

        Raises:
            ExportError: the model doesn't load, differs, or predicts a label that is not the most probable class.
        """
        try:
            output, _ = self._child.communicate(timeout=_TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise self._failed() from None
        predictions = [json.loads(line) for line in output.splitlines()]
        if self._child.returncode != 0 or len(predictions) != len(checks.names):
            raise self._failed()
        decoded = [place for place, one in enumerate(predictions) if "refused" not in one]
        if not decoded:
            raise ExportError(f"The SavedModel refuses every image: {predictions[0]['refused']}. {_CURE}")
        difference = compare(
            "SavedModel", np.array([predictions[place]["probabilities"] for place in decoded]), checks, decoded
        )
        for place in decoded:
            _check_label(predictions[place], checks.names[place], checks.classes)
        return difference, len(predictions) - len(decoded)

    def _failed(self) -> ExportError:
        self._errors.seek(0)
        last = self._errors.read().decode("utf-8", "replace").strip().splitlines()[-8:]
        return ExportError(f"The SavedModel can't be used by a fresh process. {_CURE} It said:\n  " + "\n  ".join(last))


def _check_label(prediction: dict[str, Any], name: str, classes: Sequence[str]) -> None:
    best = int(np.argmax(prediction["probabilities"]))
    if prediction["label"] != classes[best] or prediction["probability"] != prediction["probabilities"][best]:
        raise ExportError(f"The SavedModel's label for {name} is not its most probable class: {prediction}. {_CURE}")


def _decode(name: str, content: bytes, policy: ImagePolicy, background_rgb: tuple[int, int, int]) -> Pixels:
    try:
        return decode(content, policy, background_rgb)[0]
    except Refused as refused:
        raise IntegrityError(f"{name} was accepted before and is refused now ({refused}). Run: dvc repro") from None


def _place(packed: Mapping[str, PackEntry], raw: Path, example: Example) -> PackEntry:
    if example.key in packed:
        return packed[example.key]
    raise IntegrityError(f"{example.path} is in no pack of {raw}. Run: dvc repro --force --single-item ingest")


def _words(probabilities: npt.NDArray[Any], classes: Sequence[str]) -> str:
    best = int(np.argmax(probabilities))
    return f"{classes[best]} ({float(probabilities[best]):.4f})"
