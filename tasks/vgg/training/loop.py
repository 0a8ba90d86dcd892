"""Gradient descent, phase by phase, from the start or from a checkpoint.

The position is (phase, epoch, step), and everything random depends only on the seed and the position. So a training
that was killed and resumed ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from tasks.progress import Progress
from tasks.scores import accuracy, log_loss
from tasks.vgg.head import Floats
from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.checkpoints import Checkpoints, State
from tasks.vgg.training.collapse import EPOCHS_AT_CHANCE, chance_loss, explain_collapse, is_at_chance, require_finite
from tasks.vgg.training.feeds import Feed
from tasks.vgg.training.network import Classifier, build_network
from tasks.vgg.training.optimizer import schedule_at
from tasks.vgg.training.steps import Steps


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
    """

    phases: Sequence[Phase]
    feeds: Sequence[tuple[str | None, Feed, Feed]]
    seed: int
    precision: str
    devices: Any
    checkpoints: Checkpoints
    on_epoch: Callable[[Mapping[str, float]], None]

    def steps(self, phases: int) -> int:
        """Steps of the first `phases` phases, if no phase ends early."""
        return sum(phase.epochs * self.epoch_steps(number) for number, phase in enumerate(self.phases[:phases]))

    def epoch_steps(self, number: int) -> int:
        """Steps an epoch of a phase."""
        train = self.feeds[number][1]
        return train.steps(batch_size(self.phases[number], train))


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended: the classifier, a record of each epoch, notes on each phase, and what is wrong with it."""

    classifier: Classifier
    history: list[dict[str, Any]]
    notes: list[dict[str, Any]]
    problem: str | None


def descend(run: TrainingRun, begin: Classifier) -> TrainingResult:
    """Train through all phases, or continue where an earlier call was stopped.

    Each phase begins with the weights of the phase before. With early stopping, a phase keeps the weights of its best
    epoch (those of its start, if no epoch was better), and a phase that improved nothing ends the training.

    Raises:
        TrainingError: the loss became NaN, or the memory is too small.
        SystemExit: a signal asked to stop; the position is saved.
    """
    state = run.checkpoints.load()
    if state is None:
        state = State()
    else:
        print(f"Continuing from the checkpoint at {_position(run, state)}.", flush=True)
    problem = None
    classifier = begin.replaced(state.group("start"))
    total = run.steps(len(run.phases))
    with _StopRequest() as stop, Progress("train", total, "steps", done=_steps_done(run, state)) as progress:
        while state.phase < len(run.phases) and problem is None:
            classifier, improved, problem = _PhaseTraining(run, state, classifier, stop, progress).train()
            state = State(state.phase + 1, parts=state.parts, history=state.history, notes=state.notes)
            state.keep("start", classifier.tensors(run.phases[-1].unfrozen))
            if not improved:
                break
            if state.phase < len(run.phases) and problem is None:
                run.checkpoints.save(state)
    return TrainingResult(classifier, state.history, state.notes, problem)


class _PhaseTraining:
    """The training of one phase."""

    def __init__(
        self, run: TrainingRun, state: State, classifier: Classifier, stop: _StopRequest, progress: Progress
    ) -> None:
        self._run, self._state, self._start, self._stop, self._progress = run, state, classifier, stop, progress
        self._phase = run.phases[state.phase]
        start, self._train, self._validation = run.feeds[state.phase]
        with run.devices.scope():
            self._network = build_network(
                classifier, start, self._train.reader.shape, self._phase.unfrozen, run.precision
            )
        self._steps = Steps(self._network, self._phase, run.devices, state.parts)
        self._size = batch_size(self._phase, self._train)
        self._chance = chance_loss(self._train.labels, self._train.weights)
        for name, value in state.group("now").items():
            self._network.variables[name].assign(value)
        for index, variable in enumerate(self._steps.optimizer.variables):
            if f"optimizer/{index}" in state.tensors:
                variable.assign(state.tensors[f"optimizer/{index}"])

    def train(self) -> tuple[Classifier, bool, str | None]:
        """The phase's classifier; whether it is better than at the start; what is wrong."""
        state, phase = self._state, self._phase
        problem = None
        if phase.patience is not None and state.best_loss is None:
            state.best_loss = self._measure()[0]
            state.keep("best", self._network.tensors())
        while state.epoch < phase.epochs and problem is None:
            self._epoch()
            problem = self._finish_epoch()
            if phase.patience is not None and state.waited >= phase.patience:
                break
            if self._run.checkpoints.due():
                self._save()
            self._stop.check(self._save)
        tensors = state.group("best") if phase.patience is not None else self._network.tensors()
        state.notes.append(
            {"phase": phase.name, "epochs": state.epoch, "best_epoch": state.best_epoch, "batch_parts": state.parts}
        )
        improved = phase.patience is None or state.best_epoch > 0
        if problem and self._keeps_from_before():
            print(f"train: {problem} The weights from before are kept.", file=sys.stderr, flush=True)
            problem = None
        return self._start.replaced(tensors), improved, problem

    def _keeps_from_before(self) -> bool:
        """Whether the phase's result was trained before its epochs at chance; the first phase may begin untrained."""
        state = self._state
        trained = state.best_epoch > 0 or state.phase > 0
        return self._phase.patience is not None and trained and state.best_epoch <= state.epoch - state.at_chance

    def _epoch(self) -> None:
        state, phase = self._state, self._phase
        size = self._size
        steps = self._train.steps(size)
        for batch in self._train.shuffled(size, phase.views, self._seed(), state.epoch, state.step):
            share = schedule_at(phase, state.epoch * steps + state.step, phase.epochs * steps)
            loss, correct = self._steps.train(batch, share)
            require_finite(loss, phase, state.epoch, state.step)
            state.sums = {"loss": state.sums["loss"] + loss / steps, "correct": state.sums["correct"] + correct}
            state.step += 1
            state.parts = self._steps.parts
            self._progress.advance(details={"loss": loss})
            if state.step < steps:
                if self._run.checkpoints.due():
                    self._save()
                self._stop.check(self._save)

    def _finish_epoch(self) -> str | None:
        """Evaluate and record an epoch; returns what is wrong with the training, or None."""
        state, phase = self._state, self._phase
        loss = state.sums["loss"]
        validation_loss, probabilities = self._measure()
        metrics = {
            "loss": round(loss, 6),
            "accuracy": round(state.sums["correct"] / len(self._train), 6),
            "val_loss": round(validation_loss, 6),
            "val_accuracy": round(accuracy(probabilities, self._validation.labels), 6),
        }
        state.history.append({"phase": phase.name, **metrics})
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {"loss": 0.0, "correct": 0.0}
        if state.best_loss is None or validation_loss < state.best_loss or phase.patience is None:
            state.best_loss, state.best_epoch, state.waited = validation_loss, state.epoch, 0
            if phase.patience is not None:
                state.keep("best", self._network.tensors())
        else:
            state.waited += 1
        self._progress.advance(0, metrics)
        self._run.on_epoch(metrics)
        at_chance = is_at_chance(loss, self._chance, probabilities)
        state.at_chance = state.at_chance + 1 if at_chance else 0
        if state.at_chance >= EPOCHS_AT_CHANCE or (at_chance and state.epoch == phase.epochs):
            return explain_collapse(phase, state.epoch, state.at_chance, loss, self._chance)
        return None

    def _measure(self) -> tuple[float, Floats]:
        probabilities = self._steps.predict(self._validation.in_order(self._size))
        return log_loss(probabilities, self._validation.labels, self._validation.weights), probabilities

    def _save(self) -> None:
        self._state.keep("now", self._network.tensors())
        self._state.keep(
            "optimizer",
            {str(index): np.asarray(variable) for index, variable in enumerate(self._steps.optimizer.variables)},
        )
        self._run.checkpoints.save(self._state)

    def _seed(self) -> int:
        return self._run.seed + 1000 * self._state.phase


def batch_size(phase: Phase, train: Feed) -> int:
    """Most images in a step: as few as leave the number of steps as it is, because the rest would be padding."""
    return math.ceil(len(train) / train.steps(phase.batch_size))


class _StopRequest:
    """A context in which SIGTERM and SIGINT stop the training at the next step, after its position is saved."""

    def __enter__(self) -> _StopRequest:
        self._asked = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, save: Callable[[], None]) -> None:
        """Save and exit if a signal has asked to stop."""
        if self._asked:
            save()
            raise SystemExit(128 + self._asked)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._asked = number


def _steps_done(run: TrainingRun, state: State) -> int:
    """Steps before the state's position, including those that early stopping skipped."""
    before = run.steps(state.phase)
    return (
        before if state.phase == len(run.phases) else before + state.epoch * run.epoch_steps(state.phase) + state.step
    )


def _position(run: TrainingRun, state: State) -> str:
    return f"epoch {state.epoch + 1}, step {state.step + 1} of the phase {run.phases[state.phase].name!r}"
