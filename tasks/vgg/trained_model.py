"""The files of a trained model: `models/trained/<strategy>/` holds arrays and JSON only, nothing that can run.

`model.safetensors` holds the tensors of the head and of those layers of the backbone that training has changed,
`validation.safetensors` the probabilities on held-out images (from before any refit), `model.json` everything else.
Each tensor file's SHA-256 is in `model.json` and is checked on load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from tasks.errors import IntegrityError
from tasks.files import read_json, sha256_hex, write_bytes, write_json
from tasks.vgg.head import Head, restore
from tasks.vgg.weights import Weights

_MODEL = "model.safetensors"
_VALIDATION = "validation.safetensors"


@dataclass(frozen=True)
class Trained:
    """A trained classifier: the published backbone, perhaps with some of its layers trained on, and a head.

    Attributes:
        strategy: it was trained by.
        recipe: it was trained by.
        classes: names, in the order of the probabilities.
        head: pooling and dense layers.
        backbone: the tensors of the backbone that training changed; empty if it stayed frozen.
        test_time_augmentation: a prediction is the mean over the image and its mirror image.
        problem: why this model must not be used, in words; None if nothing is wrong.
        validation_keys: examples of the validation split.
        validation_probabilities: (len(validation_keys), classes) float32, by the model that never saw them.
        summary: what training chose and how it went, JSON; `backbone` is the recipe of the features.
        fold_keys: examples of train and validation that were held out in a fold; empty if no folds were used.
        fold_probabilities: (len(fold_keys), classes) float32, each row by a model that never saw the example.
    """

    strategy: str
    recipe: str
    classes: tuple[str, ...]
    head: Head
    backbone: Weights
    test_time_augmentation: bool
    problem: str | None
    validation_keys: tuple[str, ...]
    validation_probabilities: npt.NDArray[np.float32]
    summary: dict[str, Any]
    fold_keys: tuple[str, ...] = ()
    fold_probabilities: npt.NDArray[np.float32] | None = None

    @property
    def held_out(self) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
        """All predictions for images that are not in test and were not learned from: keys, probabilities."""
        if self.fold_probabilities is None:
            return self.validation_keys, self.validation_probabilities
        return self.fold_keys, self.fold_probabilities

    def weights(self, published: Weights) -> Weights:
        """The weights of the whole backbone."""
        return {**published, **self.backbone}


def save_trained(folder: Path, trained: Trained) -> None:
    """Write the folder's files; `model.json`, which makes them valid, last."""
    held_out = {"probabilities": np.ascontiguousarray(trained.validation_probabilities)}
    if trained.fold_probabilities is not None:
        held_out["fold_probabilities"] = np.ascontiguousarray(trained.fold_probabilities)
    files = {_MODEL: save({**trained.head.tensors(), **trained.backbone}), _VALIDATION: save(held_out)}
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_json(
        folder / "model.json",
        {
            "strategy": trained.strategy,
            "recipe": trained.recipe,
            "classes": list(trained.classes),
            "head": trained.head.outline(),
            "test_time_augmentation": trained.test_time_augmentation,
            "problem": trained.problem,
            "validation_keys": list(trained.validation_keys),
            "fold_keys": list(trained.fold_keys),
            "summary": trained.summary,
            "sha256": {name: sha256_hex(content) for name, content in files.items()},
        },
    )


def load_trained(folder: Path) -> Trained:
    """Read what `save_trained` wrote.

    Raises:
        IntegrityError: a file is missing or was changed.
    """
    try:
        model = read_json(folder / "model.json")
        tensors = {name: load(_checked(folder / name, model["sha256"][name])) for name in (_MODEL, _VALIDATION)}
        return Trained(
            model["strategy"],
            model["recipe"],
            tuple(model["classes"]),
            restore(model["head"], tensors[_MODEL]),
            {name: value for name, value in tensors[_MODEL].items() if name.startswith("block")},
            model["test_time_augmentation"],
            model["problem"],
            tuple(model["validation_keys"]),
            tensors[_VALIDATION]["probabilities"],
            model["summary"],
            tuple(model["fold_keys"]),
            tensors[_VALIDATION].get("fold_probabilities"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder} is not a complete trained model ({type(error).__name__}: {error}). "
            f"Train it again: dvc repro --force --single-item train@{folder.name}"
        ) from None


def load_all(folder: Path, strategies: Sequence[str]) -> dict[str, Trained]:
    """The trained models of the strategies, in their order."""
    return {strategy: load_trained(folder / strategy) for strategy in strategies}


def _checked(path: Path, sha256: str) -> bytes:
    content = path.read_bytes()
    if sha256_hex(content) != sha256:
        raise ValueError(f"the bytes of {path.name} are not those that were written")
    return content
