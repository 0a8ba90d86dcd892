"""Stage `evaluate`: trained models in, metrics on held-out images, the report page and the champion out.

Reads `data/prepared/`, `data/features/block5_pool/`, `models/trained/<strategy>/`. The same input writes the same
bytes:
- `reports/evaluation.json`: all results of every strategy;
- `reports/report.html`: one self-contained page for people;
- `reports/foreign.safetensors`: what tells images that belong to none of the classes, for `export`;
- `reports/predictions.safetensors`: what the champion predicts for the test images, for the gate;
- `reports/map.html`: all images in one map;
- `reports/plots/`: `confusion.csv`, `calibration.csv`, `per_class.csv`, `answers.csv` for `dvc plots`.
It also writes the headline metrics, `reports/metrics.json`. This file holds durations, so it is in git and not in
dvc.lock.

Always: the champion is chosen on validation images, or on folds of train and validation. The test images are used for
the reported metrics alone, all of them. A model that collapsed is shown and never chosen. Trained models of strategies
that are no longer in the settings are removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.diagnosis import Champion, diagnose
from tasks.errors import TrainingError
from tasks.evaluated import (
    Compared,
    Evaluated,
    compared_predictions,
    evaluate_models,
    group_numbers,
    held_out_predictions,
    pack_predictions,
)
from tasks.files import read_json, sweep_temporaries, write_bytes, write_json
from tasks.foreign import detect_foreign
from tasks.image_map import draw_image_map
from tasks.images.folds import number_groups
from tasks.images.manifest import read_duplicates, read_examples
from tasks.images.shards import open_shards
from tasks.parallel import one_blas_thread
from tasks.program import run_stage
from tasks.reports import metrics
from tasks.reports.answers import Predictions, answer_rule
from tasks.reports.champion import certainty_of_choice, champion_rule, choose_champion
from tasks.reports.evaluated_images import summarise_images, worst_mistakes
from tasks.reports.headline import headline_metrics
from tasks.reports.page import render_page, shown_images
from tasks.reports.plots import write_plots
from tasks.reports.text import percent
from tasks.reports.uncertainty import compare_with_champion
from tasks.runs.costs import read_costs
from tasks.scores import Integers, predict
from tasks.settings import Settings
from tasks.vgg.strategies import BY_NAME
from tasks.vgg.trained_model import load_all
from tasks.vgg.training.recalibration import Recalibration
from tasks.workspace import MAP_PAGE, REPORT_PAGE, Workspace

SUMMARISED = (
    "candidates",
    "chosen",
    "chosen_on",
    "folds",
    "history",
    "log_loss_by_pooling",
    "network_passes",
    "phases",
    "pooling",
    "precision",
    "refitted_with_validation",
    "shortened",
    "starts_from",
)
"""The parts of a model's summary that the report shows; they are the same for every run of the same training."""


@dataclass(frozen=True)
class Summary:
    champion: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    strategies: int

    def __str__(self) -> str:
        low, high = percent(self.accuracy_low), percent(self.accuracy_high)
        return (
            f"{self.champion} has a test accuracy of {percent(self.accuracy)} on {self.n} images "
            f"(95 % confidence interval {low} to {high}); see {REPORT_PAGE}"
        )


@one_blas_thread()
def run(settings: Settings, workspace: Workspace) -> Summary:
    """Evaluate every strategy, choose the champion, write the reports.

    Raises:
        DataError: there are no validation or no test images.
        TrainingError: no strategy produced a usable model.
        IntegrityError: a trained model is missing, or doesn't belong to the prepared images.
    """
    remove_stale(workspace.trained, settings.strategies)
    examples = read_examples(workspace.prepared)
    test = [example for example in examples if example.split == "test"]
    group_of = number_groups(examples, read_duplicates(workspace.prepared))
    models = load_all(workspace.trained, settings.strategies)
    evaluated = evaluate_models(models, examples, test, group_of, workspace)
    balanced = settings.train.class_weight == "balanced"
    compared = compared_predictions(_usable(evaluated), examples, group_of)
    champion = choose_champion(compared.candidates, balanced)
    best = evaluated[champion]
    limit = settings.evaluate.worst_mistakes
    mistakes = worst_mistakes(best.probabilities, best.labels, best.model.classes, test)[:limit]
    groups = group_numbers([example.key for example in test], group_of)
    data = summarise_images(workspace.prepared)
    tested = Predictions(best.probabilities, best.labels, groups)
    wanted, each_class = settings.evaluate.wanted_precision, settings.evaluate.each_class
    answers = answer_rule(
        held_out_predictions(best.model, examples, group_of), tested, best.model.classes, wanted, each_class
    )
    evaluation = _evaluation(champion, balanced, evaluated, compared, groups, mistakes, metrics.rounded(answers), data)
    predictions = Champion(best.model, test, best.probabilities, best.labels, groups, best.pooled)
    evaluation |= diagnose(predictions, mistakes, examples, settings.evaluate.shift_images, workspace)
    evaluation["foreign"], detector = detect_foreign(predictions, examples, group_of, workspace)
    evaluation["compare"] = settings.compare.model_dump(mode="json")
    write_bytes(workspace.foreign, detector)
    keys = [example.key for example in test]
    write_bytes(workspace.predictions, pack_predictions(keys, best.probabilities))
    _write(workspace, evaluation, best)
    write_bytes(workspace.folder / MAP_PAGE, draw_image_map(predictions, examples, workspace).encode())
    low, high = best.test["accuracy_ci95"]
    return Summary(champion, best.test["accuracy"], low, high, best.test["n"], len(evaluated))


