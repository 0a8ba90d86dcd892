"""Checks that exported models predict what the trained model predicts; see `checks` for the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.errors import ExportError
from tasks.images.decoding import Pixels
from tasks.parallel import usable_cores
from tasks.vgg.exports.checks import Checks, Images
from tasks.vgg.exports.places import LITERT
from tasks.vgg.exports.tensorflow_process import CURE, TensorFlowProcess
from tasks.vgg.head import Floats

_BATCH = 8
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


def _words(probabilities: npt.NDArray[Any], classes: Sequence[str]) -> str:
    best = int(np.argmax(probabilities))
    return f"{classes[best]} ({float(probabilities[best]):.4f})"
