"""Stage `features`: prepared images in, what the frozen VGG16 gives at the boundaries that training asks for out.

Reads `data/prepared/`. Writes `data/features/`, shards with one row for each image or view, 16 bit:
- `block5_pool/`: the bottleneck features of all images, and `recipe.json`, what all rows depend on;
- `for/<strategy>/`: what that strategy alone reads, lower boundaries (`block4_pool/`) and views (`block4_pool.views/`),
  and `recipe.json`, which names the boundaries that training starts from.
Rows of before are kept as long as their image is accepted and
nothing that they depend on has changed.

An image's features are computed once: from several boundaries in one pass, and never again in training.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import fingerprint, read_json, sync_file, write_json
from tasks.images import augmentation
from tasks.images.manifest import Example, read_examples
from tasks.images.shards import Shards, Writer, open_shards, reconcile, usable_headers
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.settings import Features, Settings
from tasks.vgg.backbone import BOUNDARIES, boundary_shape, check_preprocessing
from tasks.vgg.boundaries import (
    BOTTLENECK,
    RECIPE,
    Decision,
    Rates,
    RowsByFolder,
    boundary_of,
    candidates,
    decide,
    folder_of,
    holds_views,
    inputs_of,
    wanted_rows,
)
from tasks.vgg.calibration import CHECKED, Calibration, calibrate, check, load_calibration, save_calibration
from tasks.vgg.calibration import FILE as CALIBRATION
from tasks.vgg.engines import Engine, Halves, Pixels, choose_engine, has_fast_int8, measure_rate
from tasks.vgg.head import pool
from tasks.vgg.weights import SHA256, Weights, load_weights
from tasks.workspace import Workspace

_VERSION = 2
_SHARD_BYTES = 64 << 20
_PROBE_BYTES = 32 << 20
_WORTH_CHECKING = 2_000
"""Training rows to be computed for which `auto` looks at int8: it saves some 30 ms each, looking costs 30 s."""

Outputs = Iterator[tuple[str, tuple[Halves, ...]]]
Network = Callable[[Sequence[str], Iterable[tuple[str, Pixels]]], Outputs]


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
        return f"{self.extracted} images and views extracted{rate}, {self.reused} reused{also}"


@dataclass(frozen=True)
class _Part:
    """Rows of each folder that one engine computes, and all that they depend on but the image, in words."""

    engine: Engine
    recipe: dict[str, Any]
    cells: RowsByFolder


def run(settings: Settings, workspace: Workspace) -> Summary:
    """Bring `data/features` in line with `data/prepared`.

    Raises:
        WeightsError: the weights are missing or are not the published ones; before anything is computed.
        IntegrityError: a shard of images doesn't hold the bytes that were written.
    """
    check_preprocessing()
    weights = load_weights()
    examples = read_examples(workspace.prepared)
    images = open_shards(workspace.shards)
    place = {key: number for number, key in enumerate(images.order({example.key for example in examples}))}
    examples.sort(key=lambda example: place[example.key])
    base = _base(read_json(workspace.prepared / "summary.json")["fingerprint"])
    engine = choose_engine(settings.features, weights)
    recipe = base | _about(engine)
    folder = workspace.features
    calibration = _calibration(settings.features, folder, base, examples, images, weights)

    quick = calibration.engine if calibration else engine
    decisions = _decide(settings, examples, folder, quick, weights, base | _about(quick))
    kept = [(decision.strategy, decision.boundary) for decision in decisions if decision.kept]
    cells = wanted_rows(examples, settings, kept)
    _drop_others(folder, cells, settings.strategies)
    held_out = _Part(engine, recipe, _choose(cells, {one.key for one in examples if one.split != "train"}))
    work = _Work(settings, folder, images, weights)
    if calibration is None and _is_worth_checking(settings, engine, folder, examples, cells, recipe):
        work.bring([held_out])
        calibration = _check(examples, work)
    if calibration is None:
        (folder / BOTTLENECK / CALIBRATION).unlink(missing_ok=True)
        work.bring([_Part(engine, recipe, cells)])
    else:
        recipe = recipe | {f"training_{name}": value for name, value in _about(calibration.engine).items()}
        save_calibration(folder / BOTTLENECK, calibration, fingerprint(base))
        train = _choose(cells, {one.key for one in examples if one.split == "train"})
        quick = calibration.engine
        work.bring([held_out, _Part(quick, base | _about(quick), train)])
    write_json(folder / BOTTLENECK / RECIPE, recipe)
    for strategy in settings.strategies:
        boundaries = [boundary for name, boundary in kept if name == strategy]
        about = {**recipe, "augmentation": augmentation.recipe(settings.augmentation), "kept": boundaries}
        write_json(folder / inputs_of(strategy) / RECIPE, about)
    total = len({row for rows in cells.values() for row in rows})
    by = f"{engine}, training images by {quick}" if calibration else str(engine)
    rate = work.extracted / work.seconds if work.extracted else 0.0
    return Summary(work.extracted, total - work.extracted, round(rate, 2), by, tuple(boundary for _, boundary in kept))


class _Work:
    """Computes rows that are missing, and counts them and the seconds that they took."""

    def __init__(self, settings: Settings, folder: Path, images: Shards, weights: Weights) -> None:
        self.settings, self.folder, self.images, self.weights = settings, folder, images, weights
        self.extracted, self.seconds = 0, 0.0

    def read(self, row: str) -> Pixels:
        """A prepared image, or a view of it."""
        key, number = augmentation.parse_view_id(row)
        return augmentation.make_view(self.images.read([key])[0], key, number, self.settings.augmentation)

    def bring(self, parts: Sequence[_Part]) -> None:
        """Bring every folder in line: each part's rows, by its engine."""
        marks = [{name: _mark(part.recipe, name, self.settings) for name in part.cells} for part in parts]
        missing = [
            {
                name: reconcile(
                    self.folder / name,
                    rows,
                    mine[name],
                    self._shard_size(name),
                    others=[other[name] for other in marks if other is not mine],
                ).missing
                for name, rows in part.cells.items()
            }
            for part, mine in zip(parts, marks, strict=True)
        ]
        total = len({row for part in parts for rows in part.cells.values() for row in rows})
        lacking = len({row for folders in missing for rows in folders.values() for row in rows})
        if not lacking:
            return
        start = time.monotonic()
        with Progress("features", total, "images", done=total - lacking) as progress:
            for part, mine, rows in zip(parts, marks, missing, strict=True):
                self._extract(part.engine, mine, rows, progress)
        self.extracted += lacking
        self.seconds += time.monotonic() - start

    def _extract(
        self, engine: Engine, marks: Mapping[str, str], missing: Mapping[str, Sequence[str]], progress: Progress
    ) -> None:
        """Rows that lack the same boundaries go through the network together, up to the last one that is lacking."""
        lacking: dict[str, list[str]] = defaultdict(list)
        for name in sorted(missing, key=lambda one: BOUNDARIES.index(boundary_of(one))):
            for row in missing[name]:
                lacking[row].append(name)
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for row, folders in lacking.items():
            groups[tuple(folders)].append(row)
        network = _network(self.settings.features, engine, self.weights)
        for names, rows in groups.items():
            writers = [Writer(self.folder / name, marks[name], self._shard_size(name)) for name in names]
            boundaries = [boundary_of(name) for name in names]
            for row, outputs in network(boundaries, ((row, self.read(row)) for row in rows)):
                for writer, features in zip(writers, outputs, strict=True):
                    writer.add({"key": row}, features)
                progress.advance()
            for writer in writers:
                writer.close()

    def _shard_size(self, name: str) -> int:
        """Rows a shard: as many as the shards of images have, but no more bytes than are easily held in memory."""
        most = max((len(header.rows) for header in self.images.headers), default=1)
        return max(1, min(most, _SHARD_BYTES // (2 * prod(boundary_shape(boundary_of(name))))))


def _choose(cells: RowsByFolder, keys: Collection[str]) -> RowsByFolder:
    """The rows of these images, and of their views."""
    return {
        name: tuple(row for row in rows if augmentation.parse_view_id(row)[0] in keys) for name, rows in cells.items()
    }


def _calibration(
    wanted: Features,
    folder: Path,
    base: Mapping[str, Any],
    examples: Sequence[Example],
    images: Shards,
    weights: Weights,
) -> Calibration | None:
    """How training images go through the network in int8: as before, or as is asked for now."""
    if wanted.precision not in ("auto", "int8"):
        return None
    before = load_calibration(folder / BOTTLENECK, fingerprint(base))
    if before or wanted.precision == "auto":
        return before
    return calibrate(weights, [one.key for one in examples if one.split == "train"], images.read)


def _is_worth_checking(
    settings: Settings,
    engine: Engine,
    folder: Path,
    examples: Sequence[Example],
    cells: RowsByFolder,
    recipe: Mapping[str, Any],
) -> bool:
    """Whether `auto` looks at int8: where it is fast, much is to be computed, and no training image has been yet."""
    if settings.features.precision != "auto" or engine.name != "ncnn" or not has_fast_int8():
        return False
    train = {one.key for one in examples if one.split == "train"}
    there = usable_headers(folder / BOTTLENECK, _mark(recipe, BOTTLENECK, settings))
    if any(row["key"] in train for header in there for row in header.rows):
        return False
    return len({row for rows in _choose(cells, train).values() for row in rows}) >= _WORTH_CHECKING


def _check(examples: Sequence[Example], work: _Work) -> Calibration | None:
    """A new calibration, if validation sees no loss by it; says what it saw."""
    calibration = calibrate(work.weights, [one.key for one in examples if one.split == "train"], work.images.read)
    chosen = sorted((one for one in examples if one.split == "validation"), key=lambda one: one.key)[:CHECKED]
    keys = [one.key for one in chosen]
    extract = _network(work.settings.features, calibration.engine, work.weights)
    quantized = [outputs[0] for _, outputs in extract([BOTTLENECK], ((key, work.read(key)) for key in keys))]
    plain = open_shards(work.folder / BOTTLENECK).read(keys)
    pooled = (pool(plain, "average_maximum"), pool(np.asarray(quantized), "average_maximum"))
    verdict = check(*pooled, [one.label for one in chosen])
    print(f"features: int8 for training images: {'yes' if verdict.passed else 'no'}, {verdict.reason}", flush=True)
    return calibration if verdict.passed else None


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
    """Images in, features out, in the same order: on this machine, or over a Ray cluster when asked."""
    if rules.distribute == "ray":
        from tasks.vgg.cluster import extract_on_ray as extract
    else:
        from tasks.vgg.engines import extract_here as extract

    return lambda boundaries, images: extract(engine, weights, boundaries, images, rules.batch_size)


def _drop_others(folder: Path, cells: Mapping[str, Sequence[str]], strategies: Sequence[str]) -> None:
    """Remove the folders that nothing asks for any more."""
    wanted = {folder / name for name in (*cells, *map(inputs_of, strategies))}
    wanted |= {parent for path in wanted for parent in path.parents}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and path not in wanted:
            shutil.rmtree(path, ignore_errors=True)


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
    """The fingerprint of a folder's rows: all that they depend on but the image."""
    rules = augmentation.recipe(settings.augmentation) if holds_views(name) else None
    return fingerprint({**recipe, "boundary": boundary_of(name), "views": rules})


def _base(decoder: str) -> dict[str, Any]:
    """What all features depend on, in words that a report can show."""
    return {"version": _VERSION, "decoder": decoder, "weights_sha256": SHA256}


def _about(engine: Engine) -> dict[str, Any]:
    about = {"engine": engine.name, "precision": engine.precision}
    if not engine.ranges:
        return about
    from tasks.vgg.quantized import KERNEL_BITS  # imports onnx, which only int8 needs

    return {**about, "ranges_sha256": fingerprint(list(engine.ranges)), "kernel_bits": KERNEL_BITS}


def main() -> int:
    return run_stage("features", run)


if __name__ == "__main__":
    raise SystemExit(main())
