"""How often does drift raise a false alarm, and how often is a change found? On images of the last run in this folder.

    python -m benchmarks.drift [--other FOLDER ...]

FOLDER is another folder with a finished run, such as one of flowers. Half of the held-out images, drawn anew each time,
are the reference; new are some of the other half (false alarms), their darker copies, digits, and the other folders'
images. Printed is the share of alarms among 200 comparisons for each number of new images, and the error of the
estimated accuracy on worse copies.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.foreign import digits
from tasks.images.corruptions import KINDS, STRENGTHS, corrupt
from tasks.images.manifest import Example, read_examples
from tasks.images.shards import open_shards
from tasks.parallel import one_blas_thread
from tasks.scores import Floats, predict
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.engines import Pixels, build_extractor
from tasks.vgg.foreign_features import POOLING
from tasks.vgg.head import pool
from tasks.vgg.inference import BATCH, features_engine
from tasks.vgg.trained_model import Trained, load_trained
from tasks.vgg.weights import load_weights
from tasks.watching.drift import Sample, certainty, compare_samples, estimate_accuracy
from tasks.workspace import Workspace

NUMBERS = (10, 30, 100, 300, 1000)
TRIALS, COPIED, DIGITS = 200, 25, 1000


@one_blas_thread()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, action="append", default=[], help="folder with another run")
    others: list[Path] = parser.parse_args().other
    workspace = Workspace.at(Path.cwd())
    model = load_trained(workspace.trained / "feature_extraction")
    test = [one for one in read_examples(workspace.prepared) if one.split == "test"]
    known = look(model, stored(workspace, test))
    new = {"the same": None, "darker": look(model, compute(workspace, darker(workspace, test)))}
    new["digits"] = look(model, compute(workspace, list(digits(DIGITS))))
    for folder in others:
        other = Workspace.at(folder)
        new[folder.name] = look(model, stored(other, read_examples(other.prepared)))
    print("| new images |", " | ".join(f"n = {n}" for n in NUMBERS), "|")
    print("|---|" + "---:|" * len(NUMBERS))
    for name, images in new.items():
        print(f"| {name} |", " | ".join(alarms(known, images, n, model.classes) for n in NUMBERS), "|", flush=True)
    labels = np.array([model.classes.index(one.label) for one in test])
    print_errors(workspace, model, test, known.probabilities, predict(known.probabilities) == labels, labels)


def look(model: Trained, features: Floats) -> Sample:
    """Features (n, 7, 7, 512) as the model sees them."""
    return Sample(model.head.probabilities(features), pool(features, POOLING))


def stored(workspace: Workspace, examples: Sequence[Example]) -> Floats:
    found: Floats = open_shards(workspace.features / BOTTLENECK).read([one.key for one in examples])
    return found.astype(np.float32)


def compute(workspace: Workspace, images: Sequence[Pixels]) -> Floats:
    extract = build_extractor(features_engine(workspace), load_weights(), (BOTTLENECK,), BATCH)
    parts = [np.stack(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(extract(part)[0], np.float32) for part in parts])


def darker(workspace: Workspace, examples: Sequence[Example]) -> list[Pixels]:
    return worse(workspace, examples, "darker", 2)


def worse(workspace: Workspace, examples: Sequence[Example], kind: str, strength: int) -> list[Pixels]:
    pixels = open_shards(workspace.shards).read([one.key for one in examples])
    return [corrupt(image, kind, strength, one.key) for image, one in zip(pixels, examples, strict=True)]


def alarms(known: Sample, images: Sample | None, n: int, classes: Sequence[str]) -> str:
    """The share of comparisons with an alarm; `-` if there are too few images."""
    half = len(known.features) // 2
    if n > (half if images is None else len(images.features)):
        return "-"
    found = 0
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(known.features))
        if images is None:
            new = take(known, order[half : half + n])
        else:
            new = take(images, rng.permutation(len(images.features))[:n])
        found += compare_samples(take(known, order[:half]), new, classes, seed)["alarm"]
    return f"{found / TRIALS:.3f}"


def take(sample: Sample, places: np.ndarray) -> Sample:
    return Sample(sample.probabilities[places], sample.features[places])


def print_errors(
    workspace: Workspace,
    model: Trained,
    test: Sequence[Example],
    known: Floats,
    hits: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Estimated and true accuracy on worse copies, by three ways to estimate it."""
    chosen = np.random.default_rng(0).permutation(len(test))[:COPIED]
    some = [test[place] for place in chosen]
    errors = []
    for kind in KINDS:
        for strength in STRENGTHS:
            copies = look(model, compute(workspace, worse(workspace, some, kind, strength))).probabilities
            true = float((predict(copies) == labels[chosen]).mean())
            confident = copies.max(axis=1).mean()
            shifted = hits.mean() - known.max(axis=1).mean() + confident
            errors.append([estimate_accuracy(known, hits, copies) - true, confident - true, shifted - true])
    for name, column in zip(("threshold", "confidence", "difference"), np.array(errors).T, strict=True):
        print(f"{name}: mean error {column.mean():+.3f}, mean absolute error {np.abs(column).mean():.3f}")
    print(f"{len(errors)} kinds of worse copies, {len(some)} images, certainty {certainty(known).mean():.2f} nats")


if __name__ == "__main__":
    main()
