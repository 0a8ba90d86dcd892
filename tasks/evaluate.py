"""Stage `evaluate`: trained models in, figures on held-out images, the report page and the champion out.

Reads `data/prepared/`, `data/features/block5_pool/`, `models/trained/<strategy>/`. Writes, the same bytes for the same
input:
- `reports/evaluation.json`: everything that is known of every strategy;
- `reports/report.html`: one self-contained page for people;
- `reports/plots/`: `confusion.csv`, `calibration.csv`, `per_class.csv` for `dvc plots`;
and `reports/metrics.json`, which also holds seconds, so DVC keeps it in git and not in its lock.

Always: the champion is chosen on validation alone, the test images only report; every test image counts; a model
that collapsed is shown and never chosen;
trained models of strategies that the settings no longer name are removed. In the CSV files a class name that a
spreadsheet could take for a formula gets an apostrophe in front (`tasks.reports.text.csv_cell`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DataError, IntegrityError, TrainingError
from tasks.files import atomic_folder, read_json, sweep_temporaries, write_bytes, write_json
from tasks.images.manifest import SPLITS, Example, read_examples, read_quarantine
from tasks.images.shards import open_shards
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.reports import metrics
from tasks.reports.page import LISTED_QUARANTINED, render_page
from tasks.reports.plots import calibration_csv, confusion_csv, per_class_csv
from tasks.reports.text import percent, without_credentials
from tasks.runs.costs import read_costs
from tasks.settings import Settings
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.trained import Trained, load_all
from tasks.workspace import PREPARED, REPORT_PAGE, Workspace

TOLD = (
    "candidates",
    "chosen",
    "chosen_on",
    "history",
    "log_loss_by_pooling",
    "phases",
    "pooling",
    "precision",
    "refitted_with_validation",
    "starts_from",
)
"""What the report takes from a model's own summary: nothing there that differs between runs may come along."""

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Summary:
    champion: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    strategies: int

    def __str__(self) -> str:
        return (
            f"{self.champion} is right for {percent(self.accuracy)} of {self.n} held-out images "
            f"(95 % interval {percent(self.accuracy_low)} to {percent(self.accuracy_high)}); "
            f"see {REPORT_PAGE}"
        )


@dataclass(frozen=True)
class Scored:
    """One strategy's answers on the test images, and its figures."""

    model: Trained
    probabilities: Floats
    labels: npt.NDArray[np.int64]
    validation: dict[str, Any]
    validation_losses: dict[str, float]
    test: dict[str, Any]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(metrics.predict(self.probabilities), self.labels)


def run(settings: Settings, workspace: Workspace) -> Summary:
    """Measure every strategy, pick the champion, write the reports.

    Raises:
        DataError: there are no validation or no test images.
        TrainingError: no strategy gave a model that can be used.
        IntegrityError: a trained model is missing, or doesn't belong to the prepared images.
    """
    remove_stale(workspace.trained, settings.strategies)
    examples = read_examples(workspace.prepared)
    test = [example for example in examples if example.split == "test"]
    models = load_all(workspace.trained, settings.strategies)
    scored = _score(models, examples, test, workspace)
    champion = metrics.choose_champion(_usable(scored), {name: one.validation_losses for name, one in scored.items()})
    mistakes = worst_mistakes(scored[champion], test, settings.evaluate.worst_mistakes)
    evaluation = _evaluation(champion, scored, mistakes, _data(workspace.prepared, examples))
    _write(workspace, evaluation, scored[champion])
    figures = scored[champion].test
    low, high = figures["accuracy_ci95"]
    return Summary(champion, figures["accuracy"], low, high, figures["n"], len(scored))


def _usable(scored: Mapping[str, Scored]) -> dict[str, dict[str, Any]]:
    """Validation figures of the models that nothing is wrong with."""
    usable = {name: one.validation for name, one in scored.items() if not one.model.problem}
    if not usable:
        problems = "\n".join(f"  {name}: {one.model.problem}" for name, one in scored.items())
        raise TrainingError(f"No strategy gave a model that can be used, so none is chosen:\n{problems}")
    return usable


def remove_stale(trained: Path, wanted: Iterable[str]) -> list[str]:
    """Remove models of strategies that are no longer wanted; gives their names. Dot files are not ours."""
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


def worst_mistakes(scored: Scored, test: Sequence[Example], limit: int) -> list[dict[str, Any]]:
    """Wrong answers, the surest first."""
    classes, answers = scored.model.classes, metrics.predict(scored.probabilities)
    rows = [
        {
            "key": example.key,
            "path": example.path,
            "actual": example.label,
            "predicted": classes[answer],
            "probability": metrics.rounded(float(row[answer])),
            "probability_actual": metrics.rounded(float(row[label])),
        }
        for example, row, answer, label in zip(test, scored.probabilities, answers, scored.labels, strict=True)
        if answer != label
    ]
    return sorted(rows, key=lambda row: (-row["probability"], row["key"]))[:limit]


def _score(
    models: Mapping[str, Trained], examples: Sequence[Example], test: Sequence[Example], workspace: Workspace
) -> dict[str, Scored]:
    """Every model on its validation images and on the test images."""
    _require("test", test)
    labels = {example.key: example.label for example in examples if example.split == "validation"}
    validation = {name: _measure_validation(model, labels) for name, model in models.items()}
    scored = {}
    with Progress("evaluate", len(test) * len(models), "images") as progress:
        for name, model in models.items():
            answers = []
            keys = [example.key for example in test]
            for batch in predict_probabilities(
                model.head, model.backbone, model.test_time_augmentation, workspace, keys
            ):
                answers.append(batch)
                progress.advance(len(batch))
            probabilities = np.concatenate(answers)
            truth = _indices(model, [example.label for example in test])
            figures = metrics.rounded(metrics.measure(probabilities, truth, model.classes))
            scored[name] = Scored(model, probabilities, truth, *validation[name], figures)
    return scored


