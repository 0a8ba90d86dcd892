"""What a training is made of, and how many steps it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.checkpoints import Checkpoints, State
from tasks.vgg.training.feeds import Feed
from tasks.vgg.training.network import Classifier


@dataclass(frozen=True)
class Refit:
    """A second training on more images, by the phases that improved something and for the epochs that were chosen.

    Attributes:
        feeds: of each phase: the train and the validation split together.
        begin: gives what it begins with.
    """

    feeds: Sequence[Feed]
    begin: Callable[[], Classifier]


@dataclass(frozen=True)
class TrainingRun:
    """What a training is made of.

    Attributes:
        phases: in their order.
        feeds: of each phase: where training starts (a boundary, or None: images), train split, validation split.
        seed: of orders and views.
        precision: of the activations.
        devices: a tf.distribute strategy.
        checkpoints: where the position is kept.
        on_epoch: called with the metrics of every finished epoch.
        refit: what follows when validation has chosen; None: nothing does.
        budget_s: seconds for all phases, without the refit; None: as long as they take.
    """

    phases: Sequence[Phase]
    feeds: Sequence[tuple[str | None, Feed, Feed]]
    seed: int
    precision: str
    devices: Any
    checkpoints: Checkpoints
    on_epoch: Callable[[Mapping[str, float]], object]
    refit: Refit | None = None
    budget_s: float | None = None

    def feed(self, number: int, refitting: bool) -> Feed:
        """What a phase trains on."""
        return self.refit.feeds[number] if self.refit and refitting else self.feeds[number][1]

    def epoch_steps(self, number: int, refitting: bool) -> int:
        """Steps an epoch of a phase."""
        return self.feed(number, refitting).steps(self.phases[number].batch_size)

    def steps_done(self, state: State) -> int:
        """Steps that led to the position."""
        done: int = sum(note["epochs"] * self.epoch_steps(number, False) for number, note in enumerate(state.notes))
        if state.refitting:
            done += sum(state.notes[one]["best_epoch"] * self.epoch_steps(one, True) for one in range(state.phase))
        return done + self._steps_in_phase(state)

    def steps_left(self, state: State) -> int:
        """Most steps that may follow the position."""
        later = range(state.phase, len(self.phases))
        chosen: list[int] = [note["best_epoch"] for note in state.notes]
        if state.refitting:
            left = sum(chosen[one] * self.epoch_steps(one, True) for one in later[: len(chosen) - state.phase])
        else:
            left = sum(self.phases[one].epochs * self.epoch_steps(one, False) for one in later)
            again = [*chosen, *(self.phases[one].epochs for one in later)] if self.refit else []
            left += sum(epochs * self.epoch_steps(one, True) for one, epochs in enumerate(again))
        return left - self._steps_in_phase(state)

    def _steps_in_phase(self, state: State) -> int:
        begun = bool(state.epoch or state.step)
        return state.epoch * self.epoch_steps(state.phase, state.refitting) + state.step if begun else 0


def batch_size(phase: Phase, train: Feed) -> int:
    """Most images in a step: as few as leave the number of steps as it is, because the rest would be padding."""
    return math.ceil(len(train) / train.steps(phase.batch_size))
