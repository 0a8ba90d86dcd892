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
"""The search ends when the loss is this many times the lowest one, or chance, if that is higher."""
_SAFETY = 10.0
"""The learning rate at which the loss begins to rise is too large; fastai also takes a tenth of it."""
_CHANCE = 4.0
"""Smoothed losses that differ by less than this many of their standard deviations may differ by chance: the lowest of
some dozens lies two or three below their mean."""
_START = 1 / 6
"""Share of the steps in which the learning rates are too small to change the loss."""


@dataclass(frozen=True)
class Curve:
    """The losses at rising learning rates.

    Attributes:
        factors: on the learning rates (n,).
        losses: smoothed (n,).
        suggested: the factor to use.
        falls: whether any of them lowers the loss by more than chance.
    """

    factors: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float
    falls: bool


def try_learning_rates(run: TrainingRun, begin: Classifier, steps: int) -> Iterator[tuple[float, float]]:
    """Train the first phase with rising learning rates; yields (factor, loss of the step) until the loss explodes."""
    phase, (start, train, _) = run.phases[0], run.feeds[0]
    with run.devices.scope():
        network = build_network(begin, start, train.reader.shape, phase.unfrozen, run.precision)
    compiled = Steps(network, phase, run.devices)
    size = batch_size(phase, train)
    chance = math.log(network.model.output_shape[-1])
    lowest, done = math.inf, 0
    for batch in train.shuffled(size, phase.views, run.seed, 0, 0, epochs=-(-steps // train.steps(size))):
        factor = LOWEST * (HIGHEST / LOWEST) ** (done / max(1, steps - 1))
        loss, _ = compiled.train(batch, factor)
        if not math.isfinite(loss) or loss > _GIVE_UP * max(lowest, chance) or done == steps:
            return
        lowest, done = min(lowest, loss), done + 1
        yield factor, loss


def suggest(points: Sequence[tuple[float, float]]) -> Curve:
    """Smooth the losses; the factor to use is a tenth of the one above which the loss is no longer near its lowest.

    Below that factor the lowest loss is a matter of chance if training begins with a fitted head: nothing falls then.
    """
    factors, losses = zip(*points, strict=True)
    start = float(np.mean(losses[: max(1, round(_START * len(losses)))]))
    smooth = [start]
    for loss in losses:
        smooth.append(_SMOOTHING * smooth[-1] + (1 - _SMOOTHING) * loss)
    smoothed = np.array(smooth[1:])
    near = smoothed.min() + _CHANCE * _deviation(losses)
    last = factors[int(np.flatnonzero(smoothed <= near)[-1])]
    return Curve(factors, tuple(smoothed.tolist()), last / _SAFETY, start > near)


def _deviation(losses: Sequence[float]) -> float:
    """Standard deviation of smoothed losses, by chance of the batches; from neighbours, so that a trend is no matter.

    By the median, because the losses of learning rates that are too large differ more.
    """
    apart = np.abs(np.diff(losses))
    single = 1.4826 * float(np.median(apart)) / math.sqrt(2) if len(apart) else 0.0
    return single * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING))
