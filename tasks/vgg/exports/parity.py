"""Checks that exported models predict what the trained model predicts, on held-out images and variants of one of them.

The reference is the training side: `tasks.images.decoding.decode`, features by ncnn in float32, the head in NumPy. So
the reference and the exported models share no code that computes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.errors import ExportError, IntegrityError
from tasks.files import sha256_hex
from tasks.images.decoding import PERMISSIVE, ImagePolicy, Pixels, decode
from tasks.images.manifest import Example
from tasks.images.packs import PackEntry, index_packs, read_image
from tasks.images.reason_codes import Refused
from tasks.parallel import usable_cores
from tasks.vgg.engines import Engine, Extract
from tasks.vgg.exports.kept import Kept
from tasks.vgg.exports.template import LITERT
from tasks.vgg.exports.tensorflow_process import CURE, TensorFlowProcess
from tasks.vgg.head import Floats, pool
from tasks.vgg.inference import latest
from tasks.vgg.trained_model import Trained
from tasks.vgg.weights import Weights, digest

_BATCH = 8
_ORIENTATION = 0x0112
_FEATURE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Difference:
    """How much a format differs from the trained model.

    Attributes:
        form: the format's name, for people.
        images: that were predicted.
        largest: of all differences of a probability.
        median: over images, of the largest difference of each.
        changed: images with another answer.
    """

    form: str
    images: int
    largest: float
    median: float
    changed: int


@dataclass(frozen=True)
class Images:
    """Images that every format must agree on.

    Attributes:
        names: of the images, for errors: mostly paths of the source.
        contents: their bytes.
        pixels: (n, 224, 224, 3), uint8 RGB, by the training decoder.
        real: how many are held-out images. They come first; the others are variants, for those who decode.
    """

    names: tuple[str, ...]
    contents: tuple[bytes, ...]
    pixels: Pixels
    real: int


@dataclass(frozen=True)
class Checks(Images):
    """What the trained model predicts for them.

    Attributes:
        probabilities: (n, classes), float32.
        classes: names, in the order of the probabilities.
        tolerance: largest difference of a probability that passes.
        features: (n, 1024), float32, pooled as by `average_maximum`; for `tasks.vgg.foreign`.
    """

    probabilities: Floats
    classes: tuple[str, ...]
    tolerance: float
    features: Floats


def read_images(chosen: Sequence[Example], raw: Path, background_rgb: tuple[int, int, int], max_pixels: int) -> Images:
    """Read held-out images, and add variants of the first.

    Args:
        chosen: see `choose`.
        raw: the folder of the packs.
        background_rgb: what shows through transparent pixels.
        max_pixels: of an image that training accepts.

    Raises:
        IntegrityError: there are no images, or one is in no pack.
    """
    if not chosen:
        raise IntegrityError("There are no held-out images to check the export with. Run: dvc repro")
    packed = index_packs(raw)
    images = [(example.path, read_image(_place(packed, raw, example), example.key)) for example in chosen]
    images += [(f"{chosen[0].path} ({name})", content) for name, content in variants(images[0][1])]
    policy = replace(PERMISSIVE, max_pixels=max_pixels)
    pixels = np.stack([_decode(name, content, policy, background_rgb) for name, content in images])
    names, contents = zip(*images, strict=True)
    return Images(names, contents, pixels, len(chosen))


def predict_images(images: Images, trained: Trained, weights: Weights, tolerance: float, kept: Kept) -> Checks:
    """Predict the images by the trained model.

    Args:
        images: from `read_images`.
        trained: the champion.
        weights: of the backbone.
        tolerance: see `Checks`.
        kept: where the outputs of a frozen backbone are kept for the next head.
    """
    pixels = images.pixels
    views = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])] if trained.test_time_augmentation else [pixels]
    extract = partial(latest.network, trained.backbone, Engine("ncnn", "float32"), weights)
    outputs = _compute(extract(), views) if trained.backbone else _reuse(extract, weights, views, kept)
    sides = np.stack([trained.head.probabilities(one) for one in outputs])
    probabilities = sides.mean(axis=0, dtype=np.float32)
    features = pool(outputs[0], "average_maximum")
    return Checks(
        **vars(images), probabilities=probabilities, classes=trained.classes, tolerance=tolerance, features=features
    )


def _reuse(extract: Callable[[], Extract], weights: Weights, views: Sequence[Pixels], kept: Kept) -> list[Floats]:
    """`_compute`, or what it gave an earlier run for the same weights and pixels."""
    facts = {"weights": digest(weights), "pixels": [sha256_hex(view.tobytes()) for view in views]}
    files = kept.find("reference", facts)
    if files is None:
        outputs = _compute(extract(), views)
        kept.add("reference", facts, {f"{number}.npy": _to_bytes(values) for number, values in enumerate(outputs)})
        return outputs
    return [np.load(io.BytesIO(content), allow_pickle=False) for _, content in sorted(files.items())]


def _compute(extract: Extract, views: Sequence[Pixels]) -> list[Floats]:
    """The backbone's outputs (n, h, w, c) for each view of the images; rows first, as files keep them."""
    batches = ([extract(view[at : at + _BATCH])[0] for at in range(0, len(view), _BATCH)] for view in views)
    return [np.ascontiguousarray(np.concatenate(some)) for some in batches]


