"""The boundary cache: which outputs of the frozen network are cached, for which images, and whether that pays.

The bottleneck features (block5_pool) of all images are always cached: linear probes, heads and metrics need them.
Other inputs of training (lower boundaries, augmented views) are cached if that saves more time than it costs. Without
a cache, training computes them from the images in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from tasks.images.augmentation import MIRRORED, PLAIN, view_id
from tasks.images.manifest import Example
from tasks.settings import Settings
from tasks.vgg.backbone import BOUNDARIES, boundary_shape
from tasks.vgg.strategies import plan_phases
from tasks.vgg.strategies.base import Phase
from tasks.vgg.weights import BLOCKS

BOTTLENECK = BOUNDARIES[-1]
RECIPE = "recipe.json"
"""The file that names everything that the rows of a folder of features depend on."""
_BYTES = 2
"""Size of a 16-bit number."""
_VIEWS = ".views"
_WORTH_S = 5.0
"""A cache must save at least this many seconds to be worth its disk space."""

RowsByFolder = dict[str, tuple[str, ...]]
"""Folder below data/features -> the rows (view ids) that it must hold."""


@dataclass(frozen=True)
class Rates:
    """How fast this machine is.

    Attributes:
        images_per_s: through the whole network, by the engine that computes features.
        disk_bytes_per_s: to the disk.
        training_images_per_s: through the whole network, by TensorFlow, which trains.
        views_per_s: augmented views that are made from images.
    """

    images_per_s: float
    disk_bytes_per_s: float
    training_images_per_s: float
    views_per_s: float


@dataclass(frozen=True)
class Decision:
    """Whether the outputs of a strategy's frozen blocks are cached; why, in words; how many seconds that saves."""

    strategy: str
    boundary: str
    kept: bool
    reason: str
    saved_s: float = 0.0


def folder_of(strategy: str, boundary: str, views: bool) -> str:
    """The folder of features, below data/features.

    All strategies share the bottleneck features of the images without augmentation. Other features are in the folder
    of the strategy that reads them, so adding or removing a strategy changes nothing for the others.
    """
    if boundary == BOTTLENECK and not views:
        return BOTTLENECK
    return f"{inputs_of(strategy)}/{boundary}{_VIEWS if views else ''}"


def inputs_of(strategy: str) -> str:
    """The folder of the features that only this strategy reads, below data/features."""
    return f"for/{strategy}"


def boundary_of(folder: str) -> str:
    """The boundary whose features a folder holds."""
    return folder.rsplit("/", 1)[-1].removesuffix(_VIEWS)


def holds_views(folder: str) -> bool:
    """Whether a folder holds features of augmented views."""
    return folder.endswith(_VIEWS)


def share_below(boundary: str) -> float:
    """Share of the whole network's multiplications that lie below a boundary."""
    costs = _block_costs()
    return sum(costs[: BOUNDARIES.index(boundary) + 1]) / sum(costs)


def candidates(settings: Settings) -> dict[tuple[str, str], list[Phase]]:
    """(strategy, boundary) -> the phases of the strategy that could start from this boundary."""
    found: dict[tuple[str, str], list[Phase]] = {}
    for strategy in settings.strategies:
        for phase in plan_phases(strategy, settings.train, settings.augmentation):
            if phase.boundary:
                found.setdefault((strategy, phase.boundary), []).append(phase)
    return found


def decide(
    strategy: str, boundary: str, phases: Sequence[Phase], train: int, validation: int, rates: Rates, room_bytes: float,
    wish: Literal["auto", "always", "never"], trainings: int = 1,
) -> Decision:  # fmt: skip
    """Decide whether to cache a boundary's outputs: compare the cost (once) with the time saved over all epochs.

    Args:
        strategy: would read the cache.
        boundary: where training would start.
        phases: would start there.
        train: number of training images, not counting their augmented views.
        validation: number of images that are evaluated in every epoch.
        rates: of this machine.
        room_bytes: space that the disk and `features.boundary_cache_gb` leave.
        wish: `features.boundary_cache`.
        trainings: how often the strategy is trained on all images; `compare.folds` train it more often, on fewer.
    """
    epochs = trainings * sum(phase.epochs for phase in phases)
    views = max(phase.views for phase in phases)
    rows = train * (1 + views) + validation
    size = rows * prod(boundary_shape(boundary)) * _BYTES
    below = share_below(boundary)
    drawn = epochs * train * views / (views + 1)
    before = epochs * (train + validation) * below / rates.training_images_per_s + drawn / rates.views_per_s
    already = 0 if boundary != BOTTLENECK else train + validation  # these are cached anyway
    cost = (rows - already) * below / rates.images_per_s + train * views / rates.views_per_s
    cost += size / rates.disk_bytes_per_s
    saved = before - epochs * (train + validation) * size / rows / rates.disk_bytes_per_s - cost
    also = " and augmented versions" if views else ""
    facts = (
        f"{size / 1e9:.2g} GB and {cost:.3g} s once, instead of {before:.3g} s for the frozen blocks{also} "
        f"in {epochs} epochs"
    )
    if wish == "never":
        return Decision(strategy, boundary, False, f"features.boundary_cache=never ({facts})")
    if size > room_bytes:
        return Decision(
            strategy, boundary, False, f"it needs {size / 1e9:.2g} GB, but only {room_bytes / 1e9:.2g} GB are available"
        )
    if wish == "always":
        return Decision(strategy, boundary, True, f"features.boundary_cache=always ({facts})")
    return Decision(strategy, boundary, saved > _WORTH_S, facts, saved)


def wanted_rows(examples: Sequence[Example], settings: Settings, kept: Iterable[tuple[str, str]]) -> RowsByFolder:
    """Every folder of features and its rows; `kept` are the (strategy, boundary) pairs that are cached."""
    flip = settings.train.test_time_augmentation
    cells: dict[str, list[str]] = {BOTTLENECK: []}
    for example in examples:
        views = (PLAIN, MIRRORED) if flip and example.split != "train" else (PLAIN,)
        cells[BOTTLENECK] += [view_id(example.key, view) for view in views]
    phases = candidates(settings)
    for strategy, boundary in kept:
        count = max(phase.views for phase in phases[strategy, boundary])
        train = [example.key for example in examples if example.split == "train"]
        validation = [example.key for example in examples if example.split == "validation"]
        if boundary != BOTTLENECK:
            cells[folder_of(strategy, boundary, views=False)] = [*train, *validation]
        if count:
            rows = [view_id(key, number) for key in train for number in range(1, count + 1)]
            cells[folder_of(strategy, boundary, views=True)] = rows
    return {folder: tuple(rows) for folder, rows in cells.items()}


def _block_costs() -> list[int]:
    """Multiplications of each block for one image."""
    costs, channels, side = [], 3, 224
    for filters, convolutions in BLOCKS:
        costs.append(side * side * 9 * filters * (channels + filters * (convolutions - 1)))
        channels, side = filters, side // 2
    return costs
