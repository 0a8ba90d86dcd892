"""Training by gradient descent: the recipe `tutorial`, and `modern` except for the linear probe.

`tutorial` follows F. Chollet: Deep Learning with Python, 5.3 (Flatten, Dense relu, Dense softmax, Adam, some epochs),
but with VGG16's own preprocessing instead of 1/255.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.settings import ClassWeight, Settings, Train
from tasks.vgg.engine_choice import training_precision
from tasks.vgg.head import Head, new_head
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.quiet_tensorflow import load_tensorflow
from tasks.vgg.strategies import BY_NAME
from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.epoch_budget import tell_shortened
from tasks.vgg.training.interpolation import BETWEEN
from tasks.vgg.training.linear_probe import POOLING, LinearProbe, conclude, fit_linear_probe
from tasks.vgg.training.outcome import Outcome, example_weights, identify
from tasks.vgg.training_data import Material
from tasks.vgg.weights import Weights, load_weights

if TYPE_CHECKING:
    from tasks.vgg.training.feeds import Feed
    from tasks.vgg.training.network import Classifier
    from tasks.vgg.training.training_run import TrainingRun


def train_by_gradient(
    settings: Settings, material: Material, checkpoints: Path, on_epoch: Callable[[Mapping[str, float]], object]
) -> Outcome:
    """Train through the phases of the strategy, continuing from a checkpoint if there is one.

    Args:
        settings: all.
        material: to train on.
        checkpoints: the folder for them. They stay: the caller removes them when the outcome is stored.
        on_epoch: called with the metrics of every finished epoch.

    Raises:
        TrainingError: the loss became NaN, or the memory is too small.
    """
    probe, run, begin = set_up(settings, material, checkpoints, on_epoch)
    from tasks.vgg.training.loop import descend

    trained = descend(run, begin)
    summary = {
        **(probe.summary if probe else {}),
        "history": _curves(trained.history),
        "phases": trained.notes,
        "precision": run.precision,
        "starts_from": [start or "images" for start, *_ in run.feeds],
    }
    minutes = settings.train.modern.budget_minutes
    if minutes and (told := tell_shortened(minutes, run.phases, trained.notes)):
        summary["shortened"] = told
    if probe and not any(note["best_epoch"] for note in trained.notes):  # no epoch was better than the start
        outcome = conclude(probe, settings.train, material)
        outcome = replace(outcome, summary={**outcome.summary, **summary})
        if trained.problem:
            print(f"train: {trained.problem} The linear probe is kept.", file=sys.stderr, flush=True)
    else:
        head, backbone = _parts(trained.chosen, run)
        batches = predict_probabilities(
            head, backbone, settings.train.test_time_augmentation, material.workspace, material.validation.keys
        )
        probabilities = np.concatenate(list(batches))
        if settings.train.recipe == "modern":
            summary["refitted_with_validation"] = trained.refitted is not None
        if trained.refitted:
            head, backbone = _parts(trained.refitted, run)
            summary["refit"] = _curves(trained.refit_history)
        problem = f"{trained.problem} This model is not exported." if trained.problem else None
        outcome = Outcome(head, backbone, probabilities, summary, problem)
    return outcome


def set_up(
    settings: Settings, material: Material, checkpoints: Path, on_epoch: Callable[[Mapping[str, float]], object]
) -> tuple[LinearProbe | None, TrainingRun, Classifier]:
    """Everything that a training needs, and what it begins with; see `train_by_gradient`."""
    rules, strategy = settings.train, BY_NAME[material.strategy]
    train, validation, workspace = material.train, material.validation, material.workspace
    classes = len(material.classes)
    probe = None
    if strategy.begins_with_linear_probe(rules):
        probe = fit_linear_probe(rules.modern, rules.class_weight, classes, train, validation, material.fold_of)
    head = probe.head if probe else _untrained(rules, train.features.shape, classes)
    _start_tensorflow(rules)
    from tasks.vgg.training.checkpoints import Checkpoints
    from tasks.vgg.training.feeds import Feed, open_reader
    from tasks.vgg.training.network import Classifier
    from tasks.vgg.training.steps import choose_devices
    from tasks.vgg.training.training_run import Refit, TrainingRun

    phases = tuple(
        scale_head_learning_rate(phase, head, train.features.shape)
        for phase in strategy.phases(rules, settings.augmentation)
    )
    weights, chosen_by = (example_weights(split.labels, rules.class_weight) for split in (train, validation))
    feeds = []
    for phase in phases:
        start = phase.boundary if phase.boundary in material.kept["kept"] else None
        reader = open_reader(strategy.name, start, workspace.features, workspace.shards, settings.augmentation)
        learned = Feed(reader, train.keys, train.labels, weights)
        measured = Feed(reader, validation.keys, validation.labels, chosen_by)
        feeds.append((start, learned, measured))
    precision = training_precision(rules)
    identity = _identity(settings, material, phases, precision)
    saved = Checkpoints(checkpoints, identity, rules.checkpoint_interval_s)
    refits = rules.recipe == "modern" and rules.modern.refit_with_validation
    again = Refit(
        [_join(learned, measured, rules.class_weight) for _, learned, measured in feeds],
        lambda: Classifier(load_weights(), probe.refitted if probe and probe.refitted else head),
    )
    minutes = rules.modern.budget_minutes if rules.recipe == "modern" else None
    budget_s = None if minutes is None else minutes * 60 / (2 if refits else 1)  # a refit takes about as long once more
    run = TrainingRun(
        phases, feeds, rules.seed, precision, choose_devices(), saved, on_epoch, again if refits else None, budget_s
    )
    return probe, run, Classifier(load_weights(), head)


def _join(learned: Feed, measured: Feed, weight: ClassWeight) -> Feed:
    """Two splits together; only the first has augmented versions, because `features` computes no others."""
    labels = np.concatenate([learned.labels, measured.labels])
    keys = (*learned.keys, *measured.keys)
    return replace(learned, keys=keys, labels=labels, weights=example_weights(labels, weight), augmented=len(learned))


def _parts(classifier: Classifier, run: TrainingRun) -> tuple[Head, Weights]:
    """The head, and the tensors of the backbone that were trained."""
    changed = classifier.tensors(run.phases[-1].unfrozen)
    return classifier.head, {name: value for name, value in changed.items() if name.startswith("block")}


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in history] for name in history[0]}


def scale_head_learning_rate(phase: Phase, head: Head, shape: Sequence[int]) -> Phase:
    """Lower the head's learning rate if its pooling is bilinear.

    Adam moves all of a kernel's weights by about the learning rate. Inputs of unit length in c * c dimensions
    instead of 2 * c add up to sqrt(c / 2) times as much.
    """
    if head.pooling != "bilinear":
        return phase
    scaled = phase.learning_rates["head"] / math.sqrt(shape[-1] / 2)
    return replace(phase, learning_rates={**phase.learning_rates, "head": scaled})


def _untrained(rules: Train, shape: Sequence[int], classes: int) -> Head:
    if rules.recipe == "tutorial":
        return new_head("flatten", shape, rules.tutorial.hidden_units, classes, rules.seed)
    return new_head(POOLING, shape, None, classes, rules.seed)


def _start_tensorflow(rules: Train) -> None:
    load_tensorflow()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(rules.seed)
    if rules.deterministic:
        tf.config.experimental.enable_op_determinism()


def _identity(settings: Settings, material: Material, phases: tuple[Phase, ...], precision: str) -> dict[str, Any]:
    """Everything that a training depends on, so that it never continues from the checkpoint of another one."""
    named = {"phases": [repr(phase) for phase in phases], "precision": precision, "shares": BETWEEN}
    return {**identify(settings, material), **named}
