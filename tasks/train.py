"""Stage `train@<strategy>`: features and labels in, a trained classifier out.

Reads `data/prepared/` (labels, splits) and `data/features/`. Writes `models/trained/<strategy>/`: the head's tensors,
what was chosen and why, and live metrics (`live/`, dvclive). Choices are made on the validation split; test is not
read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import features, prepare
from tasks.files import read_json
from tasks.pictures.manifest import class_names, read_examples
from tasks.pictures.shards import open_shards
from tasks.program import run_stage
from tasks.settings import STRATEGIES, Settings
from tasks.vgg.examples import Split, make_split
from tasks.vgg.recipes.outcome import Outcome, accuracy
from tasks.vgg.trained import TRAINED, Trained, save_trained


@dataclass(frozen=True)
class Summary:
    strategy: str
    recipe: str
    train_examples: int
    validation_examples: int
    validation_accuracy: float

    def __str__(self) -> str:
        return (
            f"{self.recipe} on {self.train_examples} pictures; "
            f"{self.validation_accuracy:.1%} of {self.validation_examples} validation pictures right"
        )


def run(settings: Settings, workspace: Path, strategy: str = STRATEGIES[0]) -> Summary:
    """Train by one strategy.

    Raises:
        TrainingError: training diverged.
        IntegrityError: an earlier stage's output is missing or damaged.
    """
    examples = read_examples(workspace / prepare.PREPARED)
    classes = class_names(examples)
    shards = open_shards(workspace / features.FEATURES / features.BOUNDARY)
    train, validation = (make_split(examples, split, classes, shards) for split in ("train", "validation"))
    folder = workspace / TRAINED / strategy
    outcome = _train(settings, len(classes), train, validation, folder)
    backbone = read_json(workspace / features.FEATURES / "recipe.json")
    save_trained(
        folder,
        Trained(
            strategy,
            settings.train.recipe,
            classes,
            outcome.head,
            validation.keys,
            outcome.validation_probabilities,
            {**outcome.summary, "backbone": backbone},
        ),
    )
    right = accuracy(outcome.validation_probabilities, validation.labels)
    return Summary(strategy, settings.train.recipe, len(train), len(validation), round(right, 6))


def _train(settings: Settings, classes: int, train: Split, validation: Split, folder: Path) -> Outcome:
    rules = settings.train
    with _live(folder / "live") as live:
        if rules.recipe == "modern":
            from tasks.vgg.recipes import modern

            return modern.train(rules.modern, rules.class_weight, classes, train, validation, live)
        from tasks.vgg.recipes import tutorial

        return tutorial.train(rules.tutorial, rules.class_weight, rules.seed, classes, train, validation, live)


def _live(folder: Path) -> Any:
    os.environ.setdefault("DVCLIVE_LOGLEVEL", "ERROR")
    from dvclive import Live

    return Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.train", description="Train by one strategy.")
    parser.add_argument("strategy", choices=STRATEGIES)
    strategy = parser.parse_args(arguments).strategy
    return run_stage(f"train@{strategy}", lambda settings, workspace: run(settings, workspace, strategy))


if __name__ == "__main__":
    raise SystemExit(main())
