"""`feature_extraction` trains a head on features that are computed once. `modern` fits a linear probe in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.vgg.strategies.base import FROZEN, TUTORIAL_HEAD, Phase, Strategy, tutorial_phase

if TYPE_CHECKING:
    from tasks.settings import Augmentation, ModernRecipe, TutorialRecipe


def modern(_own: None, _recipe: ModernRecipe, _augmentation: Augmentation) -> tuple[Phase, ...]:
    return ()


def tutorial(recipe: TutorialRecipe) -> tuple[Phase, ...]:
    return (tutorial_phase("head", (), recipe),)


STRATEGY = Strategy(
    name="feature_extraction",
    order=1,
    start="linear_probe",
    settings=None,
    modern=modern,
    tutorial=tutorial,
    descriptions={
        "modern": f"{FROZEN} Only a classifier on top of their outputs is trained: a regularized linear model.",
        "tutorial": f"{FROZEN} Only a classifier on top of their outputs is trained. {TUTORIAL_HEAD}",
    },
)
