"""What a training costs, in passes of an image through all of VGG16: the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.vgg.boundaries import BOTTLENECK, share_below
from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.interpolation import BETWEEN

_BACKWARD = 2.0
"""A backward pass multiplies twice as much as the forward pass: for the weights and for the layer's input."""


def most_passes(phases: Sequence[Phase], images: int, *, refits: bool) -> float:
    """At most so many passes: all epochs of all phases, from cached outputs of the frozen blocks.

    Args:
        phases: of the strategy.
        images: of train and validation.
        refits: whether the phases may be run again.
    """
    passes = 0.0
    views: dict[float, int] = {}
    for phase in phases:
        below = share_below(phase.boundary) if phase.boundary else 0.0
        views[below] = max(views.get(below, 0), phase.views)
        passes += (2 if refits else 1) * phase.epochs * images * (1 + _BACKWARD) * (1 - below)
    return passes + sum(below * images * (1 + count) for below, count in views.items())


def network_passes(
    phases: Sequence[Phase], summary: Mapping[str, Any], train: int, validation: int, *, refitted: bool
) -> float:
    """All that was computed for one strategy, the features that it shares with others included.

    Args:
        phases: of the strategy; none if it only fitted a linear probe.
        summary: of the training: `phases` notes the epochs of each, `starts_from` what its images started from, and
            `folds` what was computed to train it without each fold.
        train: number of training images.
        validation: number of validation images.
        refitted: whether the phases were run again on both splits.
    """
    passes = float(train + validation)  # the bottleneck features
    for phase, start in zip(phases, summary.get("starts_from", ()), strict=False):
        below = share_below(phase.boundary) if phase.boundary else 0.0
        if start == phase.boundary and (phase.views or start != BOTTLENECK):
            passes += below * (train * (1 + phase.views) + validation)
    folds: float = summary.get("folds", {}).get("network_passes", 0.0)
    return passes + training_passes(phases, summary, train, validation, refitted=refitted) + folds


def training_passes(
    phases: Sequence[Phase], summary: Mapping[str, Any], train: int, validation: int, *, refitted: bool
) -> float:
    """What was computed in the steps of one training, and to measure it; see `network_passes`."""
    passes = 0.0
    notes = summary.get("phases", ())
    for phase, start, note in zip(phases, summary.get("starts_from", ()), notes, strict=False):
        below = share_below(phase.boundary) if phase.boundary else 0.0
        computed = 0.0 if start == phase.boundary else below
        learning, measuring = computed + (1 + _BACKWARD) * (1 - below), computed + (1 - below)
        measured = note["epochs"] + _more_measurements(phase, note["epochs"])
        passes += note["epochs"] * train * learning + measured * validation * measuring
        if refitted:
            passes += note["best_epoch"] * (train + validation) * learning
    return passes


def _more_measurements(phase: Phase, epochs: int) -> int:
    """How often the validation images are predicted besides once an epoch: at the start, for means and for shares."""
    if phase.patience is None:
        return 0
    return 1 + (epochs - 1) + (len(BETWEEN) if phase.unfrozen else 0)
