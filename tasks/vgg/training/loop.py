"""Gradient descent, phase by phase, from the start or from a checkpoint.

The position is (phase, epoch, step), and everything random depends only on the seed and the position. So a training
that was killed and resumed ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from tasks.progress import Progress
from tasks.scores import accuracy, log_loss
from tasks.vgg.head import Floats
from tasks.vgg.training.checkpoints import State
from tasks.vgg.training.collapse import EPOCHS_AT_CHANCE, chance_loss, explain_collapse, is_at_chance, require_finite
from tasks.vgg.training.epoch_budget import affordable_epochs, share_of_phase
from tasks.vgg.training.interpolation import choose_share, mix
from tasks.vgg.training.network import Classifier, build_network
from tasks.vgg.training.optimizer import schedule_at
from tasks.vgg.training.steps import Steps
from tasks.vgg.training.stopping import StopRequest
from tasks.vgg.training.training_run import Refit, TrainingRun, batch_size


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        chosen: by the validation split, which it never saw.
        refitted: the one that was trained on that split, too; None: there is none.
        history: a record for each epoch before the choice.
        refit_history: a record for each epoch after it.
        notes: on each phase.
        problem: what is wrong with the chosen one, or None.
    """

    chosen: Classifier
    refitted: Classifier | None
    history: list[dict[str, Any]]
    refit_history: list[dict[str, Any]]
    notes: list[dict[str, Any]]
    problem: str | None


def descend(run: TrainingRun, begin: Classifier) -> TrainingResult:
    """Train through all phases, or continue where an earlier call was stopped; then refit.

    Each phase begins with the weights of the phase before. With early stopping, a phase gives the weights of its best
    epoch, or a mean of several epochs (see `interpolation`). If it trains blocks, these are mixed with the weights of
    its start, by the share that has the lowest validation loss. A phase that improved nothing gives its start, and ends
    the training.

    Raises:
        TrainingError: the loss became NaN, or the memory is too small.
        SystemExit: a signal asked to stop; the position is saved.
    """
    state = run.checkpoints.load()
    if state is None:
        state = State()
    else:
        print(f"Continuing from the checkpoint at {_position(run, state)}.", flush=True)
    done = run.steps_done(state)
    with StopRequest() as stop, Progress("train", done + run.steps_left(state), "steps", done=done) as progress:
        chosen, refitted, problem = begin.replaced(state.group("chosen")), None, None
        if not state.refitting:
            state, chosen, problem = _train_phases(run, state, begin, stop, progress)
        if run.refit and problem is None and state.improved_phases():
            if not state.refitting:
                state = _start_refit(run, run.refit, state, chosen)
            state, refitted, lost = _train_phases(run, state, begin, stop, progress)
            if lost:
                print(f"train: {lost} The model that validation chose is kept.", file=sys.stderr, flush=True)
                refitted = None
    return TrainingResult(chosen, refitted, state.history, state.refit_history, state.notes, problem)


def _train_phases(
    run: TrainingRun, state: State, begin: Classifier, stop: StopRequest, progress: Progress
) -> tuple[State, Classifier, str | None]:
    """Train through the phases that follow; gives the position behind them, their result, and what is wrong with it."""
    classifier, problem = begin.replaced(state.group("start")), None
    count = state.improved_phases() if state.refitting else len(run.phases)
    while state.phase < count and problem is None:
        if not (state.epoch or state.step):
            progress.total = progress.done + run.steps_left(state)
        classifier, improved, problem = _PhaseTraining(run, state, classifier, stop, progress).train()
        state = state.following()
        state.keep("start", classifier.tensors(run.phases[-1].unfrozen))
        if not improved:
            break
        if state.phase < count and problem is None:
            run.checkpoints.save(state)
    return state, classifier, problem


def _start_refit(run: TrainingRun, refit: Refit, state: State, chosen: Classifier) -> State:
    """The position at which the refit begins, saved."""
    begun = State(refitting=True, parts=state.parts, history=state.history, notes=state.notes)
    for name, classifier in (("chosen", chosen), ("start", refit.begin())):
        begun.keep(name, classifier.tensors(run.phases[-1].unfrozen))
    run.checkpoints.save(begun)
    return begun


