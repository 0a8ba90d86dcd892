"""What each strategy does, phase by phase, in both recipes: the one place that turns settings into plans.

`feature_extraction` trains a head on features that are computed once. `head_replacement` trains one in the whole graph,
the base frozen. `fine_tuning` trains all of its blocks at once. `progressive` unfreezes them one by one, from the top.
`modern` begins the last two with a linear probe, so that no random head sends large gradients into the base (A. Kumar
et al., Fine-Tuning can Distort Pretrained Features, 2022), lets lower blocks learn slower, and keeps the weights of the
best epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.settings import Augmentation, BlockRates, Train
from tasks.vgg.backbone import BOUNDARIES

BLOCK_NAMES = tuple(boundary.removesuffix("_pool") for boundary in BOUNDARIES)


@dataclass(frozen=True)
class Phase:
    """One stretch of training with the same layers unfrozen.

    Attributes:
        name: such as `block5`.
        unfrozen: blocks that train beside the head, from the input to the output; the topmost ones.
        epochs: at most.
        batch_size: images a step.
        rates: highest learning rate of `head` and of each unfrozen block.
        views: augmented versions of an image to draw from, beside itself.
        schedule: `constant`, or `cosine` (rise over `warmup_fraction` of the steps, then a half cosine to 0).
        warmup_fraction: see `schedule`.
        label_smoothing: share of the target that is spread over all classes.
        weight_decay: pull towards the weights that the strategy began with, times the rate.
        clip_norm: longest gradient over all weights; None: any.
        patience: epochs without a lower validation loss that end the phase, with the best weights back; None: all
            epochs are run and the last weights are kept.
    """

    name: str
    unfrozen: tuple[str, ...]
    epochs: int
    batch_size: int
    rates: dict[str, float]
    views: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_fraction: float = 0.0
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None

    @property
    def boundary(self) -> str | None:
        """Where the frozen part ends; None: nothing is frozen."""
        return boundary_below(self.unfrozen)


def boundary_below(unfrozen: Sequence[str]) -> str | None:
    """The last output of the frozen blocks; None: all blocks are unfrozen."""
    frozen = len(BOUNDARIES) - len(unfrozen)
    return BOUNDARIES[frozen - 1] if frozen else None


def plan_phases(strategy: str, rules: Train, views: Augmentation) -> tuple[Phase, ...]:
    """The phases of gradient descent; none where a linear probe on kept features is all."""
    return _tutorial(strategy, rules) if rules.recipe == "tutorial" else _modern(strategy, rules, views)


def _tutorial(strategy: str, rules: Train) -> tuple[Phase, ...]:
    recipe = rules.tutorial

    def phase(name: str, unfrozen: tuple[str, ...], rate: float) -> Phase:
        rates = dict.fromkeys(("head", *unfrozen), rate)
        return Phase(name, unfrozen, recipe.epochs, recipe.batch_size, rates)

    head = phase("head", (), recipe.learning_rate)
    if strategy == "fine_tuning":
        return (phase("all", BLOCK_NAMES, recipe.learning_rate),)
    if strategy == "progressive":
        return head, phase("all", BLOCK_NAMES, recipe.unfrozen_learning_rate)
    return (head,)


def _modern(strategy: str, rules: Train, views: Augmentation) -> tuple[Phase, ...]:
    recipe = rules.modern

    def phase(name: str, unfrozen: tuple[str, ...], epochs: int, rates: dict[str, float]) -> Phase:
        return Phase(
            name,
            unfrozen,
            epochs,
            recipe.batch_size,
            rates,
            views.count,
            "cosine",
            recipe.warmup_fraction,
            recipe.label_smoothing,
            recipe.weight_decay,
            recipe.clip_norm,
            recipe.patience,
        )

    if strategy == "head_replacement":
        head = recipe.head_replacement
        return (phase("head", (), head.epochs, {"head": head.head_learning_rate}),)
    if strategy == "fine_tuning":
        blocks = recipe.fine_tuning
        unfrozen = BLOCK_NAMES[-blocks.blocks :]
        return (phase("blocks", unfrozen, blocks.epochs, layer_rates(blocks, unfrozen)),)
    if strategy == "progressive":
        found = []
        for number in range(1, recipe.progressive.blocks + 1):
            unfrozen = BLOCK_NAMES[-number:]
            falling = recipe.progressive.learning_rate_decay ** (number - 1)
            rates = {name: rate * falling for name, rate in layer_rates(recipe.progressive, unfrozen).items()}
            found.append(phase(unfrozen[0], unfrozen, recipe.progressive.epochs, rates))
        return tuple(found)
    return ()


def layer_rates(rules: BlockRates, unfrozen: Sequence[str]) -> dict[str, float]:
    """The head's rate, and for each unfrozen block one that falls by `learning_rate_decay` from block to block."""
    depth = len(unfrozen) - 1
    blocks = {
        name: rules.block_learning_rate * rules.learning_rate_decay ** (depth - place)
        for place, name in enumerate(unfrozen)
    }
    return {"head": rules.head_learning_rate, **blocks}
