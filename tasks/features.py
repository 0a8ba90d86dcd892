"""Stage `features`: prepared images in, outputs of the frozen VGG16 at the boundaries that training needs out.

Reads `data/prepared/`. Writes `data/features/`, shards in 16 bit with one row for each image or augmented view:
- `block5_pool/`: the bottleneck features of all images, and `recipe.json`, everything that the rows depend on;
- `for/<strategy>/`: features for this strategy alone, at lower boundaries (`block4_pool/`) and of augmented views
  (`block4_pool.views/`), and `recipe.json` with the boundaries that training starts from.
Rows of earlier runs stay as long as their image is accepted and nothing that they depend on has changed.

An image goes through the network once, for all boundaries together, and never again in training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.files import read_json, write_json
from tasks.images import augmentation
from tasks.images.manifest import Example, read_duplicates, read_examples
from tasks.images.shards import open_shards
from tasks.program import run_stage
from tasks.settings import Settings
from tasks.vgg.backbone import check_preprocessing
from tasks.vgg.boundaries import (
    BOTTLENECK,
    RECIPE,
    Decision,
    RowsByFolder,
    candidates,
    folder_of,
    inputs_of,
    wanted_rows,
)
from tasks.vgg.engine_choice import Engines, check_int8, choose_engines, decide_boundary, keep_calibration
from tasks.vgg.engines import Engine
from tasks.vgg.extraction import Extraction, engine_recipe, keep_images
from tasks.vgg.weights import SHA256, Weights, load_weights
from tasks.workspace import Workspace

_VERSION = 2


@dataclass(frozen=True)
class Summary:
    extracted: int
    reused: int
    images_per_s: float
    engine: str
    kept: tuple[str, ...]

    def __str__(self) -> str:
        rate = f" at {self.images_per_s:.1f} images/s by {self.engine}" if self.extracted else ""
        also = f"; training starts from {', '.join(self.kept)}" if self.kept else ""
        return f"{self.extracted} images and augmented views extracted{rate}, {self.reused} reused{also}"


def run(settings: Settings, workspace: Workspace) -> Summary:
    """Bring `data/features` in line with `data/prepared`.

    Raises:
        WeightsError: the weights are missing or are not the published ones; raised before anything is computed.
        IntegrityError: a shard of images doesn't hold the bytes that were written.
    """
    check_preprocessing()
    weights = load_weights()
    examples = read_examples(workspace.prepared)
    images = open_shards(workspace.shards)
    place = {key: number for number, key in enumerate(images.order({example.key for example in examples}))}
    examples.sort(key=lambda example: place[example.key])
    decoder = read_json(workspace.prepared / "summary.json")["fingerprint"]
    base = {"version": _VERSION, "decoder": decoder, "weights_sha256": SHA256}
    extraction = Extraction(settings, workspace.features, base, images, weights)

    engines = choose_engines(settings.features, weights, workspace, base, examples, extraction)
    decisions = _decide(settings, workspace, examples, engines, weights, extraction)
    kept = [(decision.strategy, decision.boundary) for decision in decisions if decision.kept]
    rows = wanted_rows(examples, settings, kept)
    _drop_others(workspace.features, rows, settings.strategies)
    duplicates = read_duplicates(workspace.prepared)
    engines = check_int8(engines, settings, workspace, weights, examples, duplicates, rows, extraction)
    keep_calibration(engines, workspace, base)
    extraction.bring(_parts(engines, rows, examples))

    recipe = extraction.recipe(engines.evaluated)
    if engines.training != engines.evaluated:
        recipe |= {f"training_{name}": value for name, value in engine_recipe(engines.training).items()}
    write_json(workspace.features / BOTTLENECK / RECIPE, recipe)
    for strategy in settings.strategies:
        boundaries = [boundary for name, boundary in kept if name == strategy]
        about = {**recipe, "augmentation": augmentation.recipe(settings.augmentation), "kept": boundaries}
        write_json(workspace.features / inputs_of(strategy) / RECIPE, about)
    total = len({row for some in rows.values() for row in some})
    rate = extraction.extracted / extraction.seconds if extraction.extracted else 0.0
    starts = tuple(boundary for _, boundary in kept)
    return Summary(extraction.extracted, total - extraction.extracted, round(rate, 2), str(engines), starts)


def _decide(
    settings: Settings, workspace: Workspace, examples: Sequence[Example], engines: Engines, weights: Weights,
    extraction: Extraction,
) -> list[Decision]:  # fmt: skip
    """Decide which boundaries training starts from, and print why. Boundaries that are there already stay."""
    asked = candidates(settings)
    if not asked:
        return []
    train, validation = (sum(one.split == split for one in examples) for split in ("train", "validation"))
    workspace.features.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(workspace.features).free
    room = min(settings.features.boundary_cache_gb * 1e9, 0.9 * free_bytes)
    decisions = []
    for (strategy, boundary), phases in asked.items():
        name = folder_of(strategy, boundary, views=any(phase.views for phase in phases))
        if settings.features.boundary_cache == "auto" and extraction.has_rows(engines.training, name):
            decisions.append(Decision(strategy, boundary, True, "it is there already"))
            continue
        named = (strategy, boundary, phases, train, validation, room)
        decisions.append(decide_boundary(settings, workspace, engines.training, weights, *named))
    for decision in decisions:
        verb = "starts" if decision.kept else "doesn't start"
        print(f"features: {decision.strategy} {verb} from kept {decision.boundary}: {decision.reason}", flush=True)
    return decisions


def _parts(engines: Engines, rows: RowsByFolder, examples: Sequence[Example]) -> list[tuple[Engine, RowsByFolder]]:
    """Each engine with the rows that it computes."""
    if engines.training == engines.evaluated:
        return [(engines.evaluated, rows)]
    train = {one.key for one in examples if one.split == "train"}
    others = {one.key for one in examples} - train
    return [(engines.evaluated, keep_images(rows, others)), (engines.training, keep_images(rows, train))]


def _drop_others(folder: Path, rows: Mapping[str, Sequence[str]], strategies: Sequence[str]) -> None:
    """Remove the folders that no strategy needs any more."""
    wanted = {folder / name for name in (*rows, *map(inputs_of, strategies))}
    wanted |= {parent for path in wanted for parent in path.parents}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and path not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    return run_stage("features", run)


if __name__ == "__main__":
    raise SystemExit(main())
