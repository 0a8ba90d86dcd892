"""What new images are compared with: the test images of the project, as the exported model sees them.

They pass the network once for each model; then a file in `.rootstock` holds what is needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from tasks.errors import PredictError
from tasks.files import file_sha256, fingerprint, write_bytes
from tasks.images.corruptions import KINDS, STRENGTHS, Pixels, corrupt
from tasks.images.manifest import Example, class_names, read_examples
from tasks.images.shards import open_shards
from tasks.progress import Progress
from tasks.scores import Floats
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.watching.drift import MOST, Booleans, Sample, estimate_accuracy
from tasks.workspace import Workspace

Array = npt.NDArray[Any]

COPIED = 25
"""So many images are also tried in 18 worse copies each, to see how wrong an estimated accuracy is."""
_BATCH = 8
_VERSION = 1


@dataclass(frozen=True)
class Reference:
    """Images with known labels that the model did not learn from.

    Attributes:
        sample: n of them, as the model sees them.
        hits: (n,) whether the predictions are right.
        prior: (classes,) shares of the classes among the images that the model learned from.
        error: mean absolute error of the estimated accuracy on worse copies, 0 to 1.
    """

    sample: Sample
    hits: Booleans
    prior: Floats
    error: float


def reference_of(model: ExportedModel, folder: Path, workspace: Workspace, is_balanced: bool) -> Reference:
    """The reference for an exported model.

    Args:
        model: loaded from the folder.
        folder: of the model.
        workspace: with the prepared images; it keeps the file.
        is_balanced: whether each class counted the same in training (`train.class_weight`).

    Raises:
        PredictError: the workspace has no test images, or those of other classes.
    """
    examples = read_examples(workspace.prepared) if workspace.prepared.exists() else []
    tested = sorted((one for one in examples if one.split == "test"), key=lambda one: one.key)[:MOST]
    if len(tested) < 2 or class_names(examples) != model.classes:
        raise PredictError(
            f"New images are compared with the test images of the model {folder}, and {workspace.prepared} doesn't "
            "hold them. Get the data of the model's version: dvc pull prepare, or make run"
        )
    counts = [sum(one.label == name for one in examples if one.split != "test") for name in model.classes]
    prior = np.full(len(counts), 1 / len(counts)) if is_balanced else np.array(counts) / sum(counts)
    facts = [_VERSION, file_sha256(folder / "export.json"), [one.key for one in tested]]
    kept = workspace.reference / f"{fingerprint(facts)}.safetensors"
    if not kept.exists():
        computed = save(_compute(model, tested, workspace))
        shutil.rmtree(kept.parent, ignore_errors=True)  # that of another model
        write_bytes(kept, computed)
    return _restore(load(kept.read_bytes()), model, [one.label for one in tested], prior)


def _compute(model: ExportedModel, tested: Sequence[Example], workspace: Workspace) -> dict[str, Array]:
    """What the model says about the images, and about worse copies of some of them."""
    images, copied = open_shards(workspace.shards), tested[:COPIED]
    copies = [(one, kind, strength) for kind in KINDS for strength in STRENGTHS for one in copied]
    found: dict[str, list[Array]] = {"probabilities": [], "features": [], "told": [], "worse": []}
    with Progress("watch", len(tested) + len(copies), "images for the comparison") as progress:
        for start in range(0, len(tested), _BATCH):
            pixels = list(images.read([one.key for one in tested[start : start + _BATCH]]))
            for name, values in zip(("probabilities", "features", "told"), _look(model, pixels), strict=True):
                found[name].append(values)
            progress.advance(len(pixels))
        for start in range(0, len(copies), _BATCH):
            some = copies[start : start + _BATCH]
            read = images.read([one.key for one, *_ in some])
            worse = [corrupt(image, kind, step, one.key) for image, (one, kind, step) in zip(read, some, strict=True)]
            found["worse"].append(_look(model, worse)[0])
            progress.advance(len(worse))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _look(model: ExportedModel, pixels: Sequence[Pixels]) -> tuple[Floats, Floats, Array]:
    """Probabilities (n, classes), features (n, 1024) in 16 bit, and (n, 2) whether images are foreign and unsure.

    These are 1 and 0; -1 if the model can't tell.
    """
    answers, features = model.answer_with_features(pixels)
    if features is None:
        raise PredictError("This export returns no features, so drift can't be told. Export the model again: make run")
    probabilities = np.array([list(answer["probabilities"].values()) for answer in answers], np.float32)
    told = np.array([[int(answer.get(name, -1)) for name in ("foreign", "unsure")] for answer in answers], np.int8)
    return probabilities, features.astype(np.float16), told


def _flags(column: Array) -> Booleans | None:
    """A column of 1, 0, or -1 for all rows if the model can't tell."""
    return None if (column < 0).any() else column.astype(bool)


def _restore(arrays: dict[str, Array], model: ExportedModel, labels: Sequence[str], prior: Floats) -> Reference:
    probabilities, told = arrays["probabilities"], arrays["told"]
    numbers = np.array([model.classes.index(label) for label in labels])
    hits = probabilities.argmax(axis=1) == numbers
    errors = []
    for worse in arrays["worse"].reshape(len(KINDS) * len(STRENGTHS), -1, len(model.classes)):
        true = (worse.argmax(axis=1) == numbers[: len(worse)]).mean()
        errors.append(abs(estimate_accuracy(probabilities, hits, worse) - float(true)))
    sample = Sample(probabilities, arrays["features"].astype(np.float32), _flags(told[:, 0]), _flags(told[:, 1]))
    return Reference(sample, hits, prior, float(np.mean(errors)))