def _to_bytes(values: Floats) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


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


def run_onnx(model: bytes, pixels: Floats | Pixels) -> tuple[Floats, Floats]:
    """Images (n, 224, 224, 3), RGB, 0 to 255 -> probabilities (n, classes) and features, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes need the cores meanwhile
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batches = (pixels[at : at + _BATCH].astype(np.float32) for at in range(0, len(pixels), _BATCH))
    parts = [session.run(None, {"pixels": batch}) for batch in batches]
    probabilities, features = (np.concatenate(part) for part in zip(*parts, strict=True))
    return probabilities, features


def compare_features(found: Floats, checks: Checks) -> None:
    """Compare ONNX's features of the first images of the checks.

    Raises:
        ExportError: one differs by more than 0.01; each half of the features has unit length.
    """
    differences = np.abs(found - checks.features[: len(found)]).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not differences[worst] <= _FEATURE_TOLERANCE:
        raise ExportError(
            f"ONNX doesn't compute the trained model's features of {checks.names[worst]}: one differs by "
            f"{differences[worst]:.3g}. {CURE}"
        )


def compare(
    form: str, predicted: npt.NDArray[Any], checks: Checks, chosen: Sequence[int] | None = None, cure: str = CURE
) -> Difference:
    """How much the predictions of a format differ.

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
    return measure_difference(form, predicted, expected)


def measure_difference(form: str, predicted: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Difference:
    """Compare probabilities (n, classes)."""
    differences = np.abs(predicted - expected).max(axis=1)
    changed = int((predicted.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return Difference(form, len(expected), float(differences.max()), float(np.median(differences)), changed)


class FreshProcess(TensorFlowProcess):
    """`check_serving.py`: predicts by the SavedModel and by LiteRT, and knows nothing but their files.

    Args:
        runtime: what runs the SavedModel: TensorFlow's Python package or its C library, which loads faster.
    """

    def __init__(self, runtime: Literal["python", "library"]) -> None:
        task = "The SavedModel or the LiteRT file can't be used by a fresh process"
        super().__init__("check_serving.py", task, runtime)

    def begin(self, model: Path, images: Images) -> None:
        """Let the process predict the images with a SavedModel, or the real ones with a LiteRT file."""
        if model.name == LITERT:
            pixels = self.files / "pixels.npy"
            np.save(pixels, images.pixels[: images.real].astype(np.float32))
            self.ask({"litert": str(model), "pixels": str(pixels), "threads": usable_cores()})
            return
        paths = [self.files / str(number) for number in range(len(images.contents))]
        for path, content in zip(paths, images.contents, strict=True):
            path.write_bytes(content)
        self.ask({"saved_model": str(model), "images": [str(path) for path in paths]})

    def compare(self, checks: Checks) -> tuple[list[Difference], int]:
        """Wait for the predictions: the difference of each format, and how many images SavedModel refused.

        Raises:
            ExportError: a model doesn't load, or differs, or predicts a label that is not the most probable class.
        """
        answers = self.answers()
        count = len(checks.names)
        if len(answers) < count:
            raise self.failed()
        predictions, others = answers[:count], answers[count:]
        decoded = [place for place, one in enumerate(predictions) if "refused" not in one]
        if not decoded:
            raise ExportError(f"The SavedModel refuses every image: {predictions[0]['refused']}. {CURE}")
        probabilities = np.array([predictions[place]["probabilities"] for place in decoded])
        differences = [compare("SavedModel", probabilities, checks, decoded)]
        for place in decoded:
            _check_label(predictions[place], checks.names[place], checks.classes)
        differences += [compare("LiteRT", np.array(one), checks, range(checks.real)) for one in others]
        return differences, count - len(decoded)


def _check_label(prediction: dict[str, Any], name: str, classes: Sequence[str]) -> None:
    best = int(np.argmax(prediction["probabilities"]))
    if prediction["label"] != classes[best] or prediction["probability"] != prediction["probabilities"][best]:
        raise ExportError(f"The SavedModel's label for {name} is not its most probable class: {prediction}. {CURE}")


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
