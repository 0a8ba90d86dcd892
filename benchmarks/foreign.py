"""How well each score tells foreign images: each class held out in turn (near), and other images (far).

    python -m benchmarks.foreign [--far FOLDER]

Reads the prepared images and features of the last run in this folder. Far are the images that are drawn for the choice
of a score, 60 handwritten digits, and up to 150 images of another folder. Printed is the AUROC of each score with its
95 % confidence interval, and the share of the test images that is called foreign at the threshold for 5 %.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.images.decoding import PERMISSIVE, decode
from tasks.images.folds import number_groups
from tasks.images.manifest import class_names, read_duplicates, read_examples
from tasks.images.reason_codes import Refused
from tasks.images.sources.digits import list_digits
from tasks.parallel import one_blas_thread
from tasks.reports.foreign import WORDS, keep_threshold, measure_far, measure_near, share_above, with_interval
from tasks.scores import Floats
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.engines import Pixels, build_extractor
from tasks.vgg.far_images import draw_far_images
from tasks.vgg.foreign import SCORES
from tasks.vgg.foreign_features import POOLING, pool_known
from tasks.vgg.foreign_trials import try_scores
from tasks.vgg.head import pool
from tasks.vgg.inference import BATCH, features_engine
from tasks.vgg.weights import load_weights
from tasks.workspace import Workspace

DIGITS, MOST = 60, 150


@one_blas_thread()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--far", type=Path, action="append", default=[], help="folder with images of another kind")
    far_folders: list[Path] = parser.parse_args().far
    workspace = Workspace.at(Path.cwd())
    examples = read_examples(workspace.prepared)
    classes, group_of = class_names(examples), number_groups(examples, read_duplicates(workspace.prepared))
    used, test = ([one for one in examples if (one.split == "test") == is_test] for is_test in (False, True))
    known, tested = (pool_known({}, workspace, [one.key for one in some]) for some in (used, test))
    labels = np.array([classes.index(one.label) for one in used])
    groups, test_groups = (np.array([group_of[one.key] for one in some]) for some in (used, test))
    far: dict[str, Iterable[Pixels]] = {"drawn": draw_far_images(), "digits": digits()}
    far |= {folder.name: images_in(folder) for folder in far_folders}
    pooled = {name: compute(workspace, list(images)) for name, images in far.items()}
    start = time.process_time()
    trials = try_scores(known, labels, groups, pooled["drawn"])
    seconds = time.process_time() - start
    print(f"{len(used)} images, {len(trials.near)} classes held out, {seconds:.1f} CPU s\n")
    columns = [*classes, *(f"far: {name}" for name in pooled), "test images called foreign"]
    print("| score | near |", " | ".join(columns), "|")
    print("|---|---:|" + "---:|" * len(columns))
    for name, score in SCORES.items():
        held_out = [(one.label, one.rows, one.foreign, one.scores[name]) for one in trials.near if name in one.scores]
        near, each = measure_near(held_out, groups)
        true, arrays = trials.out_of_fold[name], trials.fitted[name]
        measured = [measure_far(true, score.score(arrays, images), groups) for images in pooled.values()]
        lost = share_above(score.score(arrays, tested), keep_threshold(true), test_groups)
        alone = [f"{each[label]:.3f}" if label in each else "-" for label in range(len(classes))]
        cells = [show(with_interval(near, groups)), *alone, *map(show, measured), show(lost)]
        print(f"| {WORDS[name]} |", " | ".join(cells), "|", flush=True)


def show(measured: dict[str, Any]) -> str:
    low, high = measured["ci95"] or (None, None)
    return "-" if measured["value"] is None else f"{measured['value']:.3f} ({low:.3f} to {high:.3f})"


def digits(count: int = DIGITS) -> Iterator[Pixels]:
    """As many of each digit, enlarged."""
    for image in list_digits(count // 10).images:
        with Image.open(io.BytesIO(image.read())) as digit:
            yield np.asarray(digit.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def images_in(folder: Path) -> Iterator[Pixels]:
    """Images of a folder as the pipeline decodes them, evenly from all of its files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files[:: max(1, len(files) // MOST)]:
        with suppress(Refused):
            yield decode(file.read_bytes(), PERMISSIVE, (255, 255, 255))[0]


def compute(workspace: Workspace, images: Sequence[Pixels]) -> Floats:
    """Their pooled features (n, 1024)."""
    extract = build_extractor(features_engine(workspace), load_weights(), (BOTTLENECK,), BATCH)
    parts = [np.stack(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate([pool(extract(part)[0], POOLING) for part in parts])


if __name__ == "__main__":
    main()
