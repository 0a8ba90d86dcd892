"""Stage `train@<strategy>`: features and labels in, a trained classifier out.

Reads `data/prepared/` (labels, splits, images) and `data/features/`. Writes `models/trained/<strategy>/`: the tensors
of the head and of the unfrozen blocks, the choices with their reasons, and live metrics (`live/`). Choices are
made on the validation split, or on folds of train and validation; the test images are not read. With `compare.folds`
the recipe `modern` first trains without each fold of train and validation, and predicts it. After a stop or a kill,
training continues from the last checkpoint (`.rootstock/checkpoints/<strategy>/`; of a fold in `<strategy>.folds/`) and
ends with the same weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.images.manifest import read_duplicates, read_examples
from tasks.parallel import one_blas_thread
from tasks.program import run_stage
from tasks.scores import accuracy
from tasks.settings import STRATEGIES, Settings
from tasks.vgg.network_cost import network_passes
from tasks.vgg.strategies import plan_phases
from tasks.vgg.trained_model import Trained, save_trained
from tasks.vgg.training.fold_trainings import OutOfFold, draw_compared_folds, predict_out_of_fold
from tasks.vgg.training.live_metrics import LiveMetrics
from tasks.vgg.training.outcome import Outcome
from tasks.vgg.training.recalibration import recalibrate
from tasks.vgg.training_data import Material, take_material
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Summary:
    strategy: str
    recipe: str
    train_examples: int
    validation_examples: int
    validation_accuracy: float
    unusable: bool
    shortened: str | None = None
    folds: int | None = None

    def __str__(self) -> str:
        if self.unusable:
            return f"{self.recipe} on {self.train_examples} images failed, and will not be exported"
        shortened = f". {self.shortened.removesuffix('.')}" if self.shortened else ""
        folds = f", and without each of {self.folds} folds" if self.folds else ""
        return (
            f"{self.recipe} on {self.train_examples} images{folds}; "
            f"{self.validation_accuracy:.1%} accuracy on {self.validation_examples} validation images{shortened}"
        )


@one_blas_thread()
def run(settings: Settings, workspace: Workspace, strategy: str = STRATEGIES[0]) -> Summary:
    """Train with one strategy.

    Raises:
        TrainingError: training diverged.
        IntegrityError: an earlier stage's output is missing or damaged.
    """
    material = read_material(settings, workspace, strategy)
    folder, checkpoints = workspace.trained / strategy, workspace.checkpoints / strategy
    of_folds = checkpoints.with_name(f"{strategy}.folds")
    out_of_fold = _predict_out_of_fold(settings, material, of_folds)
    outcome = fit(settings, material, checkpoints, LiveMetrics(folder / "live"))
    if out_of_fold:
        summary = {**outcome.summary, "folds": out_of_fold.summary}
        outcome = replace(outcome, summary=summary, folds=out_of_fold.predictions)
    if settings.train.recipe == "modern" and settings.train.modern.recalibrate and not outcome.problem:
        outcome = recalibrate(outcome, material, settings.train.class_weight)
    train, validation, classes, kept = material.train, material.validation, material.classes, material.kept
    backbone = {name: value for name, value in kept.items() if name not in ("augmentation", "kept")}
    passes = network_passes(
        plan_phases(strategy, settings.train, settings.augmentation),
        outcome.summary,
        len(train),
        len(validation),
        refitted=bool(outcome.summary.get("refit")),
    )
    save_trained(
        folder,
        Trained(
            strategy,
            settings.train.recipe,
            classes,
            outcome.head,
            outcome.backbone,
            settings.train.test_time_augmentation,
            outcome.problem,
            validation.keys,
            outcome.validation_probabilities,
            {**outcome.summary, "backbone": backbone, "network_passes": round(passes)},
            outcome.folds.keys if outcome.folds else (),
            outcome.folds.probabilities if outcome.folds else None,
        ),
    )
    for one in (checkpoints, of_folds):  # the results are stored now
        shutil.rmtree(one, ignore_errors=True)
    if outcome.problem:
        print(f"train@{strategy}: {outcome.problem}", file=sys.stderr, flush=True)
    validated = round(accuracy(outcome.validation_probabilities, validation.labels), 6)
    return Summary(
        strategy,
        settings.train.recipe,
        len(train),
        len(validation),
        validated,
        bool(outcome.problem),
        outcome.summary.get("shortened"),
        out_of_fold.summary["count"] if out_of_fold else None,
    )


def read_material(settings: Settings, workspace: Workspace, strategy: str) -> Material:
    """Read the outputs of earlier stages that a strategy trains on.

    Raises:
        IntegrityError: an earlier stage's output is missing or damaged.
    """
    examples, duplicates = read_examples(workspace.prepared), read_duplicates(workspace.prepared)
    return take_material(strategy, examples, duplicates, workspace, settings.train)


def _predict_out_of_fold(settings: Settings, material: Material, folder: Path) -> OutOfFold | None:
    """The predictions that `compare.folds` asks for; None if it asks for none, or the images are too few."""
    folds, rules, workspace = settings.compare.folds, settings.train, material.workspace
    if folds is None or rules.recipe != "modern":
        return None
    examples, duplicates = read_examples(workspace.prepared), read_duplicates(workspace.prepared)
    try:
        fold_of = draw_compared_folds(examples, duplicates, folds, rules.seed)
    except ValueError as error:
        print(f"train@{material.strategy}: compare.folds={folds} is ignored: {error}", file=sys.stderr, flush=True)
        return None

    def without(keys: frozenset[str]) -> Material:
        others = [one for one in examples if one.key not in keys]
        return take_material(material.strategy, others, duplicates, workspace, rules)

    def fit_quietly(some: Material, checkpoints: Path) -> Outcome:
        return fit(settings, some, checkpoints)

    return predict_out_of_fold(settings, material, fold_of, without, fit_quietly, folder)


def fit(settings: Settings, material: Material, checkpoints: Path, live: LiveMetrics | None = None) -> Outcome:
    """Train a classifier.

    Args:
        settings: recipe and rules.
        material: to train on.
        checkpoints: the folder for checkpoints; they stay there.
        live: live metrics.

    Raises:
        TrainingError: training diverged.
    """
    rules = settings.train
    if plan_phases(material.strategy, rules, settings.augmentation):
        from tasks.vgg.training.gradient_training import train_by_gradient

        return train_by_gradient(settings, material, checkpoints, live.log if live else lambda _: None)
    train, validation, classes = material.train, material.validation, len(material.classes)
    from tasks.vgg.training.linear_probe import conclude, fit_linear_probe

    probe = fit_linear_probe(rules.modern, rules.class_weight, classes, train, validation, material.fold_of, live)
    return conclude(probe, rules, material)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.train", description="Train with one strategy.")
    parser.add_argument("strategy", choices=STRATEGIES)
    strategy = parser.parse_args(arguments).strategy
    return run_stage(f"train@{strategy}", lambda settings, workspace: run(settings, workspace, strategy))


if __name__ == "__main__":
    raise SystemExit(main())