def _measure_validation(model: Trained, labels: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, float]]:
    """Figures, and the log loss of each image."""
    _require("validation", model.validation_keys)
    unknown = [key for key in model.validation_keys if key not in labels]
    if unknown:
        raise IntegrityError(
            f"{model.strategy} was validated on {len(unknown)} images that {PREPARED} doesn't hold for "
            f"validation (first: {unknown[0][:12]}): its data were older. Run: dvc repro train@{model.strategy}"
        )
    truth = _indices(model, [labels[key] for key in model.validation_keys])
    figures: dict[str, Any] = metrics.rounded(metrics.measure(model.validation_probabilities, truth, model.classes))
    losses = metrics.log_losses(model.validation_probabilities, truth)
    return figures, dict(zip(model.validation_keys, losses.tolist(), strict=True))


def _require(split: str, images: Sequence[object]) -> None:
    if not images:
        raise DataError(
            f"There are no {split} images, so the models can't be judged. Raise prepare.{split}_fraction, or give "
            f"the source a folder `{split}`, then run again."
        )


def _indices(model: Trained, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    places = {name: number for number, name in enumerate(model.classes)}
    unknown = sorted(set(labels) - set(places))
    if unknown:
        raise IntegrityError(
            f"{model.strategy} doesn't know the class {unknown[0]!r} of {PREPARED}: it was trained on older data. "
            f"Run: dvc repro train@{model.strategy}"
        )
    return np.array([places[label] for label in labels], dtype=np.int64)


def _data(prepared: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """The data summary, the counts by class and split, and the quarantine."""
    summary = read_json(prepared / "summary.json")
    counts: dict[str, dict[str, int]] = {}
    for example in sorted(examples, key=lambda one: one.label):
        counts.setdefault(example.label, dict.fromkeys(SPLITS, 0))[example.split] += 1
    about = dict(summary["source"])
    source = about.pop("uri", None)
    return {
        **summary,
        "source": without_credentials(source) if source else None,
        "about": about,
        "counts": counts,
        "quarantine": [asdict(row) for row in read_quarantine(prepared)[:LISTED_QUARANTINED]],
    }


def _evaluation(
    champion: str, scored: Mapping[str, Scored], mistakes: list[dict[str, Any]], data: dict[str, Any]
) -> dict[str, Any]:
    best = scored[champion]
    strategies = {
        name: {
            "recipe": one.model.recipe,
            "problem": one.model.problem,
            "validation": one.validation,
            "test": one.test,
            "backbone": one.model.summary.get("backbone", {}),
            "training": {key: one.model.summary[key] for key in TOLD if key in one.model.summary},
        }
        for name, one in scored.items()
    }
    comparisons = [
        {"first": champion, "second": name, **metrics.compare_paired(best.correct, one.correct)}
        for name, one in scored.items()
        if name != champion
    ]
    return {
        "champion": champion,
        "champion_rule": metrics.CHAMPION_RULE,
        "classes": list(best.model.classes),
        "strategies": strategies,
        "comparisons": comparisons,
        "calibration": metrics.rounded(metrics.calibration(best.probabilities, best.labels)),
        "trust": metrics.rounded(metrics.trust_levels(best.probabilities, best.labels)),
        "mistakes": mistakes,
        "data": data,
    }


def _write(workspace: Workspace, evaluation: Mapping[str, Any], best: Scored) -> None:
    reports = workspace.reports
    sweep_temporaries(reports)
    keys = [mistake["key"] for mistake in evaluation["mistakes"]]
    images = open_shards(workspace.shards).read(keys) if keys else np.empty((0, 1, 1, 3), np.uint8)
    page = render_page(evaluation, list(images))
    _write_plots(reports / "plots", evaluation, best)
    write_bytes(reports / "report.html", page.encode())
    write_json(workspace.evaluation, evaluation)
    write_json(workspace.metrics, _metrics(workspace, evaluation))


def _write_plots(folder: Path, evaluation: Mapping[str, Any], best: Scored) -> None:
    classes = best.model.classes
    with atomic_folder(folder) as plots:
        write_bytes(plots / "confusion.csv", confusion_csv(best.labels, metrics.predict(best.probabilities), classes))
        write_bytes(plots / "calibration.csv", calibration_csv(evaluation["calibration"]))
        write_bytes(plots / "per_class.csv", per_class_csv(best.test["per_class"]))


def _metrics(workspace: Workspace, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    earlier = _earlier_strategies(workspace.metrics)
    strategies = {}
    for name, one in evaluation["strategies"].items():
        # What another machine trained has no costs here; a figure that came along with git still holds.
        seconds = read_costs(workspace, f"train@{name}").get("seconds", earlier.get(name, {}).get("train_seconds"))
        strategies[name] = {
            "recipe": one["recipe"],
            "train_seconds": seconds,
            **{split: _without_confusion(one[split]) for split in ("validation", "test")},
        }
    return {"champion": evaluation["champion"], "strategies": strategies}


def _without_confusion(figures: Mapping[str, Any]) -> dict[str, Any]:
    # 100 classes are 10,000 lines in git at every run; the matrix is in evaluation.json and confusion.csv.
    return {name: value for name, value in figures.items() if name != "confusion"}


def _earlier_strategies(path: Path) -> dict[str, Any]:
    try:
        strategies: dict[str, Any] = read_json(path)["strategies"]
        return strategies
    except (FileNotFoundError, ValueError, KeyError):
        return {}  # the first run, or a file that a merge has torn: it is written anew, only its seconds are lost


def main() -> int:
    return run_stage("evaluate", run)


if __name__ == "__main__":
    raise SystemExit(main())
