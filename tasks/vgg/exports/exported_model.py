"""An exported model as `tasks.predict` uses it: read from its folder, verified, and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from tasks.errors import PredictError
from tasks.files import read_json, sha256_hex
from tasks.images.decoding import PERMISSIVE, Pixels
from tasks.vgg.foreign import Detector
from tasks.vgg.head import Floats

_MODEL, _DETECTOR = "model.onnx", "foreign.safetensors"


class ExportedModel:
    """An exported model, verified and loaded.

    Raises:
        PredictError: the folder is not a complete export, or a file is not the one that was exported.
    """

    def __init__(self, folder: Path) -> None:
        try:
            about = read_json(folder / "export.json")
            content = (folder / _MODEL).read_bytes()
            self.classes = tuple(str(name) for name in about["classes"])
            decoder = {"max_pixels": PERMISSIVE.max_pixels, **about["decoder"]}  # old exports name no limit
            self.background_rgb: tuple[int, int, int] = tuple(decoder["background_rgb"])
            self.policy = replace(PERMISSIVE, max_pixels=decoder["max_pixels"])
            self.thresholds = about.get("answers", {}).get("thresholds")  # old exports promise nothing
            _verify(folder / _MODEL, content, about["sha256"])
            self._detector = _read_detector(folder, about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PredictError(
                f"{folder} is not a complete exported model ({type(error).__name__}: {error}). Name the folder that "
                "the pipeline exports (--model models/export), or make it: dvc pull export, or make run"
            ) from None
        self._session = _session(content, folder)
        self.has_features = any(output.name == "features" for output in self._session.get_outputs())

    def answer(self, pixels: Sequence[Pixels]) -> list[dict[str, Any]]:
        """Decoded images (224, 224, 3), uint8, 1 or more -> for each `label`, `probability`, `probabilities`.

        Besides, what the model can tell: `unsure`, `foreign`, `foreign_score`; see `tasks.predict`.
        """
        return self.answer_with_features(pixels)[0]

    def answer_with_features(self, pixels: Sequence[Pixels]) -> tuple[list[dict[str, Any]], Floats | None]:
        """`answer`, and the features (n, 1024), float32, if the model returns them; see `onnx_graph.build_onnx`."""
        batch = np.stack(pixels).astype(np.float32)
        outputs = ["probabilities", "features"] if self.has_features else ["probabilities"]
        probabilities, *features = self._session.run(outputs, {self._session.get_inputs()[0].name: batch})
        answers = [self._answer(row) for row in probabilities.tolist()]
        if self._detector:
            for answer, score in zip(answers, self._detector.score(features[0]).tolist(), strict=True):
                answer |= {"foreign": score > self._detector.threshold, "foreign_score": score}
        return answers, features[0] if features else None

    def _answer(self, probabilities: list[float]) -> dict[str, Any]:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        answer = {
            "label": self.classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(self.classes, probabilities, strict=True)),
        }
        if self.thresholds is not None:
            threshold = self.thresholds[best]
            answer["unsure"] = threshold is None or probabilities[best] < threshold
        return answer


def _read_detector(folder: Path, about: dict[str, Any]) -> Detector | None:
    """What tells foreign images; None if the export has none, because it is old or of few images."""
    found = about.get("foreign")
    if not found:
        return None
    content = (folder / _DETECTOR).read_bytes()
    _verify(folder / _DETECTOR, content, about["sha256"])
    return Detector(found["score"], load(content), found["threshold"])


def _verify(path: Path, content: bytes, expected: dict[str, str]) -> None:
    if sha256_hex(content) != expected[path.name]:
        raise PredictError(
            f"{path} is not the file that was exported: its SHA-256 differs. "
            "It is damaged or was changed, so it is not used. Get it again: dvc checkout --force export"
        )


def _session(content: bytes, folder: Path) -> Any:
    import onnxruntime  # imported here, because it takes long, and a changed file is refused at once

    onnxruntime.set_default_logger_severity(3)
    try:
        return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no public base class
        raise PredictError(
            f"onnxruntime {onnxruntime.__version__} can't load {folder / 'model.onnx'}: {error}. "
            "Install the locked version: make setup"
        ) from None
