"""What each trained model predicts for the images that it was not trained on, and its metrics on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from tasks.errors import DataError, IntegrityError
from tasks.foreign import tested_images
from tasks.images.manifest import Example
from tasks.progress import Progress
from tasks.reports import metrics
from tasks.reports.answers import Predictions
from tasks.reports.champion import Validated
from tasks.scores import Floats, Integers, predict
from tasks.vgg.foreign_features import POOLING
from tasks.vgg.head import pool
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.trained_model import Trained
from tasks.workspace import PREPARED, Workspace


@dataclass(frozen=True)
class Evaluated:
    """One strategy's model, its predictions for the test images, and its metrics.

    `pooled` holds features of `tasks.foreign.tested_images`, which the network computed for the predictions; it is
    empty if the backbone stayed frozen.
    """

    model: Trained
    probabilities: Floats
    labels: Integers
    validated: Validated
    validation: dict[str, Any]
    test: dict[str, Any]
    pooled: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(predict(self.probabilities), self.labels)


class _Pooled:
    """Pooled features of some images, by key."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._keys = {example.key for example in examples}
        self.rows: dict[str, Floats] = {}

    def add(self, keys: Sequence[str], outputs: Floats) -> None:
        """Pool the backbone's outputs (n, h, w, c)."""
        self.rows |= {key: row for key, row in zip(keys, pool(outputs, POOLING), strict=True) if key in self._keys}


def group_numbers(keys: Sequence[str], group_of: Mapping[str, int]) -> Integers:
    """The numbers of the examples' groups (n,)."""
    return np.array([group_of[key] for key in keys], dtype=np.int64)


def evaluate_models(
    models: Mapping[str, Trained],
    examples: Sequence[Example],
    test: Sequence[Example],
    group_of: Mapping[str, int],
    workspace: Workspace,
) -> dict[str, Evaluated]:
    """Evaluate every model on its validation images and on the test images.

    Args:
        models: by strategy.
        examples: all of them.
        test: those of test.
        group_of: key -> number of the example's group.
        workspace: with images and features.

    Raises:
        DataError: there are no validation or no test images.
        IntegrityError: a model doesn't belong to the prepared images.
    """
    _require("test", test)
    known = {example.key: example.label for example in examples if example.split == "validation"}
    validation = {name: _evaluate_validation(model, known, group_of) for name, model in models.items()}
    evaluated = {}
    keys = [example.key for example in test]
    groups = group_numbers(keys, group_of)
    with Progress("evaluate", len(test) * len(models), "images") as progress:
        for name, model in models.items():
            batches, pooled = [], _Pooled(tested_images(test))
            for batch in predict_probabilities(
                model.head, model.backbone, model.test_time_augmentation, workspace, keys,
                pooled.add if model.backbone else None,
            ):  # fmt: skip
                batches.append(batch)
                progress.advance(len(batch))
            probabilities = np.concatenate(batches)
            labels = _indices(model, [example.label for example in test])
            measured = metrics.rounded(metrics.measure(probabilities, labels, model.classes, groups))
            evaluated[name] = Evaluated(model, probabilities, labels, *validation[name], measured, pooled.rows)
    return evaluated


def _evaluate_validation(
    model: Trained, known: Mapping[str, str], group_of: Mapping[str, int]
) -> tuple[Validated, dict[str, Any]]:
    """The predictions for the validation images, and their metrics."""
    _require("validation", model.validation_keys)
    unknown = [key for key in model.validation_keys if key not in known]
    if unknown:
        raise IntegrityError(
            f"{model.strategy} was validated on {len(unknown)} images that are not among the validation images of "
            f"{PREPARED} (first: {unknown[0][:12]}): it was trained on older data. "
            f"Run: dvc repro train@{model.strategy}"
        )
    labels = _indices(model, [known[key] for key in model.validation_keys])
    probabilities, groups = model.validation_probabilities, group_numbers(model.validation_keys, group_of)
    measured: dict[str, Any] = metrics.rounded(metrics.measure(probabilities, labels, model.classes, groups))
    return Validated(model.validation_keys, probabilities, labels, groups), measured


def held_out_predictions(model: Trained, examples: Sequence[Example], group_of: Mapping[str, int]) -> Predictions:
    """The predictions for train and validation images that the model was not trained on."""
    keys, probabilities = model.held_out
    label_of = {example.key: example.label for example in examples if example.split != "test"}
    return Predictions(probabilities, _indices(model, [label_of[key] for key in keys]), group_numbers(keys, group_of))


@dataclass(frozen=True)
class Compared:
    """The predictions by which the champion is chosen, and the folds that they come from; None: validation."""

    candidates: dict[str, Validated]
    folds: int | None

    @property
    def images(self) -> str:
        """Which images these are, in words."""
        if self.folds is None:
            return "the validation images"
        return f"{self.folds} folds of train and validation, each predicted by a model that was trained without it"


def compared_predictions(
    usable: Mapping[str, Evaluated], examples: Sequence[Example], group_of: Mapping[str, int]
) -> Compared:
    """The predictions of folds if all models have them for the same images (`compare.folds`), else for validation."""
    models = {name: one.model for name, one in usable.items()}
    drawn = {(model.summary.get("folds", {}).get("count"), frozenset(model.fold_keys)) for model in models.values()}
    [count, _] = next(iter(drawn))
    if len(drawn) > 1 or count is None:
        return Compared({name: one.validated for name, one in usable.items()}, None)
    candidates = {}
    for name, model in models.items():
        held_out = held_out_predictions(model, examples, group_of)
        candidates[name] = Validated(model.fold_keys, held_out.probabilities, held_out.labels, held_out.groups)
    return Compared(candidates, count)


def pack_predictions(keys: Sequence[str], probabilities: Floats) -> bytes:
    """The probabilities (n, classes) of a model for test images, as a safetensors file."""
    digests = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1)
    content: bytes = save({"keys": digests, "probabilities": probabilities.round(metrics.DECIMALS).astype(np.float32)})
    return content


def unpack_predictions(content: bytes) -> dict[str, Floats]:
    """Key -> probabilities (classes,), as `pack_predictions` has written them."""
    tensors = load(content)
    keys = (row.tobytes().hex() for row in tensors["keys"])
    return dict(zip(keys, tensors["probabilities"], strict=True))


def _require(split: str, images: Sequence[object]) -> None:
    if not images:
        raise DataError(
            f"There are no {split} images, so the models can't be evaluated. Raise prepare.{split}_fraction, or give "
            f"the source a folder `{split}`, then run again."
        )


def _indices(model: Trained, labels: Sequence[str]) -> Integers:
    index_of = {name: index for index, name in enumerate(model.classes)}
    unknown = sorted(set(labels) - set(index_of))
    if unknown:
        raise IntegrityError(
            f"{model.strategy} doesn't know the class {unknown[0]!r} of {PREPARED}: it was trained on older data. "
            f"Run: dvc repro train@{model.strategy}"
        )
    return np.array([index_of[label] for label in labels], dtype=np.int64)
