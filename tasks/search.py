"""Program `search`: finds the best linear probe for these images by cross-validation, within a time budget.

    python -m tasks.search [--minutes 2] [--trials 100] [--write]

Reads the outputs of `prepare` and `features`; no image goes through the network. Tries linear probes (pooling, inverse
regularization C) with Optuna. Each is evaluated on stratified folds of train and validation; near duplicates and groups
stay together. The test images are not read. Classes count as `train.class_weight` says, in the fits and in the log
loss; it isn't searched, because log losses of different weights can't be compared. Prints the best settings beside
those of params.yaml; `--write` writes them into params.yaml. Writes `reports/search.html`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import SettingsError
from tasks.files import write_bytes
from tasks.images.folds import assign_folds
from tasks.images.manifest import class_names, read_duplicates, read_examples
from tasks.images.shards import open_shards
from tasks.parallel import one_blas_thread
from tasks.params import change_settings, load_settings, parse_changes
from tasks.program import run_program
from tasks.progress import Progress
from tasks.reports import charts
from tasks.reports.chart_frame import Series
from tasks.reports.html import render
from tasks.runs.claims import claim_person_folder
from tasks.settings import Settings
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.head import Pooling
from tasks.vgg.training.feature_basis import take_feature_basis
from tasks.vgg.training.linear_probe import CHOICE_IMAGES, FURTHER, poolings_for, try_values
from tasks.vgg.training.logistic_regression import cross_validate, fold_masks, new_model
from tasks.vgg.training_data import FOLDS, make_split, sample_splits
from tasks.workspace import SEARCH_PAGE, Workspace


@dataclass(frozen=True)
class Candidate:
    """The settings of a linear probe."""

    pooling: Pooling
    inverse_regularization: float

    def assignments(self, rules: Settings) -> list[str]:
        """The settings with which `train` tries this C only; and this pooling only, unless it is bilinear."""
        up_to = rules.train.modern.bilinear_up_to if self.pooling == "bilinear" else 0
        return [
            f"train.modern.inverse_regularization=[{self.inverse_regularization:.3g}]",
            f"train.modern.bilinear_up_to={up_to}",
        ]


@dataclass(frozen=True)
class Found:
    """A candidate's metrics on the held-out folds: log loss in nats, and accuracy."""

    candidate: Candidate
    log_loss: float
    accuracy: float


class Folds:
    """The examples of train and validation (many: a sample), pooled once, and the fold in which each is held out."""

    def __init__(self, settings: Settings, workspace: Workspace) -> None:
        prepared = workspace.prepared
        examples = [one for one in read_examples(prepared) if one.split != "test"]
        self.classes = class_names(examples)
        shards = open_shards(workspace.features / BOTTLENECK)
        splits = [make_split(examples, split, self.classes, shards) for split in ("train", "validation")]
        self.poolings = poolings_for(settings.train.modern, len(self.classes), sum(len(split) for split in splits))
        train, validation = sample_splits(splits, CHOICE_IMAGES)
        self.labels = np.concatenate([train.labels, validation.labels])
        self._weight = settings.train.class_weight
        # All folds share one basis: it is a rotation, so it carries no information from one fold to another.
        self.inputs = {pooling: take_feature_basis(pooling, [train, validation]).fitted for pooling in self.poolings}
        try:
            fold_of = assign_folds(examples, read_duplicates(prepared), FOLDS, settings.train.seed, partial=True)
        except ValueError as error:
            raise SettingsError(f"There are too few images for {FOLDS} folds. {error}") from None
        self.held_out = fold_masks(fold_of, (*train.keys, *validation.keys))

    def measure(self, candidate: Candidate) -> Found:
        """Fit to all folds but one and predict that one, for each."""
        models = [new_model(self._weight) for _ in self.held_out]
        data = (self.inputs[candidate.pooling], self.labels, self.held_out, len(self.classes))
        metrics = cross_validate(models, self._weight, candidate.inverse_regularization, *data)
        return Found(candidate, **metrics)


@one_blas_thread()
def run(settings: Settings, workspace: Workspace, minutes: float, trials: int) -> tuple[Found, list[Found]]:
    """Search. Returns the best candidate of the present params.yaml, and all candidates, the best first.

    Args:
        settings: of the workspace.
        workspace: with the outputs of `prepare` and `features`.
        minutes: time after which no further candidate is tried.
        trials: the most candidates to try, besides those that `train` tries with the present params.yaml.

    Raises:
        IntegrityError: an earlier stage's output is missing or damaged.
        SettingsError: every class has fewer images than there are folds.
    """
    import optuna

    folds = Folds(settings, workspace)
    rules = settings.train
    known: dict[Candidate, Found] = {}

    def measure(pooling: Pooling, value: float) -> dict[str, float]:
        candidate = Candidate(pooling, value)
        if candidate not in known:
            known[candidate] = folds.measure(candidate)
        return {"log_loss": known[candidate].log_loss}

    for pooling in folds.poolings:
        try_values(rules.modern.inverse_regularization, partial(measure, pooling))
    best_now = min(known.values(), key=lambda found: found.log_loss)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=rules.seed))
    with Progress("search", trials, "candidates") as progress:

        def objective(trial: Any) -> float:
            pooling = trial.suggest_categorical("pooling", list(folds.poolings))
            value = trial.suggest_float("inverse_regularization", FURTHER[0], FURTHER[-1], log=True)
            metrics = measure(pooling, float(f"{value:.3g}"))
            progress.advance(details=metrics)
            return metrics["log_loss"]

        study.optimize(objective, n_trials=trials, timeout=60 * minutes)
    ranked = sorted(known.values(), key=lambda found: found.log_loss)
    write_bytes(workspace.folder / SEARCH_PAGE, _page(best_now, ranked).encode())
    return best_now, ranked


def _page(now: Found, ranked: Sequence[Found]) -> str:
    best = ranked[0].candidate
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in ranked:
        lines.setdefault(one.candidate.pooling, []).append((one.candidate.inverse_regularization, one.log_loss))
    series = []
    for name, points in sorted(lines.items()):
        values, losses = zip(*sorted(points), strict=True)
        series.append(Series(name, values, losses))
    label, marked = "inverse regularization C", best.inverse_regularization
    chart = charts.line_chart(series, label, "log loss", log_x=True, marked_x=marked)
    names = [one.name for one in series]
    return render("search.html.jinja", now=now, ranked=ranked, tried=len(ranked), folds=FOLDS, chart=chart, names=names)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.search", description="Find the best linear probe.")
    parser.add_argument("--minutes", type=float, default=2, help="time after which no candidate is tried")
    parser.add_argument("--trials", type=int, default=100, help="the most candidates to try")
    parser.add_argument("--write", action="store_true", help="put the best settings into params.yaml")
    options = parser.parse_args(arguments)

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        settings = load_settings(workspace.folder)
        now, ranked = run(settings, workspace, options.minutes, max(1, options.trials))
        best = ranked[0]
        print(f"params.yaml now: log loss {now.log_loss:.4f}, accuracy {now.accuracy:.3f}")
        print(f"best of {len(ranked)}: log loss {best.log_loss:.4f}, accuracy {best.accuracy:.3f}")
        assignments = best.candidate.assignments(settings)
        for assignment in assignments:
            print(f"  {assignment}")
        if best.candidate.pooling == "bilinear":
            print("With them, train also tries average_maximum at this C; the lower log loss decides.")
        if options.write:
            with claim_person_folder(workspace, "python -m tasks.search --write"):
                change_settings(workspace.folder, parse_changes(assignments))
        print(f"See {SEARCH_PAGE}")

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
