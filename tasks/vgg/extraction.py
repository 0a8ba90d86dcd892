"""Makes folders of features hold the rows that they must hold; computes each missing row once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import fingerprint
from tasks.images import augmentation
from tasks.images.shards import Shards, Writer, open_shards, reconcile, usable_headers
from tasks.progress import Progress
from tasks.settings import Settings
from tasks.vgg.backbone import BOUNDARIES, boundary_shape
from tasks.vgg.boundaries import BOTTLENECK, RowsByFolder, boundary_of, holds_views
from tasks.vgg.engines import Engine, Halves, Pixels
from tasks.vgg.weights import Weights

_SHARD_BYTES = 64 << 20

Outputs = Iterator[tuple[str, tuple[Halves, ...]]]
Network = Callable[[Sequence[str], Iterable[tuple[str, Pixels]]], Outputs]


class Extraction:
    """Computes missing rows; counts the rows and the seconds.

    Args:
        settings: all.
        folder: `data/features`.
        base: everything that all rows depend on, in words that a report can show.
        images: the prepared ones.
        weights: of the network.
    """

    def __init__(
        self, settings: Settings, folder: Path, base: Mapping[str, Any], images: Shards, weights: Weights
    ) -> None:
        self._settings, self._folder, self._base = settings, folder, base
        self._images, self._weights = images, weights
        self._views = augmentation.AugmentedImages(images, settings.augmentation)
        self.extracted, self.seconds = 0, 0.0

    def read_images(self, keys: Sequence[str]) -> Pixels:
        """Prepared images (n, 224, 224, 3) uint8 RGB."""
        return self._images.read(keys)

    def recipe(self, engine: Engine) -> dict[str, Any]:
        """Everything that an engine's rows depend on except the image, in words that a report can show."""
        return {**self._base, **engine_recipe(engine)}

    def has_rows(self, engine: Engine, folder: str, keys: Collection[str] | None = None) -> bool:
        """Whether a folder holds rows by this engine: any, or some of these keys."""
        headers = usable_headers(self._folder / folder, self._mark(engine, folder))
        return any(keys is None or row["key"] in keys for header in headers for row in header.rows)

    def stored(self, folder: str, keys: Sequence[str]) -> Halves:
        """Features that a folder holds (n, h, w, c) float16."""
        return open_shards(self._folder / folder).read(keys)

    def compute(self, engine: Engine, keys: Sequence[str]) -> Halves:
        """Bottleneck features (n, h, w, c) float16 of some images; they are not stored."""
        return np.asarray([outputs[0] for _, outputs in self._network(engine)([BOTTLENECK], self._read(keys))])

    def bring(self, parts: Sequence[tuple[Engine, RowsByFolder]]) -> None:
        """Make every folder hold its rows; each part's engine computes the missing ones."""
        marks = [{name: self._mark(engine, name) for name in rows} for engine, rows in parts]
        missing = [
            {
                name: reconcile(
                    self._folder / name,
                    wanted,
                    own[name],
                    self._shard_size(name),
                    others=[other[name] for other in marks if other is not own],
                ).missing
                for name, wanted in rows.items()
            }
            for (_, rows), own in zip(parts, marks, strict=True)
        ]
        total, lacking = _count(rows for _, rows in parts), _count(missing)
        if not lacking:
            return
        start = time.monotonic()
        with Progress("features", total, "images", done=total - lacking) as progress:
            waiting = [
                (part[0], own, rows) for part, own, rows in zip(parts, marks, missing, strict=True) if _count([rows])
            ]
            followers = [engine for engine, _, _ in waiting[1:]]
            for (engine, own, rows), following in zip_longest(waiting, followers):
                self._extract(engine, following, own, rows, progress)
        self.extracted += lacking
        self.seconds += time.monotonic() - start

    def _extract(
        self,
        engine: Engine,
        following: Engine | None,
        marks: Mapping[str, str],
        missing: Mapping[str, Sequence[str]],
        progress: Progress,
    ) -> None:
        """Compute rows that lack the same boundaries together, up to the last boundary that they lack."""
        lacking: dict[str, list[str]] = defaultdict(list)
        for name in sorted(missing, key=lambda one: BOUNDARIES.index(boundary_of(one))):
            for row in missing[name]:
                lacking[row].append(name)
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for row, folders in lacking.items():
            groups[tuple(folders)].append(row)
        network = self._network(engine, following)
        for names, rows in groups.items():
            writers = [Writer(self._folder / name, marks[name], self._shard_size(name)) for name in names]
            boundaries = [boundary_of(name) for name in names]
            for row, outputs in network(boundaries, self._read(rows)):
                for writer, features in zip(writers, outputs, strict=True):
                    writer.add({"key": row}, features)
                progress.advance()
            for writer in writers:
                writer.close()

    def _read(self, rows: Sequence[str]) -> Iterator[tuple[str, Pixels]]:
        """Prepared images, and augmented views of them, with their rows, in order."""
        size = self._settings.features.batch_size
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield from zip(some, self._views.read(some), strict=True)

    def _network(self, engine: Engine, following: Engine | None = None) -> Network:
        """A function from images to features, in the same order; on this machine, or on a Ray cluster if set."""
        rules = self._settings.features
        if rules.distribute == "ray":
            from tasks.vgg.ray_extraction import extract_on_ray as extract
        else:
            from tasks.vgg.engines import extract_here

            extract = partial(extract_here, following=following)
        return lambda boundaries, images: extract(engine, self._weights, boundaries, images, rules.batch_size)

    def _mark(self, engine: Engine, folder: str) -> str:
        """The fingerprint of a folder's rows by an engine: everything that they depend on except the image."""
        views = augmentation.recipe(self._settings.augmentation) if holds_views(folder) else None
        return fingerprint({**self.recipe(engine), "boundary": boundary_of(folder), "views": views})

    def _shard_size(self, name: str) -> int:
        """Rows in a shard: as many as in the shards of images, or fewer if they would exceed `_SHARD_BYTES`."""
        most = max((len(header.rows) for header in self._images.headers), default=1)
        return max(1, min(most, _SHARD_BYTES // (2 * prod(boundary_shape(boundary_of(name))))))


def engine_recipe(engine: Engine) -> dict[str, Any]:
    """The part of a recipe that depends on the engine."""
    about = {"engine": engine.name, "precision": engine.precision}
    if not engine.ranges:
        return about
    from tasks.vgg.quantized import KERNEL_BITS  # imports onnx, which only int8 needs

    return {**about, "ranges_sha256": fingerprint(list(engine.ranges)), "kernel_bits": KERNEL_BITS}


def keep_images(rows: RowsByFolder, keys: Collection[str]) -> RowsByFolder:
    """The rows of these images, and of their views."""
    return {
        name: tuple(row for row in some if augmentation.parse_view_id(row)[0] in keys) for name, some in rows.items()
    }


def _count(folders: Iterable[Mapping[str, Sequence[str]]]) -> int:
    """The number of distinct rows; a row of several folders passes the network once."""
    return len({row for rows in folders for some in rows.values() for row in some})
