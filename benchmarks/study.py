"""All strategies, in both recipes, on folders of images, with several seeds: accuracy, calibration, shift and costs.

    python -m benchmarks.study WORK FOLDER... [--strategies all] [--recipes modern,tutorial] [--seeds 5]
                               [--shifted 100] [--minutes 10] [--set key=value]
    python -m benchmarks.study WORK

A piece is one strategy in one recipe with one seed on one folder. Its result is a line of WORK/results.jsonl. The
program ends after the first piece that is done when --minutes are over; the same command goes on where it was, also
after a kill, in the middle of a training. Without folders it prints the table of all results.

FOLDER holds train/<class>/* and a held-out val/ or test/. The seed draws the validation images from train, and
everything random in training. --shifted: test images whose darker, blurred, noisy, compressed, rotated and cropped
copies are predicted, too. All differences are paired, over images: a seed's difference is one value for each image,
its mean over seeds is what counts. Seconds are of the stage `train`; passes are images through all of VGG16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extraction import read_costs
from benchmarks.workspaces import make_workspace, run
from tasks.params import change_settings, parse_changes
from tasks.settings import STRATEGIES

RECIPES = ("modern", "tutorial")
STRENGTH, BATCH = 2, 32
RESULTS = "results.jsonl"
FIRST = ("feature_extraction", "modern")
"""What the others are compared with."""


@dataclass(frozen=True)
class Piece:
    folder: str
    seed: int
    strategy: str
    recipe: str
    settings: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--strategies", default="all")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shifted", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--set", action="append", default=[], help="settings, as block.key=value")
    options = parser.parse_args()
    strategies = STRATEGIES if options.strategies == "all" else tuple(options.strategies.split(","))
    wanted = [
        Piece(str(folder.resolve()), seed, strategy, recipe, tuple(options.set))
        for seed in range(options.seeds)
        for folder in options.folders
        for recipe in options.recipes.split(",")
        for strategy in strategies
    ]
    options.work.mkdir(parents=True, exist_ok=True)
    results = options.work / RESULTS
    left = work_off(wanted, results, lambda piece: measure(piece, options.work, options.shifted), options.minutes * 60)
    print("\n".join(table(read_results(results))))
    if left:
        print(f"{left} pieces are left: run the same command again.")


def work_off(wanted: Sequence[Piece], results: Path, work: Callable[[Piece], dict[str, Any]], seconds: float) -> int:
    """Measure the pieces that have no result yet until the time is over; returns how many are left."""
    known = {piece for piece, _ in read_results(results)}
    left = [piece for piece in wanted if piece not in known]
    begun = time.monotonic()
    while left and time.monotonic() - begun < seconds:
        found = {"piece": asdict(left[0]), "result": work(left[0])}
        content = results.read_text() if results.exists() else ""
        whole = content[: content.rfind("\n") + 1]  # a kill may have cut the last line
        results.write_text(f"{whole}{json.dumps(found)}\n")
        left.pop(0)
    return len(left)


def read_results(path: Path) -> list[tuple[Piece, dict[str, Any]]]:
    """All pieces with a result; a line that a kill cut off is none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(Piece(**{**one["piece"], "settings": tuple(one["piece"]["settings"])}), one["result"]) for one in found]


def measure(piece: Piece, work: Path, shifted: int) -> dict[str, Any]:
    """Run the stages up to `train` and predict the test images, also their shifted copies."""
    workspace = work / Path(piece.folder).name
    if not workspace.exists():
        make_workspace(workspace)
    named = [
        f"source.uri={json.dumps(piece.folder)}",
        f"strategies=[{piece.strategy}]",
        f"train.recipe={piece.recipe}",
        f"train.seed={piece.seed}",
        f"prepare.split_seed={piece.seed}",
        *piece.settings,
    ]
    change_settings(workspace, parse_changes(named))
    for stage in ("ingest", "prepare", "features"):
        run(workspace, f"tasks.{stage}")
    run(workspace, "tasks.train", piece.strategy)
    print(f"  {piece.strategy}, {piece.recipe}, seed {piece.seed}: trained", flush=True)
    costs = read_costs(workspace, f"train@{piece.strategy}")
    return {"seconds": costs["seconds"], **predict_test(workspace, piece.strategy, shifted)}


