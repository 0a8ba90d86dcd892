"""The settings: one frozen pydantic model for each block of params.yaml. `tasks/params.py` reads and writes the file.

YAML holds every value, so that DVC sees every change: the models carry no second set of defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from tasks.settings_block import Block
from tasks.vgg import strategies

IMAGE_SIZE_PX = 224
HERE = "here"

STRATEGIES: tuple[str, ...] = tuple(strategies.BY_NAME)
StrategyName = Literal[STRATEGIES]  # type: ignore[valid-type]  # each file of tasks/vgg/strategies adds its name
Recipe = Literal["modern", "tutorial"]
ClassWeight = Literal["none", "balanced"]
ExportFormat = Literal["saved_model", "onnx", "tflite"]
Issue = Literal["dark", "overexposed", "low_contrast", "blurred", "single_colour"]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Bucket = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$")]
Endpoint = Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+/?$")]
ColourValue = Annotated[int, Field(ge=0, le=255)]


class Source(Block):
    """Where the images come from."""

    uri: str = Field(min_length=1, description="a folder, archive, table, s3://..., tfds:name, or `digits`")
    limit_per_class: int | None = Field(ge=1, description="at most so many images of each class; null for all")
    s3_buckets: tuple[Bucket, ...] = Field(description="buckets that a table may name besides its own")
    s3_endpoints: tuple[Endpoint, ...] = Field(description="allowed values of AWS_ENDPOINT_URL; none listed: any")


class Ingest(Block):
    """How original bytes are read and packed."""

    pack_size_mb: int = Field(ge=1, le=4096, description="size of a pack of original bytes, MB")
    readers: int = Field(ge=1, le=256, description="images that are read or downloaded at the same time")


class Prepare(Block):
    """How images are split, and which are refused."""

    validation_fraction: Fraction = Field(description="share held out to make choices by")
    test_fraction: Fraction = Field(description="share held out for the reported metrics")
    split_seed: int = Field(ge=0, description="another seed gives other splits")
    background_rgb: tuple[ColourValue, ColourValue, ColourValue] = Field(
        description="what shows through transparent pixels"
    )
    min_side_px: int = Field(ge=1, description="smaller images are quarantined, pixels")
    max_pixels: int = Field(ge=1, description="larger images are refused from the header")
    max_aspect_ratio: float = Field(ge=1, description="longer side / shorter side")
    min_entropy_bits: float = Field(ge=0, le=8, description="of the grey histogram; 0 accepts all")
    min_images_per_class: int = Field(ge=2, description="a class with fewer stops the run")
    max_quarantined_fraction: float = Field(ge=0, le=1, description="more than that stops the run")
    near_duplicate_bits: int = Field(
        ge=0, le=16, description="bits in which perceptual hashes of near duplicates may differ"
    )
    quarantine_issues: tuple[Issue, ...] = Field(
        description="quality issues that refuse an image; the others add a note"
    )
    dark_below: float = Field(ge=0, le=1, description="of the brightest 1 % of pixels")
    overexposed_above: float = Field(ge=0, le=1, description="of the darkest 5 % of pixels")
    low_contrast_below: float = Field(ge=0, le=1, description="standard deviation of the light")
    blurred_below: float = Field(ge=0, description="of the variance of edges; small images are not judged")
    single_colour_above: float = Field(ge=0, le=1, description="share of the pixels in one colour")
    shard_size: int = Field(ge=1, le=4096, description="images a shard")


class Features(Block):
    """How the frozen network runs."""

    engine: Literal["auto", "ncnn", "tensorflow"] = Field(description="what runs the network")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        description="of the activations; int8: of training images only"
    )
    batch_size: int = Field(ge=1, le=1024, description="images a step of the network")
    distribute: Literal["none", "ray"] = Field(description="over this machine, or over a Ray cluster")
    boundary_cache: Literal["auto", "always", "never"] = Field(
        description="cache the outputs of frozen blocks, so that training doesn't compute them in each epoch"
    )
    boundary_cache_gb: float = Field(ge=0, description="largest size of this cache, GB")


class Augmentation(Block):
    """Augmented versions of the training images."""

    count: int = Field(ge=0, le=64, description="augmented versions of each training image, beside itself")
    seed: int = Field(ge=0, description="another seed gives other augmentations")
    min_area: float = Field(gt=0, le=1, description="smallest share of an image that a random crop shows")
    flip: bool = Field(description="mirror half of the augmented versions")
    colour: float = Field(ge=0, lt=1, description="brightness, contrast and saturation change by up to this share")


class TutorialRecipe(Block):
    """Used by the recipe `tutorial` only."""

    hidden_units: int = Field(ge=1, description="of the dense layer below the last one")
    learning_rate: float = Field(gt=0, description="of Adam")
    unfrozen_learning_rate: float = Field(gt=0, description="of Adam, once progressive unfreezes everything")
    epochs: int = Field(ge=1, description="of each phase; progressive has two")
    batch_size: int = Field(ge=1, description="images a step")


def with_strategy_blocks(recipe: type[ModernRecipe]) -> type[ModernRecipe]:
    """Add a field for each strategy that has settings of its own: its block."""
    blocks: dict[str, Any] = {one.name: (one.settings, ...) for one in strategies.BY_NAME.values() if one.settings}
    return pydantic.create_model(recipe.__name__, __base__=recipe, __doc__=recipe.__doc__, **blocks)


@with_strategy_blocks
class ModernRecipe(Block):
    """Used by the recipe `modern` only."""

    inverse_regularization: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        min_length=1, description="of the linear probe (C); validation or folds choose"
    )
    bilinear_up_to: int = Field(
        ge=0, le=5000, description="up to so many images of train + validation bilinear pooling is tried; 1 MB each"
    )
    folds_up_to: int = Field(
        ge=0,
        le=5000,
        description="up to so many images of train + validation 5 folds choose, not the validation split",
    )
    refit_with_validation: bool = Field(description="train the chosen linear probe again on train + validation")
    batch_size: int = Field(ge=1, description="images a step")
    label_smoothing: Fraction = Field(description="share of the target that is spread over all classes")
    weight_decay: float = Field(ge=0, description="pull towards the weights that training began with (L2-SP)")
    clip_norm: float = Field(gt=0, description="longest gradient of a step")
    warmup_fraction: Fraction = Field(
        description="share of the steps in which learning rates rise; then they fall (cosine)"
    )
    patience: int = Field(ge=1, description="early stopping: epochs without a lower validation loss that end a phase")


class Train(Block):
    """How a classifier is trained."""

    recipe: Recipe = Field(description="modern, or tutorial (as tutorials print it)")
    seed: int = Field(ge=0, description="of all that is random in training")
    deterministic: bool = Field(description="one seed gives one model, bit for bit, on the same kind of machine")
    precision: Literal["auto", "float32", "bfloat16"] = Field(description="of the activations in training")
    class_weight: ClassWeight = Field(description="balanced: every class counts the same, however many images it has")
    test_time_augmentation: bool = Field(
        description="average the predictions for an image and its mirror image, also when served"
    )
    checkpoint_interval_s: float = Field(
        ge=0, description="longest stretch of training that is repeated after a kill, seconds"
    )
    tutorial: TutorialRecipe
    modern: ModernRecipe


class Evaluate(Block):
    """What the report shows."""

    worst_mistakes: int = Field(ge=0, le=200, description="images shown in the report")


class Export(Block):
    """In which formats the champion is written, and how it is checked."""

    formats: tuple[ExportFormat, ...] = Field(min_length=1, description="saved_model and onnx are always needed")
    parity_images: int = Field(ge=1, le=1000, description="held-out images on which all formats must agree")
    probability_tolerance: float = Field(gt=0, lt=1, description="how far their probabilities may differ")


class WorkPools(Block):
    """Where a deployed run's heavy stages run: a work pool's name, or `here`, beside the others."""

    prepare: str = Field(min_length=1, description="work pool, or `here`")
    features: str = Field(min_length=1, description="work pool, or `here`")
    train: str = Field(min_length=1, description="work pool, or `here`; several strategies train side by side")


class Run(Block):
    """How long a stage may take, how often it is retried, and where it runs."""

    stage_time_limit_s: float = Field(gt=0, description="a stage that takes longer is stopped, seconds")
    stage_retries: int = Field(ge=0, le=10, description="how often a crashed stage is retried")
    work_pools: WorkPools
    lost_after_s: float = Field(ge=1, description="without a heartbeat for so long a worker is lost, seconds")


class Settings(Block):
    """All of params.yaml."""

    source: Source
    ingest: Ingest
    prepare: Prepare
    features: Features
    augmentation: Augmentation
    strategies: tuple[StrategyName, ...] = Field(min_length=1, description="ways to train; the best is exported")
    train: Train
    evaluate: Evaluate
    export: Export
    run: Run

    @pydantic.model_validator(mode="after")
    def _agree(self) -> Settings:
        held_out = self.prepare.validation_fraction + self.prepare.test_fraction
        if held_out >= 1:
            raise ValueError(
                "prepare.validation_fraction + prepare.test_fraction must leave images to train on "
                f"(be below 1). Received: {held_out:g}"
            )
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError(f"strategies must name each once. Received: {list(self.strategies)}")
        if self.features.engine == "ncnn" and self.features.precision == "bfloat16":
            raise ValueError("features.engine=ncnn computes in float32; bfloat16 needs tensorflow")
        if "saved_model" not in self.export.formats or "onnx" not in self.export.formats:
            raise ValueError(
                "export.formats needs saved_model (served) and onnx (tasks.predict reads it). "
                f"Received: {list(self.export.formats)}"
            )
        return self
