"""`progressive` unfreezes the network step by step, from the top.

`modern` begins with a linear probe and unfreezes one block after the other, each time with lower learning rates, as
long as the validation loss falls. `tutorial` trains a head first, then everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.vgg.strategies.base import (
    BLOCK_NAMES,
    TUTORIAL_HEAD,
    BlockSettings,
    Phase,
    Strategy,
    modern_phase,
    tutorial_phase,
)

if TYPE_CHECKING:
    from tasks.settings import Augmentation, ModernRecipe, TutorialRecipe

NAME = "progressive"


def modern(own: BlockSettings, recipe: ModernRecipe, augmentation: Augmentation) -> tuple[Phase, ...]:
    phases = []
    for number in range(1, own.blocks + 1):
        unfrozen = BLOCK_NAMES[-number:]
        lower = own.learning_rate_decay ** (number - 1)
        rates = {name: rate * lower for name, rate in own.learning_rates(unfrozen).items()}
        phases.append(modern_phase(unfrozen[0], unfrozen, rates, NAME, own, recipe, augmentation))
    return tuple(phases)


def tutorial(recipe: TutorialRecipe) -> tuple[Phase, ...]:
    head = tutorial_phase("head", (), recipe)
    return head, tutorial_phase("all", BLOCK_NAMES, recipe, "unfrozen_learning_rate")


STRATEGY = Strategy(
    name=NAME,
    order=4,
    start="linear_probe",
    settings=BlockSettings,
    modern=modern,
    tutorial=tutorial,
    descriptions={
        "modern": "First a regularized linear model is trained on the outputs of VGG16, pretrained on ImageNet. Then "
        "blocks of convolutions are unfrozen one after the other, from the top, and trained together with the "
        "classifier, as long as the validation loss falls.",
        "tutorial": "First a new classifier is trained on top of VGG16, pretrained on ImageNet; then all of "
        f"VGG16 is trained together with it. {TUTORIAL_HEAD}",
    },
)
