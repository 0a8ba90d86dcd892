"""The map of the images that `evaluate` writes: all of them, or a sample with all mistakes.

Features and pixels are read in batches, so the memory doesn't grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tasks.diagnosis import Champion
from tasks.images.manifest import SPLITS, Example
from tasks.images.shards import Shards, open_shards
from tasks.reports.map_page import MOST_POINTS, Point, render_map, thumbnail_sheet
from tasks.scores import predict
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.principal_components import principal_components, read_averages
from tasks.workspace import Workspace

_BATCH = 128


def draw_image_map(champion: Champion, examples: Sequence[Example], workspace: Workspace) -> str:
    """The page `reports/map.html`.

    Args:
        champion: with its predictions for the test images.
        examples: of all splits.
        workspace: with images and features.
    """
    points = _points(champion, examples)
    chosen = choose_examples(examples, {key for key, point in points.items() if _is_wrong(point)}, MOST_POINTS)
    keys = [example.key for example in chosen]
    positions, explained = principal_components(read_averages(open_shards(workspace.features / BOTTLENECK), keys))
    sheet = thumbnail_sheet(_batches(open_shards(workspace.shards), keys), len(keys))
    shown = [points[key] for key in keys]
    return render_map(shown, positions, explained, sheet, champion.model.classes, len(examples))


def choose_examples(examples: Sequence[Example], wrong: set[str], most: int) -> list[Example]:
    """At most so many, the wrong ones first, in the order given; keys are digests, so the least are a random sample."""
    if len(examples) <= most:
        return list(examples)
    chosen = {one.key for one in sorted(examples, key=lambda one: (one.key not in wrong, one.key))[:most]}
    return [example for example in examples if example.key in chosen]


def _points(champion: Champion, examples: Sequence[Example]) -> dict[str, Point]:
    """Key -> point; predictions are of models that did not learn from the image."""
    held_out, others = champion.model.held_out
    predictions = dict(zip(held_out, others, strict=True))
    predictions |= dict(zip((one.key for one in champion.examples), champion.probabilities, strict=True))
    number = {name: place for place, name in enumerate(champion.model.classes)}
    points = {}
    for example in examples:
        point = Point(example.path, number[example.label], SPLITS.index(example.split))
        row = predictions.get(example.key)
        if row is not None:
            best = int(predict(row[None])[0])
            point = Point(point.path, point.label, point.split, best, float(row[best]))
        points[example.key] = point
    return points


def _is_wrong(point: Point) -> bool:
    return point.predicted is not None and point.predicted != point.label


def _batches(images: Shards, keys: Sequence[str]) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(keys), _BATCH):
        yield images.read(keys[start : start + _BATCH])
