"""All strategies by stratified cross-validation over all images, on the same folds.

    python -m benchmarks.cross_validation FOLDER [--strategies all] [--recipe modern] [--repeats 5] [--learning-curve]
                                       [--set key=value] [--sheet FILE]

FOLDER holds train/<class>/* and val/<class>/*, which are merged. Each fold is held out once; one image in seven of the
other folds is for validation, on which choices are made. `feature_extraction` is repeated with other folds, the other
strategies are measured on the first ones. Near duplicates stay in one fold. No choice uses the held-out fold.
Prints a row for each strategy (accuracy and its standard deviation over repeats, log loss, and the paired difference
from `feature_extraction` with its 95 % interval over images), and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.workspaces import make_workspace, run
from tasks import features, train
from tasks.images.folds import assign_folds
from tasks.images.manifest import class_names, read_duplicates, read_examples, write_examples
from tasks.images.shards import open_shards
from tasks.params import change_settings, load_settings, parse_changes
from tasks.scores import log_losses, predict
from tasks.settings import STRATEGIES, Settings
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.training_data import take_material
from tasks.workspace import PREPARED, Workspace

FOLDS = 5
VALIDATION_FOLDS = 7
SHARES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strategies", default="all")
    parser.add_argument("--recipe", default="modern")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--learning-curve", action="store_true", help="measure feature extraction on fewer images instead"
    )
    parser.add_argument("--set", action="append", default=[], help="settings, as block.key=value")
    parser.add_argument("--sheet", type=Path, help="an image file")
    options = parser.parse_args()
    strategies = STRATEGIES if options.strategies == "all" else tuple(options.strategies.split(","))
    strategies = ("feature_extraction",) if options.learning_curve else strategies
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as temporary:
        workspace = make_workspace(Path(temporary) / "folds")
        together = put_together(options.folder.resolve(), Path(temporary) / "images")
        named = [f"source.uri={json.dumps(str(together))}", f"strategies=[{', '.join(strategies)}]"]
        changes = parse_changes([*named, f"train.recipe={options.recipe}", *options.set])
        settings = change_settings(workspace, changes)
        if settings.train.test_time_augmentation and strategies != ("feature_extraction",):
            parser.error(
                "train.test_time_augmentation works only with feature_extraction: the others need augmented images"
            )
        run(workspace, "dvc", "repro", "--quiet", "prepare")
        print(compute_features(settings, workspace), flush=True)
        if options.learning_curve:
            learning_curve(Folds(workspace), options.repeats)
        else:
            compare(Folds(workspace), strategies, options.repeats, options.sheet)


def put_together(folder: Path, target: Path) -> Path:
    """All images of a class in one folder."""
    for image in sorted(folder.glob("*/*/*")):
        place = target / image.parent.name / f"{image.parent.parent.name}-{image.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, place)
    return target


def compute_features(settings: Settings, workspace: Path) -> features.Summary:
    """Features of all images, in float32 where the settings leave it open.

    Every image is held out once, and held-out images never have features in int8; nor is any image left that `auto`
    could check int8 on.
    """
    prepared = workspace / PREPARED
    # `features` computes augmented views of training images, and mirror images of the others
    split = "validation" if settings.train.test_time_augmentation else "train"
    write_examples(prepared, [replace(one, split=split) for one in read_examples(prepared)])
    wanted = settings.features
    if wanted.precision == "auto":
        wanted = wanted.model_copy(update={"precision": "float32"})
    return features.run(settings.model_copy(update={"features": wanted}), Workspace.at(workspace))


class Folds:
    """The images of a workspace in folds; each fold is held out once."""

    def __init__(self, workspace: Path) -> None:
        self.workspace, self.settings = workspace, load_settings(workspace)
        self.examples = read_examples(workspace / PREPARED)
        self.duplicates = read_duplicates(workspace / PREPARED)
        self.classes = class_names(self.examples)
        self.labels = {one.key: self.classes.index(one.label) for one in self.examples}

    def measure(self, strategy, repeat, share=1.0):
        """Which images are predicted correctly, and the log loss of each; `share` of the other folds is used."""
        fold_of = assign_folds(self.examples, self.duplicates, FOLDS, repeat)
        found: dict[str, bool] = {}
        losses: list[float] = []
        for fold in range(FOLDS):
            keys, probabilities = self.held_out(strategy, fold_of, fold, share)
            labels = np.array([self.labels[key] for key in keys])
            found |= zip(keys, (predict(probabilities) == labels).tolist(), strict=True)
            losses += log_losses(probabilities, labels).tolist()
        return found, losses

    def held_out(self, strategy, fold_of, fold, share):
        """Train without a fold; returns the keys of its images and their probabilities (n, classes)."""
        others = [one for one in self.examples if fold_of[one.key] != fold]
        parts_of = assign_folds(others, self.duplicates, SHARES, 1)
        others = [one for one in others if parts_of[one.key] < share * SHARES]
        rest = assign_folds(others, self.duplicates, VALIDATION_FOLDS, 0)
        splits = {key: "validation" if number == 0 else "train" for key, number in rest.items()}
        splits |= {one.key: "test" for one in self.examples if fold_of[one.key] == fold}
        named = [replace(one, split=splits[one.key]) for one in self.examples if one.key in splits]
        workspace = Workspace.at(self.workspace)
        material = take_material(strategy, named, self.duplicates, workspace, self.settings.train)
        with tempfile.TemporaryDirectory() as temporary:
            outcome = train.fit(self.settings, material, Path(temporary))
        best = [note["best_epoch"] for note in outcome.summary.get("phases", [])]
        print(f"  {strategy}, fold {fold}: best epochs {best}; {outcome.problem or 'no problem'}", file=sys.stderr)
        keys = [one.key for one in named if one.split == "test"]
        batches = predict_probabilities(
            outcome.head, outcome.backbone, self.settings.train.test_time_augmentation, workspace, keys
        )
        return keys, np.concatenate(list(batches))


def compare(folds: Folds, strategies: tuple[str, ...], repeats: int, sheet: Path | None) -> None:
    right: dict[str, list[dict[str, bool]]] = {}
    figures = {}
    print("| strategy | accuracy | over repeats | log loss | difference from feature_extraction | seconds |")
    print("|---|---:|---:|---:|---:|---:|")
    for strategy in strategies:
        start = time.perf_counter()
        measured = [folds.measure(strategy, one) for one in range(repeats if strategy == "feature_extraction" else 1)]
        right[strategy] = [found for found, _ in measured]
        figures[strategy] = {
            **summary(measured),
            "seconds": round(time.perf_counter() - start, 1),
            **beside(right, strategy),
        }
        show(strategy, figures[strategy])
        if sheet and strategy == "feature_extraction":
            repeated = right[strategy]
            draw_sheet(sheet, folds, [key for key in repeated[0] if not any(one[key] for one in repeated)])
    print(json.dumps(figures))


def draw_sheet(file: Path, folds: Folds, keys: list[str]) -> None:
    """Some images, 6 in a row, each above its label."""
    side, line, across = 160, 22, 6
    keys = sorted(keys, key=lambda key: (folds.labels[key], key))
    sheet = Image.new("RGB", (across * side, math.ceil(len(keys) / across) * (side + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, pixels in enumerate(open_shards(Workspace.at(folds.workspace).shards).read(keys)):
        x, y = number % across * side, number // across * (side + line)
        sheet.paste(Image.fromarray(pixels).resize((side - 4, side - 4)), (x + 2, y + 2))
        draw.text((x + 4, y + side), folds.classes[folds.labels[keys[number]]], "black", font_size=14)
    sheet.save(file)


def summary(measured):
    """Mean accuracy, its values over repeats, the mean log loss, and how many images no repeat predicts correctly."""
    answered = [found for found, _ in measured]
    accuracies = [float(np.mean(list(found.values()))) for found in answered]
    return {
        "accuracy": round(float(np.mean(accuracies)), 4),
        "accuracies": [round(one, 4) for one in accuracies],
        "log_loss": round(float(np.mean([losses for _, losses in measured])), 4),
        "never_right": sum(not any(found[key] for found in answered) for key in answered[0]),
    }


def learning_curve(folds: Folds, repeats: int) -> None:
    """Measure how feature extraction improves with more images: it learns from a rising share of the other folds."""
    figures = {}
    print("| share of the other folds | images | accuracy | over repeats | log loss |")
    print("|---|---:|---:|---:|---:|")
    for part in range(1, SHARES + 1):
        share = part / SHARES
        one = summary([folds.measure("feature_extraction", repeat, share) for repeat in range(repeats)])
        figures[share] = one
        images = len(folds.examples) * (FOLDS - 1) / FOLDS * share
        spread = f"{np.std(one['accuracies'], ddof=1):.4f}" if repeats > 1 else ""
        row = f"| {share:.0%} | {images:.0f} | {one['accuracy']:.4f} | {spread} | {one['log_loss']:.4f} |"
        print(row, flush=True)
    print(json.dumps(figures))


def beside(right, strategy):
    """Mean paired difference from feature extraction on its first folds, and the 95 % interval over images."""
    if strategy == "feature_extraction" or "feature_extraction" not in right:
        return {}
    ours, theirs = right[strategy][0], right["feature_extraction"][0]
    differences = np.array([float(ours[key]) - float(theirs[key]) for key in ours])
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    return {"difference": round(float(differences.mean()), 4), "half_interval": round(float(half), 4)}


def show(strategy, one) -> None:
    spread = f"{np.std(one['accuracies'], ddof=1):.4f}" if len(one["accuracies"]) > 1 else ""
    paired = f"{one['difference']:+.4f} ± {one['half_interval']:.4f}" if "difference" in one else ""
    row = f"| {strategy} | {one['accuracy']:.4f} | {spread} | {one['log_loss']:.4f} | {paired} | {one['seconds']:.0f} |"
    print(row, flush=True)


if __name__ == "__main__":
    main()
