"""What a strategy is, and the phases of its training. Each strategy is one file in `strategies/`.

The settings import this module, so it imports nothing that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.settings_block import Block

if TYPE_CHECKING:
    from tasks.settings import Augmentation, ModernRecipe, Train, TutorialRecipe

BLOCK_NAMES = ("block1", "block2", "block3", "block4", "block5")
FROZEN = "VGG16's convolutions, pretrained on ImageNet, stay as they are."
TUTORIAL_HEAD = (
    "The classifier is the one that tutorials print: flatten, one hidden layer, softmax; it is trained for a fixed "
    "number of epochs."
)


class HeadSettings(Block):
    """Epochs and learning rate of a head."""

    epochs: int = Field(ge=1, description="at most; early stopping may end it sooner")
    head_learning_rate: float = Field(gt=0, description="highest learning rate of the head")


class BlockSettings(HeadSettings):
    """Which blocks are unfrozen, their epochs and learning rates."""

    blocks: int = Field(ge=1, le=5, description="blocks to unfreeze, from the top")
    block_learning_rate: float = Field(gt=0, description="highest learning rate of the topmost unfrozen block")
    learning_rate_decay: float = Field(
        gt=0, le=1, description="factor on the learning rate from each block to the one below"
    )

    def learning_rates(self, unfrozen: Sequence[str]) -> dict[str, float]:
        """Of the head and of each unfrozen block, where they fall by `learning_rate_decay` from block to block."""
        rates = {
            name: self.block_learning_rate * self.learning_rate_decay**depth
            for depth, name in enumerate(reversed(unfrozen))
        }
        return {"head": self.head_learning_rate, **{name: rates[name] for name in unfrozen}}


@dataclass(frozen=True)
class LearningRateSetting:
    """The setting that a phase's learning rates follow: its dotted name in params.yaml, and its value."""

    name: str
    value: float


@dataclass(frozen=True)
class Phase:
    """One stretch of training with the same layers unfrozen.

    Attributes:
        name: such as `block5`.
        unfrozen: blocks that are trained with the head, from the input to the output; always the topmost ones.
        epochs: at most.
        batch_size: images a step.
        learning_rates: the highest ones, of `head` and of each unfrozen block.
        setting: what to lower when the loss becomes NaN or the training collapses.
        views: augmented versions of an image to draw from, besides the image itself.
        schedule: `constant`, or `cosine` (rise over `warmup_fraction` of the steps, then a half cosine to 0).
        warmup_fraction: see `schedule`.
        clip_norm: largest norm of the gradient over all weights; None: no limit.
        patience: after this many epochs without a lower validation loss the phase ends, with its best weights; None:
            all epochs are run and the last weights are kept.
    """

    name: str
    unfrozen: tuple[str, ...]
    epochs: int
    batch_size: int
    learning_rates: dict[str, float]
    setting: LearningRateSetting
    views: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_fraction: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None

    @property
    def boundary(self) -> str | None:
        """The last output of the frozen blocks; None: all blocks are unfrozen."""
        frozen = len(BLOCK_NAMES) - len(self.unfrozen)
        return f"{BLOCK_NAMES[frozen - 1]}_pool" if frozen else None


@dataclass(frozen=True)
class Strategy:
    """A way to train.

    Attributes:
        name: as in params.yaml; the name of its file.
        order: position among the strategies, the cheapest first; STRATEGY=all runs them in this order.
        start: what the modern recipe begins with; the tutorial recipe always begins with an untrained head.
        settings: its block below `train.modern`; None: it has none.
        modern: (its block, the recipe, augmentation) -> phases of gradient descent; none: it only fits a linear probe.
        tutorial: the recipe -> its phases.
        descriptions: recipe -> a text for the report and the model card that is true for all settings. The text of
            `modern` names the "regularized linear model" if it begins with a linear probe; `describe` refers to it.
    """

    name: str
    order: int
    start: Literal["linear_probe", "untrained_head"]
    settings: type[Block] | None
    modern: Callable[[Any, ModernRecipe, Augmentation], tuple[Phase, ...]]
    tutorial: Callable[[TutorialRecipe], tuple[Phase, ...]]
    descriptions: Mapping[str, str]

    def phases(self, rules: Train, augmentation: Augmentation) -> tuple[Phase, ...]:
        """The phases of gradient descent; none if it only fits a linear probe."""
        if rules.recipe == "tutorial":
            return self.tutorial(rules.tutorial)
        return self.modern(getattr(rules.modern, self.name, None), rules.modern, augmentation)

    def begins_with_linear_probe(self, rules: Train) -> bool:
        return rules.recipe == "modern" and self.start == "linear_probe"

    def describe(self, recipe: str, training: Mapping[str, Any]) -> str:
        """Describe a model of this strategy for a person.

        Args:
            recipe: of the training.
            training: the model's summary; may contain `chosen_on` and `phases`.
        """
        sentences = [self.descriptions[recipe]]
        if chosen_on := training.get("chosen_on"):
            images = "the validation images" if chosen_on == "validation" else chosen_on
            sentences.append(f"The linear model's pooling and inverse regularization C were chosen on {images}.")
            phases = training.get("phases", [])
            mixed = [phase for phase in phases if 0 < phase.get("share", 1) < 1]
            if mixed:
                shares = " and ".join(f"{100 * phase['share']:.0f} % of the way" for phase in mixed)
                sentences.append(
                    f"The weights are a mixture: they lie {shares} from those before to those after training, where "
                    "the validation loss was lowest."
                )
            epochs = [len(phase.get("averaged", ())) for phase in phases if phase["best_epoch"]]
            if max(epochs, default=0) > 1:
                sentences.append(
                    f"The weights are the mean of those after {' and '.join(map(str, epochs))} epochs, which has a "
                    "lower validation loss than those after one."
                )
            if phases and not any(phase["best_epoch"] for phase in phases):
                sentences.append(
                    "No later epoch was better on the validation images, so the result is this linear model, and "
                    "VGG16's convolutions stayed as they were."
                )
        if shortened := training.get("shortened"):
            sentences.append(shortened)
        return " ".join(sentences)


def tutorial_phase(
    name: str, unfrozen: tuple[str, ...], recipe: TutorialRecipe, setting: str = "learning_rate"
) -> Phase:
    """All layers learn at one constant learning rate, that of `train.tutorial.<setting>`."""
    rate = getattr(recipe, setting)
    rates = dict.fromkeys(("head", *unfrozen), rate)
    lower = LearningRateSetting(f"train.tutorial.{setting}", rate)
    return Phase(name, unfrozen, recipe.epochs, recipe.batch_size, rates, lower)


def modern_phase(
    name: str,
    unfrozen: tuple[str, ...],
    learning_rates: dict[str, float],
    strategy: str,
    own: HeadSettings,
    recipe: ModernRecipe,
    augmentation: Augmentation,
) -> Phase:
    """Learning rates rise and fall, the images are augmented, and early stopping keeps the best epoch.

    Args:
        name: of the phase.
        unfrozen: see `Phase`, as are `learning_rates`.
        strategy: its name.
        own: the strategy's own block of settings.
        recipe: what all strategies share.
        augmentation: of the training images.
    """
    setting = "block_learning_rate" if unfrozen else "head_learning_rate"
    return Phase(
        name,
        unfrozen,
        own.epochs,
        recipe.batch_size,
        learning_rates,
        LearningRateSetting(f"train.modern.{strategy}.{setting}", getattr(own, setting)),
        augmentation.count,
        "cosine",
        recipe.warmup_fraction,
        recipe.clip_norm,
        recipe.patience,
    )
