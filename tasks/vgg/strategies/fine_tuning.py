"""`fine_tuning` trains the head and blocks of VGG16 together.

`modern` begins with a linear probe, so that no random head sends large gradients into the network (A. Kumar et al.,
Fine-Tuning can Distort Pretrained Features, 2022). Lower blocks have lower learning rates. `tutorial` trains all blocks
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
        "modern": "First a regularized linear model is trained on the outputs of VGG16, pretrained on ImageNet. Then "
        "blocks of convolutions are trained together with the classifier; the epoch is chosen on the validation "
        "images.",
        "tutorial": "All of VGG16, pretrained on ImageNet, is trained together with a new classifier, at one "
        f"learning rate. {TUTORIAL_HEAD}",
    },
)
