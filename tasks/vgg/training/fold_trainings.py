"""Trains a strategy once more without each fold of train and validation, and predicts the fold (`compare.folds`).

A validation split of a few dozen images can't tell strategies apart, nor promise a precision. With the folds, every
image has a prediction by a model that never saw it. All strategies have the same folds, so that they are compared in
pairs. An image keeps its split: without the fold, train is learned from and validation chooses, as in the training
that is exported. So nothing of a fold touches the training without it: not pooling and C, not the epoch, not the share
of the weights.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import fingerprint, read_json, write_json
from tasks.images.folds import assign_folds, groups_of
from tasks.images.manifest import Duplicate, Example
from tasks.settings import Settings
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.network_cost import training_passes
from tasks.vgg.strategies import plan_phases
from tasks.vgg.training.outcome import FoldPredictions, Outcome, identify
from tasks.vgg.training_data import Material


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for all images that a fold holds out, and how the trainings went, as JSON."""

    predictions: FoldPredictions
    summary: dict[str, Any]


def draw_compared_folds(
    examples: Sequence[Example], duplicates: Sequence[Duplicate], folds: int, seed: int
) -> dict[str, int]:
    """Key -> the fold in which an example of train or validation is held out.

    Images that belong together are in one fold, and classes are spread evenly. A class whose training images would all
    be in one fold is held out in none, nor are images that belong to it.

    Raises:
        ValueError: the images are too few for so many folds.
    """
    used = [one for one in examples if one.split != "test"]
    fold_of = assign_folds(used, duplicates, folds, seed, partial=True)
    group_of = groups_of(used, duplicates)
    places: dict[str, set[int | None]] = defaultdict(set)
    for one in used:
        if one.split == "train":
            places[one.label].add(fold_of.get(one.key))
    kept_in = {group_of[one.key] for one in used if len(places[one.label]) == 1}
    fold_of = {key: fold for key, fold in fold_of.items() if group_of[key] not in kept_in}
    validated = {fold_of.get(one.key) for one in used if one.split == "validation"}
    if not fold_of or (len(validated) == 1 and None not in validated):
        raise ValueError("each fold must leave images of every class to learn from, and validation images to choose by")
    return fold_of


def predict_out_of_fold(
    settings: Settings,
    material: Material,
    fold_of: Mapping[str, int],
    without: Callable[[frozenset[str]], Material],
    fit: Callable[[Material, Path], Outcome],
    folder: Path,
) -> OutOfFold:
    """Train without each fold, and predict it, without test-time augmentation.

    A fold that an earlier call has finished isn't trained again; a training that was stopped in a fold goes on there.

    Args:
        settings: all.
        material: all of it.
        fold_of: key -> fold.
        without: gives the material without some keys.
        fit: trains; it is given the folder for its checkpoints.
        folder: for what is finished.

    Raises:
        TrainingError: a training diverged.
    """
    keys = [key for key in (*material.train.keys, *material.validation.keys) if key in fold_of]
    numbers = sorted(set(fold_of.values()))
    row_of: dict[str, list[float]] = {}
    records = []
    for number in numbers:
        held_out = [key for key in keys if fold_of[key] == number]
        record = _train_without(settings, without(frozenset(held_out)), held_out, fit, folder / str(number))
        row_of |= zip(held_out, record["probabilities"], strict=True)
        records.append(record)
    summary = {
        "count": len(numbers),
        "images": len(keys),
        "best_epochs": [record["best_epochs"] for record in records],
        "shortened": sum(record["shortened"] for record in records),
        "network_passes": round(sum(record["network_passes"] for record in records)),
    }
    return OutOfFold(FoldPredictions(tuple(keys), np.array([row_of[key] for key in keys], np.float32)), summary)


def _train_without(
    settings: Settings, material: Material, held_out: list[str], fit: Callable[[Material, Path], Outcome], folder: Path
) -> dict[str, Any]:
    """The record of one fold's training, which is in a file beside the folder of its checkpoints."""
    file = folder.with_suffix(".json")
    identity = fingerprint({**identify(settings, material), "held_out": held_out})
    if (known := _read_record(file)).get("identity") == identity:
        return known
    print(f"train@{material.strategy}: without fold {int(folder.name) + 1}", flush=True)
    outcome = fit(material, folder)
    if outcome.problem:
        print(f"train@{material.strategy}: in this fold: {outcome.problem}", flush=True)
    batches = predict_probabilities(outcome.head, outcome.backbone, False, material.workspace, held_out)
    passes = training_passes(
        plan_phases(material.strategy, settings.train, settings.augmentation),
        outcome.summary,
        len(material.train),
        len(material.validation),
        refitted=bool(outcome.summary.get("refit")),
    )
    record = {
        "identity": identity,
        "probabilities": np.concatenate(list(batches)).tolist(),
        "best_epochs": [note["best_epoch"] for note in outcome.summary.get("phases", ())],
        "shortened": "shortened" in outcome.summary,
        "network_passes": passes,
    }
    write_json(file, record)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = read_json(file)
    except (FileNotFoundError, ValueError):
        return {}
    return record