class _PhaseTraining:
    """The training of one phase."""

    def __init__(
        self, run: TrainingRun, state: State, classifier: Classifier, stop: StopRequest, progress: Progress
    ) -> None:
        self._run, self._state, self._start, self._stop, self._progress = run, state, classifier, stop, progress
        self._phase, self._epochs = run.phases[state.phase], run.phases[state.phase].epochs
        start, _, self._validation = run.feeds[state.phase]
        self._train = run.feed(state.phase, state.refitting)
        self._planned = state.planned or self._epochs
        if state.refitting:  # nothing is chosen any more
            self._phase = replace(self._phase, patience=None)
            self._epochs, self._planned = (state.notes[state.phase][name] for name in ("best_epoch", "planned"))
        self._mark, self._before_s = time.monotonic(), state.spent_s - state.phase_s
        with run.devices.scope():
            self._network = build_network(
                classifier, start, self._train.reader.shape, self._phase.unfrozen, run.precision
            )
        self._steps = Steps(self._network, self._phase, run.devices, state.parts)
        self._size = batch_size(self._phase, self._train)
        self._chance = chance_loss(self._train.labels, self._train.weights)
        left = max(0, self._epochs - state.epoch)
        self._batches = self._train.shuffled(
            self._size, self._phase.views, self._seed(), state.epoch, state.step, epochs=left
        )
        self._held_out = self._validation.in_order(self._size)
        self._assign(state.group("now"))
        for index, variable in enumerate(self._steps.optimizer.variables):
            if f"optimizer/{index}" in state.tensors:
                variable.assign(state.tensors[f"optimizer/{index}"])

    def train(self) -> tuple[Classifier, bool, str | None]:
        """The phase's classifier; whether it is better than at the start; what is wrong."""
        state, phase = self._state, self._phase
        problem = None
        if phase.patience is not None and state.start_loss is None:
            state.start_loss = self._measure()[0]
        while state.epoch < min(self._epochs, self._planned) and problem is None:
            self._epoch()
            problem = self._finish_epoch()
            if phase.patience is not None and state.waited >= phase.patience:
                break
            if self._run.checkpoints.due():
                self._save()
            self._stop.check(self._save)
        tensors = state.group("best") or self._network.tensors()
        begun = self._start.tensors(phase.unfrozen)
        share: float = state.notes[state.phase]["share"] if state.refitting else self._choose_share(begun, tensors)
        if not state.refitting:
            best = state.best_epoch if share else 0
            note = {"phase": phase.name, "epochs": state.epoch, "best_epoch": best, "averaged": state.averaged}
            state.notes.append({**note, "share": share, "planned": self._planned, "batch_parts": state.parts})
        if problem and self._keeps_from_before(share):
            print(f"train: {problem} The weights from before are kept.", file=sys.stderr, flush=True)
            problem = None
        return self._start.replaced(mix(begun, tensors, share)), share > 0, problem

    def _keeps_from_before(self, share: float) -> bool:
        """Whether the phase's result was trained before its epochs at chance; the first phase may begin untrained."""
        trained = not self._best_was_at_chance() if share else self._state.phase > 0
        return self._phase.patience is not None and trained

    def _best_was_at_chance(self) -> bool:
        return min(self._state.averaged, default=0) > self._state.epoch - self._state.at_chance

    def _choose_share(self, begun: Mapping[str, Floats], tensors: Mapping[str, Floats]) -> float:
        """How far to go from the weights before the phase to those of its best epoch."""
        state, phase = self._state, self._phase
        if phase.patience is None:
            return 1.0
        assert state.start_loss is not None
        assert state.best_loss is not None
        if not phase.unfrozen:  # between an untrained head and a trained one are only less certain answers
            return float(state.best_loss < state.start_loss)
        if self._best_was_at_chance():
            return 0.0

        return choose_share(
            state.start_loss, state.best_loss, lambda share: self._measure_with(mix(begun, tensors, share))
        )

    def _epoch(self) -> None:
        state, phase = self._state, self._phase
        steps = self._train.steps(self._size)
        for batch in islice(self._batches, steps - state.step):
            share = schedule_at(phase, state.epoch * steps + state.step, self._planned * steps)
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
        state = self._state
        loss = state.sums["loss"]
        metrics = {"loss": round(loss, 6), "accuracy": round(state.sums["correct"] / len(self._train), 6)}
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {"loss": 0.0, "correct": 0.0}
        if state.refitting:
            if state.epoch in state.notes[state.phase]["averaged"]:
                self._keep(self._mean_with(self._network.tensors()), [*state.averaged, state.epoch])
            state.refit_history.append({"phase": self._phase.name, **metrics})
            self._run.on_epoch({f"refit_{name}": value for name, value in metrics.items()})
            at_chance = is_at_chance(loss, self._chance, lambda: self._measure()[1])
        else:
            validation_loss, probabilities = self._measure()
            validated = round(accuracy(probabilities, self._validation.labels), 6)
            metrics |= {"val_loss": round(validation_loss, 6), "val_accuracy": validated}
            state.history.append({"phase": self._phase.name, **metrics})
            self._keep_if_best(validation_loss)
            self._plan()
            self._run.on_epoch(metrics)
            at_chance = is_at_chance(loss, self._chance, lambda: probabilities)
        self._progress.advance(0, metrics)
        state.at_chance = state.at_chance + 1 if at_chance else 0
        if state.at_chance >= EPOCHS_AT_CHANCE or (at_chance and state.epoch >= min(self._epochs, self._planned)):
            return explain_collapse(self._phase, state.epoch, state.at_chance, loss, self._chance)
        return None

    def _plan(self) -> None:
        """Lower the number of epochs to what the budget allows; the learning rates fall to 0 by the last of them."""
        state, budget_s = self._state, self._run.budget_s
        self._count_time()
        if budget_s is not None:
            allowed_s = share_of_phase(budget_s, self._before_s, len(self._run.phases) - state.phase)
            left_s = allowed_s - state.phase_s
            self._planned = state.planned = affordable_epochs(self._planned, state.epoch, state.phase_s, left_s)

    def _count_time(self) -> None:
        now = time.monotonic()
        self._state.phase_s += now - self._mark
        self._state.spent_s += now - self._mark
        self._mark = now

    def _keep_if_best(self, validation_loss: float) -> None:
        """Keep the weights of this epoch, or their mean with the best ones so far, if its validation loss is lower."""
        state = self._state
        if self._phase.patience is None:
            state.best_loss, state.averaged = validation_loss, [state.epoch]
            return
        state.waited += 1
        tensors = self._network.tensors()
        if state.averaged:
            mean = self._mean_with(tensors)
            of_mean = self._measure_with(mean)
            self._assign(tensors)
            assert state.best_loss is not None
            if of_mean < min(validation_loss, state.best_loss):
                self._keep(mean, [*state.averaged, state.epoch], of_mean)
                return
        if state.best_loss is None or validation_loss < state.best_loss:
            self._keep(tensors, [state.epoch], validation_loss)

    def _mean_with(self, tensors: Mapping[str, Floats]) -> dict[str, Floats]:
        """The mean of some weights and of those that were averaged before."""
        before = self._state.group("best")
        return mix(before, tensors, 1 / (len(self._state.averaged) + 1)) if before else dict(tensors)

    def _keep(self, tensors: Mapping[str, Floats], averaged: list[int], loss: float | None = None) -> None:
        self._state.keep("best", tensors)
        self._state.averaged, self._state.best_loss, self._state.waited = averaged, loss, 0

    def _assign(self, tensors: Mapping[str, Floats]) -> None:
        for name, value in tensors.items():
            self._network.variables[name].assign(value)

    def _measure_with(self, tensors: Mapping[str, Floats]) -> float:
        """The validation loss of other weights, which stay."""
        self._assign(tensors)
        return self._measure()[0]

    def _measure(self) -> tuple[float, Floats]:
        probabilities = self._steps.predict(islice(self._held_out, self._validation.steps(self._size)))
        return log_loss(probabilities, self._validation.labels, self._validation.weights), probabilities

    def _save(self) -> None:
        self._count_time()
        self._state.keep("now", self._network.tensors())
        self._state.keep(
            "optimizer",
            {str(index): np.asarray(variable) for index, variable in enumerate(self._steps.optimizer.variables)},
        )
        self._run.checkpoints.save(self._state)

    def _seed(self) -> int:
        return self._run.seed + 1000 * self._state.phase


def _position(run: TrainingRun, state: State) -> str:
    again = ", which is trained again with the validation images" if state.refitting else ""
    return f"epoch {state.epoch + 1}, step {state.step + 1} of the phase {run.phases[state.phase].name!r}{again}"