def _usable(evaluated: Mapping[str, Evaluated]) -> dict[str, Evaluated]:
    """The models that have no problem."""
    usable = {name: one for name, one in evaluated.items() if not one.model.problem}
    if not usable:
        problems = "\n".join(f"  {name}: {one.model.problem}" for name, one in evaluated.items())
        raise TrainingError(f"No strategy produced a usable model, so no champion is chosen:\n{problems}")
    return usable


def remove_stale(trained: Path, wanted: Iterable[str]) -> list[str]:
    """Remove the models of other strategies than the wanted ones, but no dot files. Returns their names."""
    if not trained.is_dir():
        return []
    sweep_temporaries(trained)
    keep = set(wanted)
    names = (entry.name for entry in trained.iterdir())
    stale = sorted(name for name in names if name not in keep and not name.startswith("."))
    for name in stale:
        entry = trained / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return stale


def _evaluation(
    champion: str,
    balanced: bool,
    evaluated: Mapping[str, Evaluated],
    compared: Compared,
    groups: Integers,
    mistakes: list[dict[str, Any]],
    answers: dict[str, Any],
    data: dict[str, Any],
) -> dict[str, Any]:
    best = evaluated[champion]
    hits = {name: one.correct for name, one in evaluated.items()}
    choice = certainty_of_choice(compared.candidates, balanced)
    return {
        "champion": champion,
        "champion_rule": champion_rule(compared.images, balanced),
        "choice": metrics.rounded({"folds": compared.folds, **choice}) if choice else None,
        "balanced": balanced,
        "classes": list(best.model.classes),
        "strategies": {name: summarise_strategy(one) for name, one in evaluated.items()},
        "comparisons": metrics.rounded(compare_with_champion(champion, hits, groups)),
        "calibration": metrics.rounded(metrics.calibration(best.probabilities, best.labels, groups)),
        "recalibration": _recalibration(best),
        "answers": answers,
        "mistakes": mistakes,
        "data": data,
    }


def _recalibration(best: Evaluated) -> dict[str, Any] | None:
    """What the champion's recalibration did; None if it wasn't tried."""
    about = best.model.summary.get("recalibration")
    if about is None:
        return None
    change = Recalibration(about["method"], about["temperature"], np.array(about["bias"]))
    before = metrics.rounded(metrics.confidence_metrics(change.undo(best.probabilities), best.labels))
    return {**about, "test": {"before": before, "after": {name: best.test[name] for name in before}}}


def summarise_strategy(one: Evaluated) -> dict[str, Any]:
    """One strategy's entry in the evaluation; `trained_further` lists the blocks with other than published weights."""
    model = one.model
    backbone = dict(model.summary.get("backbone", {}))
    if model.backbone:
        backbone["trained_further"] = ", ".join(sorted({name.split("_")[0] for name in model.backbone}))
    return {
        "recipe": model.recipe,
        "description": BY_NAME[model.strategy].describe(model.recipe, model.summary),
        "problem": model.problem,
        "validation": one.validation,
        "test": one.test,
        "backbone": backbone,
        "training": {key: model.summary[key] for key in SUMMARISED if key in model.summary},
    }


def _write(workspace: Workspace, evaluation: Mapping[str, Any], best: Evaluated) -> None:
    reports = workspace.reports
    sweep_temporaries(reports)
    keys = shown_images(evaluation)
    images = open_shards(workspace.shards).read(keys) if keys else ()
    page = render_page(evaluation, dict(zip(keys, images, strict=True)))
    predicted = predict(best.probabilities)
    curves = evaluation["calibration"], evaluation["answers"]["curve"]
    write_plots(reports / "plots", best.labels, predicted, best.test["per_class"], *curves)
    write_bytes(workspace.folder / REPORT_PAGE, page.encode())
    write_json(workspace.evaluation, evaluation)
    seconds = _train_seconds(workspace, evaluation["strategies"])
    write_json(workspace.metrics, headline_metrics(evaluation, seconds))


def _train_seconds(workspace: Workspace, strategies: Iterable[str]) -> dict[str, float | None]:
    """How long the trainings took; None if that is not known."""
    earlier = _earlier_strategies(workspace.metrics)
    # A model from another machine has no costs here, but its seconds may be in metrics.json, which is in git.
    return {
        name: read_costs(workspace, f"train@{name}").get("seconds", earlier.get(name, {}).get("train_seconds"))
        for name in strategies
    }


def _earlier_strategies(path: Path) -> dict[str, Any]:
    try:
        strategies: dict[str, Any] = read_json(path)["strategies"]
        return strategies
    except (FileNotFoundError, ValueError, KeyError):
        return {}  # the first run, or a bad merge: only durations are lost


def main() -> int:
    return run_stage("evaluate", run)


if __name__ == "__main__":
    raise SystemExit(main())