def predict_test(workspace: Path, strategy: str, shifted: int) -> dict[str, Any]:
    """Which test images are right, their log losses and confidences; the same for shifted copies; passes; problem."""
    from tasks.images.corruptions import KINDS, corrupt
    from tasks.images.manifest import read_examples
    from tasks.images.shards import open_shards
    from tasks.scores import log_losses, predict
    from tasks.vgg.inference import pixels_predictor, predict_probabilities
    from tasks.vgg.trained_model import load_trained
    from tasks.workspace import Workspace

    at = Workspace.at(workspace)
    model = load_trained(at.trained / strategy)
    test = {one.key: model.classes.index(one.label) for one in read_examples(at.prepared) if one.split == "test"}
    keys = sorted(test)
    labels = np.array([test[key] for key in keys])
    parts = model.head, model.backbone, model.test_time_augmentation, at
    probabilities = np.concatenate(list(predict_probabilities(*parts, keys)))
    predictor, images, worse = pixels_predictor(*parts), open_shards(at.shards), {}
    chosen = keys[:shifted]  # keys are digests: a random sample
    for kind in KINDS if chosen else ():
        hits: list[int] = []
        for start in range(0, len(chosen), BATCH):
            some = chosen[start : start + BATCH]
            copies = [corrupt(one, kind, STRENGTH, key) for one, key in zip(images.read(some), some, strict=True)]
            hits += (predict(predictor(np.stack(copies))) == labels[start : start + len(some)]).astype(int).tolist()
        worse[kind] = hits
    return {
        "problem": model.problem,
        "passes": model.summary["network_passes"],
        "right": (predict(probabilities) == labels).astype(int).tolist(),
        "log_losses": log_losses(probabilities, labels).round(5).tolist(),
        "confidences": probabilities.max(axis=1).astype(float).round(5).tolist(),
        "shifted": worse,
    }


def table(results: Sequence[tuple[Piece, dict[str, Any]]]) -> Iterator[str]:
    """A row for each folder, recipe and strategy: means over its seeds, and what is paired with the first."""
    by_kind: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for piece, result in results:
        by_kind.setdefault((piece.folder, piece.settings, piece.recipe, piece.strategy), {})[piece.seed] = result
    yield (
        "| images | recipe | strategy | seeds | accuracy | difference | shifted | difference | log loss | difference |"
        " calibration error | train, s | passes |"
    )
    yield "|---|---|---|" + "---:|" * 10
    for (folder, settings, recipe, strategy), seeds in sorted(by_kind.items()):
        base = by_kind.get((folder, settings, FIRST[1], FIRST[0]), {})
        both = [seed for seed in seeds if seed in base] if (strategy, recipe) != FIRST else []
        cells = [Path(folder).name, " ".join((recipe, *settings)), strategy, str(len(seeds))]
        for values in (_right, _shifted, _losses):
            own = np.mean([values(one) for one in seeds.values()])
            pairs = [values(seeds[seed]) - values(base[seed]) for seed in both]
            cells += [f"{own:.3f}", paired(pairs)]
        cells += [f"{np.mean([calibration_error(one) for one in seeds.values()]):.3f}"]
        cells += [f"{np.mean([one[name] for one in seeds.values()]):.0f}" for name in ("seconds", "passes")]
        yield f"| {' | '.join(cells)} |"


def paired(pairs: Sequence[Any]) -> str:
    """Mean difference with its 95 % interval over images; empty without values."""
    if not pairs or not len(pairs[0]):
        return ""
    values = np.mean(pairs, axis=0)
    return f"{values.mean():+.3f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def calibration_error(one: dict[str, Any]) -> float:
    """Mean gap of confidence and accuracy over ten bins of as many images (expected calibration error)."""
    confidences, right = np.array(one["confidences"]), np.array(one["right"])
    bins = np.array_split(np.argsort(confidences, kind="stable"), 10)
    return float(sum(abs(confidences[rows].sum() - right[rows].sum()) for rows in bins) / len(right))


def _right(one: dict[str, Any]) -> Any:
    return np.array(one["right"], float)


def _losses(one: dict[str, Any]) -> Any:
    return np.array(one["log_losses"])


def _shifted(one: dict[str, Any]) -> Any:
    """The mean over the kinds of shift, for each image."""
    return np.mean(list(one["shifted"].values()), axis=0) if one["shifted"] else np.empty(0)


if __name__ == "__main__":
    main()
