"""The examples of one split as training sees them: keys, class indices, and the shards that hold their features."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.files import read_json
from tasks.images.folds import assign_folds, number_groups
from tasks.images.manifest import Duplicate, Example, class_names
from tasks.images.shards import Shards, open_shards
from tasks.parallel import in_order, usable_cores
from tasks.settings import Train
from tasks.vgg.boundaries import BOTTLENECK, RECIPE, inputs_of
from tasks.vgg.head import Floats, Pooling, pool
from tasks.workspace import Workspace

FOLDS = 5
_ROWS, _THREADS = 16, 8
"""Examples that are pooled at once, and threads that pool; bilinear pooling needs some MB an example meanwhile."""
IN_MEMORY = 20_000
"""Up to so many pooled examples are in memory; more are in a file without a name, which the system caches as it can."""


@dataclass(frozen=True)
class Split:
    """Keys in the order of the shards, so that reading is sequential, and their class indices (n,) int32."""

    features: Shards
    keys: tuple[str, ...]
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.keys)

    def sample(self, most: int) -> Split:
        """At most so many examples, each class by its share, but at least one of each.

        Takes the smallest keys: they are content hashes, so this is random, and the same on every machine.
        """
        order = np.array(sorted(range(len(self)), key=lambda row: (self.labels[row], self.keys[row])))
        labels = self.labels[order]
        places = (np.arange(len(self)) - np.searchsorted(labels, labels)) / np.bincount(self.labels)[labels]
        rows = np.sort(order[np.argsort(places, kind="stable")[:most]])
        return Split(self.features, tuple(self.keys[row] for row in rows), self.labels[rows])

    def chunks(self) -> Iterator[tuple[str, ...]]:
        for start in range(0, len(self.keys), _ROWS):
            yield self.keys[start : start + _ROWS]


def sample_splits(splits: Sequence[Split], most: int) -> list[Split]:
    """The splits, or a sample of each if they have more examples together; no example moves to another split."""
    total = sum(len(split) for split in splits)
    return list(splits) if total <= most else [split.sample(most * len(split) // total) for split in splits]


def read_pooled(splits: Sequence[Split], pooling: Pooling) -> Floats:
    """All examples pooled (n, inputs), float32, one split after the other; the features are never all in memory."""
    return read_each(splits, lambda features: pool(features, pooling))


def read_each(splits: Sequence[Split], work: Callable[[npt.NDArray[Any]], Floats]) -> Floats:
    """What `work` makes of all examples, one split after the other; their features are never all in memory.

    Args:
        splits: with the examples.
        work: features (m, h, w, c) of some examples -> (m, ...), an array for each.
    """
    chunks = [(split.features, keys) for split in splits for keys in split.chunks()]
    row, pooled = 0, np.empty((0, 0), np.float32)
    cores = min(usable_cores(), _THREADS)
    with ThreadPoolExecutor(cores) as threads:
        begun = (threads.submit(work, features.read(keys)) for features, keys in chunks)
        for future in in_order(begun, cores + 1):
            part = future.result()
            if not row:  # allocated once: joining arrays would need the memory twice
                shape = (sum(len(split) for split in splits), *part.shape[1:])
                pooled = _new_array(shape, splits[0].features.headers[0].path.parent)
            pooled[row : row + len(part)] = part
            row += len(part)
    return pooled


def _new_array(shape: tuple[int, ...], folder: Path) -> Floats:
    """An array float32, in memory or in a file on the disk of the folder (/tmp may be in memory, too)."""
    if shape[0] <= IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:  # the array keeps it open
        return np.memmap(file, np.float32, "w+", shape=shape)


@dataclass(frozen=True)
class Material:
    """What one strategy is trained on.

    Attributes:
        strategy: its name.
        classes: names, in the order of the probabilities.
        train: the split to learn from, with bottleneck features.
        validation: the split to choose by.
        workspace: with images and features.
        kept: the recipe of the strategy's own features; its `kept` names the boundaries that training can start from.
        fold_of: key -> the fold of an example of train or validation; None: validation alone chooses.
        group_of: key -> the number of the example's group.
    """

    strategy: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    workspace: Workspace
    kept: dict[str, Any]
    fold_of: dict[str, int] | None
    group_of: dict[str, int]


def take_material(
    strategy: str, examples: Sequence[Example], duplicates: Sequence[Duplicate], workspace: Workspace, rules: Train
) -> Material:
    """What a strategy is trained on, if there are only these examples; those of test play no part.

    Raises:
        IntegrityError: an earlier stage's output is missing or damaged.
    """
    classes = class_names(examples)
    shards = open_shards(workspace.features / BOTTLENECK)
    train, validation = (make_split(examples, split, classes, shards) for split in ("train", "validation"))
    kept = read_json(workspace.features / inputs_of(strategy) / RECIPE)
    fold_of, group_of = draw_folds(examples, duplicates, rules), number_groups(examples, duplicates)
    return Material(strategy, classes, train, validation, workspace, kept, fold_of, group_of)


def make_split(examples: Sequence[Example], split: str, classes: Sequence[str], features: Shards) -> Split:
    """The examples of `train`, `validation` or `test`."""
    chosen = {example.key: classes.index(example.label) for example in examples if example.split == split}
    keys = features.order(chosen)
    return Split(features, tuple(keys), np.array([chosen[key] for key in keys], dtype=np.int32))


def draw_folds(examples: Sequence[Example], duplicates: Sequence[Duplicate], rules: Train) -> dict[str, int] | None:
    """Key -> the fold in which an example of train or validation is held out; those of test are left out.

    A class of very few images is held out in some folds or in none (see `assign_folds`, `partial`). None if there are
    many examples, or too few of every class for so many folds: then the validation split chooses.
    """
    used = [one for one in examples if one.split != "test"]
    if len(used) > rules.modern.folds_up_to:
        return None
    try:
        return assign_folds(used, duplicates, FOLDS, rules.seed, partial=True)
    except ValueError:
        return None
