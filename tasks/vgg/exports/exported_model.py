"""An exported model as `tasks.predict` uses it: its folder is checked, then ONNX Runtime runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from tasks.errors import PredictError
from tasks.images.decoding import PERMISSIVE, Pixels
from tasks.parallel import one_blas_thread
from tasks.vgg.exports.model_folder import ABOUT, DETECTOR, MODEL, check_model
from tasks.vgg.foreign import Detector
from tasks.vgg.head import Floats


class ExportedModel:
    """An exported model, checked and loaded.

    Args:
        folder: of the export.
        public_key: see `model_folder.check_model`.

    Raises:
        PredictError: the folder is not a complete export, or not one that this project has made and nobody changed.
    """

    def __init__(self, folder: Path, public_key: Path | None = None) -> None:
        files = check_model(folder, public_key)
        try:
            about = json.loads(files[ABOUT])
            content = files[MODEL]
            self.classes = tuple(str(name) for name in about["classes"])
            decoder = {"max_pixels": PERMISSIVE.max_pixels, **about["decoder"]}  # old exports name no limit
            self.background_rgb: tuple[int, int, int] = tuple(decoder["background_rgb"])
            self.policy = replace(PERMISSIVE, max_pixels=decoder["max_pixels"])
            self.thresholds = about.get("answers", {}).get("thresholds")  # old exports promise nothing
            self._detector = _read_detector(files, about)
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
            with one_blas_thread():  # others would spin for 50 ms after it, on cores that the next batch needs
                scores = self._detector.score(features[0]).tolist()
            for answer, score in zip(answers, scores, strict=True):
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


def _read_detector(files: Mapping[str, bytes], about: dict[str, Any]) -> Detector | None:
    """What tells foreign images; None if the export has none, because it is old or of few images."""
    found = about.get("foreign")
    return Detector(found["score"], load(files[DETECTOR]), found["threshold"]) if found else None


def _session(content: bytes, folder: Path) -> Any:
    import onnxruntime  # imported here, because it takes long, and a changed file is refused at once

    onnxruntime.set_default_logger_severity(3)
    try:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoders need the cores meanwhile
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no public base class
        raise PredictError(
            f"onnxruntime {onnxruntime.__version__} can't load {folder / 'model.onnx'}: {error}. "
            "Install the locked version: make setup"
        ) from None
