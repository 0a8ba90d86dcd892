"""`head_replacement` trains a new head by gradient descent; all blocks of the network stay frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.vgg.strategies.base import (
    FROZEN,
    TUTORIAL_HEAD,
    HeadSettings,
    Phase,
    Strategy,
    modern_phase,
    tutorial_phase,
)

if TYPE_CHECKING:
    from tasks.settings import Augmentation, ModernRecipe, TutorialRecipe

NAME = "head_replacement"


def modern(own: HeadSettings, recipe: ModernRecipe, augmentation: Augmentation) -> tuple[Phase, ...]:
    return (modern_phase("head", (), {"head": own.head_learning_rate}, NAME, own, recipe, augmentation),)


def tutorial(recipe: TutorialRecipe) -> tuple[Phase, ...]:
    return (tutorial_phase("head", (), recipe),)


STRATEGY = Strategy(
    name=NAME,
    order=2,
    start="untrained_head",
    settings=HeadSettings,
    modern=modern,
    tutorial=tutorial,
    descriptions={
        "modern": f"{FROZEN} A linear classifier on top of them is trained by gradient descent; the epoch is chosen on "
        "the validation images.",
        "tutorial": f"{FROZEN} A new classifier on top of them is trained. {TUTORIAL_HEAD}",
    },
)
