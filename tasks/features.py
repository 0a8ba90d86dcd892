"""Stage `features`: prepared pictures in, what the frozen VGG16 gives at the boundaries that training asks for out.

Reads `data/prepared/`. Writes `data/features/`, shards with one row for each picture or view, 16 bit:
- `block5_pool/`: the bottleneck features of all pictures, and `recipe.json`, what all rows depend on;
- `for/<strategy>/`: what that strategy alone reads, lower boundaries (`block4_pool/`) and views (`block4_pool.views/`),
  and `recipe.json`, which names the boundaries that training starts from.
Rows of before are kept as long as their picture is accepted and
nothing that they depend on has changed.

A picture's features are computed once: from several boundaries in one pass, and never again in training.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tasks import prepare
from tasks.files import fingerprint, read_json, sync_file, write_json
from tasks.pictures import views
from tasks.pictures.manifest import Example, read_examples
from tasks.pictures.shards import Shards, Writer, open_shards, reconcile, usable_headers
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.settings import Features, Settings
from tasks.vgg.backbone import BOUNDARIES, boundary_shape, check_preprocessing
from tasks.vgg.boundaries import (
    BOTTLENECK,
    Decision,
    Rates,
    boundary_of,
    candidates,
    decide,
    folder_of,
    holds_views,
    inputs_of,
    wanted_rows,
)
from tasks.vgg.engines import Engine, Halves, Pixels, choose_engine, measure_rate
from tasks.vgg.weights import SHA256, Weights, load_weights

FEATURES = "data/features"
BOUNDARY = BOTTLENECK
RECIPE = "recipe.json"
_VERSION = 2
_SHARD_BYTES = 64 << 20
_PROBE_BYTES = 32 << 20

Outputs = Iterator[tuple[str, tuple[Halves, ...]]]
Network = Callable[[Sequence[str], Iterable[tuple[str, Pixels]]], Outputs]


@dataclass(frozen=True)
class Summary:
    extracted: int
    reused: int
    pictures_per_s: float
    engine: str
    kept: tuple[str, ...]

    def __str__(self) -> str:
        rate = f" at {self.pictures_per_s:.1f} pictures/s by {self.engine}" if self.extracted else ""
        also = f"; training starts from {', '.join(self.kept)}" if self.kept else ""
        return f"{self.extracted} pictures and views extracted{rate}, {self.reused} reused{also}"


def run(settings: Settings, workspace: Path) -> Summary:
    """Bring `data/features` in line with `data/prepared`.

    Raises:
        WeightsError: the weights are missing or are not the published ones; before anything is computed.
        IntegrityError: a shard of pictures doesn't hold the bytes that were written.
    """
    check_preprocessing()
    weights = load_weights()
    examples = read_examples(workspace / prepare.PREPARED)
    pictures = open_shards(workspace / prepare.SHARDS)
    place = {key: number for number, key in enumerate(pictures.order({example.key for example in examples}))}
    examples.sort(key=lambda example: place[example.key])
    decoder = read_json(workspace / prepare.PREPARED / "summary.json")["fingerprint"]
    engine = choose_engine(settings.features, weights)
    recipe = _recipe(decoder, engine)

    folder = workspace / FEATURES
    decisions = _decide(settings, examples, folder, engine, weights, recipe)
    kept = [(decision.strategy, decision.boundary) for decision in decisions if decision.kept]
    cells = wanted_rows(examples, settings, kept)
    marks = {name: _mark(recipe, name, settings) for name in cells}
    _drop_others(folder, cells, settings.strategies)
    missing = {
        name: reconcile(folder / name, rows, marks[name], _shard_size(pictures, name)).missing
        for name, rows in cells.items()
    }
    network = _network(settings.features, engine, weights)
    extracted, rate = _extract(folder, _Pictures(pictures, settings.views), missing, marks, network, cells)
    write_json(folder / BOTTLENECK / RECIPE, recipe)
    for strategy in settings.strategies:
        boundaries = [boundary for name, boundary in kept if name == strategy]
        about = {**recipe, "views": views.recipe(settings.views), "kept": boundaries}
        write_json(folder / inputs_of(strategy) / RECIPE, about)
    total = len({row for rows in cells.values() for row in rows})
    return Summary(extracted, total - extracted, round(rate, 2), str(engine), tuple(boundary for _, boundary in kept))


@dataclass(frozen=True)
class _Pictures:
    """Prepared pictures, read by view id."""

    shards: Shards
    rules: Any

    def read(self, row: str) -> Pixels:
        key, number = views.parse_view_id(row)
        return views.make_view(self.shards.read([key])[0], key, number, self.rules)


def _extract(
    folder: Path,
    pictures: _Pictures,
    missing: Mapping[str, Sequence[str]],
    marks: Mapping[str, str],
    network: Network,
    cells: Mapping[str, Sequence[str]],
) -> tuple[int, float]:
    """Compute what is missing; gives the number of pictures and views, and how many of them a second.

    Rows that lack the same boundaries go through the network together, up to the last boundary that one of them lacks.
    """
    lacking: dict[str, list[str]] = defaultdict(list)
    for name in sorted(missing, key=lambda one: BOUNDARIES.index(boundary_of(one))):
        for row in missing[name]:
            lacking[row].append(name)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row, folders in lacking.items():
        groups[tuple(folders)].append(row)
    total = len({row for rows in cells.values() for row in rows})
    if not groups:
        return 0, 0.0
    with Progress("features", total, "pictures", done=total - len(lacking)) as progress:
        for names, rows in groups.items():
            writers = [Writer(folder / name, marks[name], _shard_size(pictures.shards, name)) for name in names]
            boundaries = [boundary_of(name) for name in names]
            for row, outputs in network(boundaries, ((row, pictures.read(row)) for row in rows)):
                for writer, features in zip(writers, outputs, strict=True):
                    writer.add({"key": row}, features)
                progress.advance()
            for writer in writers:
                writer.close()
        return len(lacking), progress.rate


def _decide(
    settings: Settings,
    examples: Sequence[Example],
    folder: Path,
    engine: Engine,
    weights: Weights,
    recipe: Mapping[str, Any],
) -> list[Decision]:
    """Which boundaries training is to start from; prints why. What is kept already stays."""
    asked = candidates(settings)
    if not asked:
        return []
    train, validation = (sum(one.split == split for one in examples) for split in ("train", "validation"))
    room = min(settings.features.boundary_cache_gb * 1e9, 0.9 * shutil.disk_usage(_existing(folder)).free)
    rates: Rates | None = None
    decisions = []
    for (strategy, boundary), phases in asked.items():
        wish = settings.features.boundary_cache
        name = folder_of(strategy, boundary, views=any(phase.views for phase in phases))
        if wish == "auto" and usable_headers(folder / name, _mark(recipe, name, settings)):
            decisions.append(Decision(strategy, boundary, True, "it is there already"))
            continue
        if rates is None:
            rates = Rates(measure_rate(engine, weights, settings.features.batch_size), _disk_rate(folder))
        decisions.append(decide(strategy, boundary, phases, train, validation, rates, room, wish))
    for decision in decisions:
        verb = "starts" if decision.kept else "doesn't start"
        print(f"features: {decision.strategy} {verb} from kept {decision.boundary}: {decision.reason}", flush=True)
    return decisions


def _network(rules: Features, engine: Engine, weights: Weights) -> Network:
    """Pictures in, features out, in the same order: on this machine, or over a Ray cluster when asked."""
    if rules.distribute == "ray":
        from tasks.vgg.cluster import extract_on_ray as extract
    else:
        from tasks.vgg.engines import extract_here as extract

    return lambda boundaries, pictures: extract(engine, weights, boundaries, pictures, rules.batch_size)


def _drop_others(folder: Path, cells: Mapping[str, Sequence[str]], strategies: Sequence[str]) -> None:
    """Remove the folders that nothing asks for any more."""
    wanted = {folder / name for name in (*cells, *map(inputs_of, strategies))}
    wanted |= {parent for path in wanted for parent in path.parents}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and path not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def _shard_size(pictures: Shards, name: str) -> int:
    """Rows a shard: as many as the shards of pictures have, but no more bytes than are easily held in memory."""
    most = max((len(header.rows) for header in pictures.headers), default=1)
    return max(1, min(most, _SHARD_BYTES // (2 * prod(boundary_shape(boundary_of(name))))))


def _disk_rate(folder: Path) -> float:
    """Bytes/s that the disk takes."""
    file = _existing(folder) / f".{os.getpid()}.partial"
    try:
        start = time.monotonic()
        file.write_bytes(bytes(_PROBE_BYTES))
        sync_file(file)
        return _PROBE_BYTES / (time.monotonic() - start)
    finally:
        with suppress(FileNotFoundError):
            file.unlink()


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mark(recipe: Mapping[str, Any], name: str, settings: Settings) -> str:
    """The fingerprint of a folder's rows: all that they depend on but the picture."""
    rules = views.recipe(settings.views) if holds_views(name) else None
    return fingerprint({**recipe, "boundary": boundary_of(name), "views": rules})


def _recipe(decoder: str, engine: Engine) -> dict[str, Any]:
    """All that the features depend on, in words that a report can show."""
    return {
        "version": _VERSION,
        "decoder": decoder,
        "weights_sha256": SHA256,
        "engine": engine.name,
        "precision": engine.precision,
    }


def main() -> int:
    return run_stage("features", run)


if __name__ == "__main__":
    raise SystemExit(main())
