"""The learning-rate finder: learning rates rise from far too small to far too large, and the loss shows which suit.

L. N. Smith: Cyclical Learning Rates for Training Neural Networks, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.vgg.training.network import Classifier, build_network
from tasks.vgg.training.steps import Steps
from tasks.vgg.training.training_run import TrainingRun, batch_size

LOWEST, HIGHEST = 1e-3, 1e3
"""Range of the factor by which all learning rates of the settings are multiplied."""
_SMOOTHING = 0.7
_GIVE_UP = 4.0
"""The search ends when the loss is this many times the lowest one."""
_SAFETY = 10.0
"""The learning rate with the lowest loss is almost too large; fastai also takes a tenth of it."""


@dataclass(frozen=True)
class Curve:
    """Factors on the learning rates (n,), the smoothed loss at each (n,), and the factor to use."""

    factors: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float


def try_learning_rates(run: TrainingRun, begin: Classifier, steps: int) -> Iterator[tuple[float, float]]:
    """Train the first phase with rising learning rates; yields (factor, loss of the step) until the loss explodes."""
    phase, (start, train, _) = run.phases[0], run.feeds[0]
    with run.devices.scope():
        network = build_network(begin, start, train.reader.shape, phase.unfrozen, run.precision)
    compiled = Steps(network, phase, run.devices)
    size = batch_size(phase, train)
    lowest, done = math.inf, 0
    for epoch in range(-(-steps // train.steps(size))):
        for batch in train.shuffled(size, phase.views, run.seed, epoch, 0):
            factor = LOWEST * (HIGHEST / LOWEST) ** (done / max(1, steps - 1))
            loss, _ = compiled.train(batch, factor)
            if not math.isfinite(loss) or loss > _GIVE_UP * lowest or done == steps:
                return
            lowest, done = min(lowest, loss), done + 1
            yield factor, loss


def suggest(points: Sequence[tuple[float, float]]) -> Curve:
    """Smooth the losses; the factor to use is a tenth of the one at the lowest loss."""
    factors, losses, smooth = [], [], math.nan
    for factor, loss in points:
        smooth = loss if math.isnan(smooth) else _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
        factors.append(factor)
        losses.append(smooth)
    best = factors[int(np.argmin(losses))]
    return Curve(tuple(factors), tuple(losses), best / _SAFETY)
