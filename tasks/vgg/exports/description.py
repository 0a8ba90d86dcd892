"""The description of an exported model: all that scoring needs beside the network. Each format has it inside.

It is one JSON object, see docs/verification.md. ONNX has it in its metadata, the SavedModel as an extra asset, and
LiteRT in a ZIP archive at the end of the file, which is LiteRT's way to join files to a model.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.files import file_sha256, json_bytes
from tasks.images import decoding
from tasks.settings import Settings
from tasks.vgg.exports.places import LITERT
from tasks.vgg.trained_model import Trained
from tasks.vgg.weights import SHA256
from tasks.workspace import Workspace

KEY = "rootstock"
"""Of ONNX's metadata."""
FILE = "rootstock.json"
LABELS = "labels.txt"
_VERSION = 2
_DATE = (1980, 1, 1, 0, 0, 0)  # the first of ZIP, so that the same files give the same bytes


def describe(
    trained: Trained, evaluation: Mapping[str, Any], settings: Settings, workspace: Workspace
) -> dict[str, Any]:
    """The description as JSON.

    Args:
        trained: the champion.
        evaluation: what `reports/evaluation.json` holds.
        settings: of the run.
        workspace: with the files that the digests name.
    """
    foreign = evaluation.get("foreign")
    return {
        "version": _VERSION,
        "classes": list(trained.classes),
        "strategy": trained.strategy,
        "recipe": trained.recipe,
        "backbone": {"weights_sha256": SHA256, **evaluation["strategies"][trained.strategy]["backbone"]},
        "test_time_augmentation": trained.test_time_augmentation,
        "input": {"shape": ["n", 224, 224, 3], "type": "float32", "channels": "RGB", "range": [0, 255]},
        "decoder": {**decoding.recipe(settings.prepare.background_rgb), "max_pixels": settings.prepare.max_pixels},
        "recalibration": trained.summary.get("recalibration"),
        "answers": {name: evaluation["answers"][name] for name in ("wanted_precision", "thresholds")},
        "foreign": foreign and {name: foreign[name] for name in ("score", "threshold", "sha256")},
        "probability_tolerance": settings.export.probability_tolerance,
        "made_from": {
            "evaluation_sha256": file_sha256(workspace.evaluation),
            "trained_sha256": file_sha256(workspace.trained / trained.strategy / "model.json"),
        },
    }


def add_description(model: Path, description: Mapping[str, Any]) -> None:
    """Put the description into a SavedModel or a LiteRT file."""
    add = add_to_litert if model.name == LITERT else _add_to_saved_model
    add(model, description)


def _add_to_saved_model(folder: Path, description: Mapping[str, Any]) -> None:
    """Put the description among the assets that TensorFlow carries along without loading them."""
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / FILE).write_bytes(json_bytes(description))


def add_to_litert(path: Path, description: Mapping[str, Any]) -> None:
    """Append the description and the labels to the file as a ZIP archive; `unzip` and LiteRT's tools read it."""
    buffer = io.BytesIO()
    labels = "".join(f"{name}\n" for name in description["classes"])
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(FILE, _DATE), json_bytes(description))
        archive.writestr(zipfile.ZipInfo(LABELS, _DATE), labels.encode())
    with path.open("ab") as file:
        file.write(buffer.getvalue())
