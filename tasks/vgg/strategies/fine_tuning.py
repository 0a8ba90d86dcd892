"""`fine_tuning` trains the head and blocks of VGG16 together.

`modern` begins with a linear probe, so that no random head sends large gradients into the network (A. Kumar et al.,
Fine-Tuning can Distort Pretrained Features, 2022), and lets lower blocks learn slower. `tutorial` trains all blocks
below a random head; it is known to collapse, and is kept as the control.
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

NAME = "fine_tuning"


def modern(own: BlockSettings, recipe: ModernRecipe, augmentation: Augmentation) -> tuple[Phase, ...]:
    unfrozen = BLOCK_NAMES[-own.blocks :]
    return (modern_phase("blocks", unfrozen, own.learning_rates(unfrozen), NAME, own, recipe, augmentation),)


def tutorial(recipe: TutorialRecipe) -> tuple[Phase, ...]:
    return (tutorial_phase("all", BLOCK_NAMES, recipe),)


STRATEGY = Strategy(
    name=NAME,
    order=3,
    start="linear_probe",
    settings=BlockSettings,
    modern=modern,
    tutorial=tutorial,
    descriptions={
        "modern": "A regularised linear model is first trained on the outputs of VGG16, whose convolutions learned to "
        "see on ImageNet. From there, blocks of convolutions are trained together with the classifier; the validation "
        "images choose the epoch.",
        "tutorial": "All of VGG16, which learned to see on ImageNet, is trained together with a new classifier, at one "
        f"learning rate. {TUTORIAL_HEAD}",
    },
)
