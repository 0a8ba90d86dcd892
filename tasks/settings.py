"""The settings: one frozen pydantic model for each block of params.yaml. `tasks/params.py` reads and writes the file.

YAML holds every value, so that DVC sees every change: the models carry no second set of defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from tasks.settings_block import Block
from tasks.vgg import strategies

HERE = "here"
MAX_FILE_MB = 2000
"""A larger file can't be decoded in the memory of a worker process."""

STRATEGIES: tuple[str, ...] = tuple(strategies.BY_NAME)
StrategyName = Literal[STRATEGIES]  # type: ignore[valid-type]  # each file of tasks/vgg/strategies adds its name
FoldsName = Annotated[str, Field(pattern=r"^([2-9]|10) folds$")]
Recipe = Literal["modern", "tutorial"]
ClassWeight = Literal["none", "balanced"]
ExportFormat = Literal["saved_model", "onnx", "tflite", "onnx_int8", "tflite_int8"]
Issue = Literal["dark", "overexposed", "low_contrast", "blurred", "single_colour"]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Bucket = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$")]
Endpoint = Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+/?$")]
ColourValue = Annotated[int, Field(ge=0, le=255)]


class Source(Block):
    """Where the images come from."""

    uri: str = Field(min_length=1, description="a folder, archive, table, s3://..., tfds:name, digits, or digits:all")
    limit_per_class: int | None = Field(ge=1, description="most images of each class; null for all")
    s3_buckets: tuple[Bucket, ...] = Field(description="buckets that a table may name besides its own")
    s3_endpoints: tuple[Endpoint, ...] = Field(description="allowed values of AWS_ENDPOINT_URL; if empty, all")


class Ingest(Block):
    """How original bytes are read and packed."""

    pack_size_mb: int = Field(ge=1, le=4096, description="size of a pack of original bytes, MB")
    readers: int = Field(ge=1, le=256, description="images that are read or downloaded at the same time")
    max_file_mb: int = Field(ge=1, le=MAX_FILE_MB, description="larger files are excluded and not read, MB")


class Prepare(Block):
    """How images are split, and which images are refused."""

    validation_fraction: Fraction = Field(description="share of the drawn images, held out for choices")
    test_fraction: Fraction = Field(description="share of the drawn images, held out for the reported metrics")
    split_seed: int = Field(ge=0, description="seed of the splits")
    background_rgb: tuple[ColourValue, ColourValue, ColourValue] = Field(description="colour behind transparent pixels")
    min_side_px: int = Field(ge=1, description="smaller images are quarantined, pixels")
    max_pixels: int = Field(ge=1, description="larger images are refused from the header")
    max_aspect_ratio: float = Field(ge=1, description="longer side / shorter side")
    min_content_fraction: float = Field(
        ge=0, le=1, description="least share of an image that differs from its background; 0 accepts blank images"
    )
    min_entropy_bits: float = Field(
        ge=0,
        le=8,
        description="least entropy of the grey histogram, unless a tenth of the class has less; 0 accepts all",
    )
    min_images_per_class: int = Field(ge=2, description="a class with fewer images stops the run")
    max_quarantined_fraction: float = Field(ge=0, le=1, description="a larger share stops the run")
    near_duplicate_bits: int = Field(
        ge=0, le=16, description="most bits in which perceptual hashes of near duplicates differ; 0: only equal pixels"
    )
    quarantine_issues: tuple[Issue, ...] = Field(
        description="quality issues that refuse an image; the others add a note"
    )
    dark_below: float = Field(ge=0, le=1, description="limit on the brightest 1 % of pixels")
    overexposed_above: float = Field(ge=0, le=1, description="limit on the darkest 5 % of pixels")
    low_contrast_below: float = Field(ge=0, le=1, description="limit on the standard deviation of the luminance")
    blurred_below: float = Field(ge=0, description="limit on the variance of edges; small images are not judged")
    single_colour_above: float = Field(ge=0, le=1, description="limit on the share of pixels in one colour")
    shard_size: int = Field(ge=1, le=4096, description="images in a shard")


class Features(Block):
    """How the frozen network runs."""

    engine: Literal["auto", "ncnn", "tensorflow"] = Field(description="what runs the network")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        description="of the activations; bfloat16 and int8 are for training images only"
    )
    batch_size: int = Field(ge=1, le=1024, description="images in one step of the network")
    distribute: Literal["none", "ray"] = Field(description="over this machine, or over a Ray cluster")
    boundary_cache: Literal["auto", "always", "never"] = Field(
        description="cache the outputs of frozen blocks, so that training doesn't compute them in each epoch"
    )
    boundary_cache_gb: float = Field(ge=0, description="largest size of this cache, GB")


class Augmentation(Block):
    """Augmented versions of the training images."""

    count: int = Field(ge=0, le=64, description="augmented versions of each training image")
    seed: int = Field(ge=0, description="seed of the augmentations")
    min_area: float = Field(gt=0, le=1, description="smallest share of an image that a random crop shows")
    flip: bool = Field(description="mirror half of the augmented versions")
    colour: float = Field(ge=0, lt=1, description="brightness, contrast and saturation change by up to this share")


class TutorialRecipe(Block):
    """Used by the recipe `tutorial` only."""

    hidden_units: int = Field(ge=1, description="units of the dense layer below the last one")
    learning_rate: float = Field(gt=0, description="of Adam")
    unfrozen_learning_rate: float = Field(gt=0, description="of Adam, after progressive unfreezes all blocks")
    epochs: int = Field(ge=1, description="epochs of each phase; progressive has two phases")
    batch_size: int = Field(ge=1, description="images in a step")


def with_strategy_blocks(recipe: type[ModernRecipe]) -> type[ModernRecipe]:
    """Add one field for each strategy with own settings: its block."""
    blocks: dict[str, Any] = {one.name: (one.settings, ...) for one in strategies.BY_NAME.values() if one.settings}
    return pydantic.create_model(recipe.__name__, __base__=recipe, __doc__=recipe.__doc__, **blocks)


@with_strategy_blocks
class ModernRecipe(Block):
    """Used by the recipe `modern` only."""

    inverse_regularization: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        min_length=1,
        description="values of C for the linear probe; validation or folds choose one. While the best lies at an end, "
        "further ones are tried, from 0.01 to 10,000; a single value is taken as it is",
    )
    bilinear_up_to: int = Field(
        ge=0,
        le=5000,
        description="most images of train + validation to try bilinear pooling with; twice as many take 4x or more",
    )
    folds_up_to: int = Field(
        ge=0,
        le=5000,
        description="most images of train + validation to choose by 5 folds, not by the validation split",
    )
    refit_with_validation: bool = Field(description="train the chosen model again on train + validation")
    recalibrate: bool = Field(description="correct probabilities that held-out images show to be too high or too low")
    batch_size: int = Field(ge=1, description="images in a step")
    clip_norm: float = Field(gt=0, description="largest gradient norm of a step")
    warmup_fraction: Fraction = Field(
        description="share of the steps in which learning rates rise; then they fall (cosine)"
    )
    patience: int = Field(ge=1, description="early stopping: most epochs of a phase without a lower validation loss")
    budget_minutes: float | None = Field(
        gt=0,
        description="time for the epochs of one strategy; fewer epochs are planned if there is not enough. The result "
        "then depends on the speed of the machine. null: all epochs",
    )


class Train(Block):
    """How a classifier is trained."""

    recipe: Recipe = Field(description="modern, or tutorial (as in common tutorials)")
    seed: int = Field(ge=0, description="seed of everything random in training")
    deterministic: bool = Field(description="the same seed trains the same model, bit for bit, on equal machines")
    precision: Literal["auto", "float32", "bfloat16"] = Field(description="of the activations in training")
    class_weight: ClassWeight = Field(description="balanced: every class counts the same, however many images it has")
    test_time_augmentation: bool = Field(
        description="average the predictions for an image and its mirror image, also when served"
    )
    checkpoint_interval_s: float = Field(ge=0, description="most seconds of training that are repeated after a kill")
    tutorial: TutorialRecipe
    modern: ModernRecipe


class Evaluate(Block):
    """What the report shows."""

    worst_mistakes: int = Field(ge=0, le=200, description="images shown in the report")
    shift_images: int = Field(
        ge=0, le=10_000, description="test images whose darker, blurred, ... copies are tried; 18 network passes each"
    )
    wanted_precision: float | None = Field(
        gt=0.5, lt=1, description="share of right answers; less sure images get none"
    )
    each_class: bool = Field(description="keep wanted_precision for the answers of each class, not only in all")


class Compare(Block):
    """Which of the wanted strategies are worth their time, and on which images they are compared."""

    folds: int | None = Field(
        ge=2,
        le=10,
        description="recipe modern: each strategy is also trained without each of so many folds of train + validation, "
        "and predicts the fold. These images choose the champion, not the validation split alone. Takes so many times "
        "as long. null: off",
    )
    budget_minutes: float | None = Field(
        gt=0, description="time for training all strategies; those for which there is none left are left out"
    )
    left_out: tuple[tuple[StrategyName | FoldsName, float | None], ...] | None = Field(
        description="written by a run: what budget_minutes leaves out, with its minutes if known; null: not decided"
    )


class Export(Block):
    """The formats of the exported champion, and how they are checked."""

    formats: tuple[ExportFormat, ...] = Field(min_length=1, description="saved_model and onnx are always needed")
    parity_images: int = Field(ge=1, le=1000, description="held-out images on which all formats must agree")
    probability_tolerance: float = Field(gt=0, lt=1, description="largest difference of their probabilities")
    max_int8_loss: float = Field(ge=0, le=1, description="an int8 format that loses more accuracy is left out")


class Gate(Block):
    """What a model of a deployed run must fulfil to go into production."""

    promote: bool = Field(description="whether runs promote models that pass the gate; they register all")
    approval: Literal["none", "ask"] = Field(description="ask: a person has to agree to each promotion")
    margin: float = Field(ge=0, lt=1, description="how much lower the accuracy may be on the same images")
    min_recall: float = Field(ge=0, lt=1, description="no class may have a recall clearly below")
    max_latency_ms: float | None = Field(gt=0, description="most milliseconds for one image; null: not checked")
    max_size_mb: float | None = Field(gt=0, description="largest export, MB; null: not checked")


class WorkPools(Block):
    """Where the heavy stages of a deployed run work: on a work pool, or `here`, like the other stages."""

    prepare: str = Field(min_length=1, description="work pool, or `here`")
    features: str = Field(min_length=1, description="work pool, or `here`")
    train: str = Field(min_length=1, description="work pool, or `here`; there, strategies train in parallel")


class Run(Block):
    """How long a stage may take, how often it is retried, where it runs, and how many runs keep their data."""

    stage_time_limit_s: float = Field(gt=0, description="a stage that takes longer is stopped, seconds")
    stage_retries: int = Field(ge=0, le=10, description="how often a crashed stage is retried")
    outage_limit_s: float = Field(ge=0, description="how long a run waits in all for what doesn't answer, seconds")
    work_pools: WorkPools
    lost_after_s: float = Field(ge=1, description="a worker without a heartbeat for this long is lost, seconds")
    kept_runs: int = Field(ge=1, description="last runs of each deployment whose data stay in the cache")


class Settings(Block):
    """All of params.yaml."""

    source: Source
    ingest: Ingest
    prepare: Prepare
    features: Features
    augmentation: Augmentation
    strategies: tuple[StrategyName, ...] = Field(min_length=1, description="ways to train; the best is exported")
    compare: Compare
    train: Train
    evaluate: Evaluate
    export: Export
    gate: Gate
    run: Run

    @property
    def as_many_trainings(self) -> int:
        """How many trainings on all images take as long as one together with those of `compare.folds`.

        Each of n folds leaves (n - 1) / n of the images: 1 + n * (n - 1) / n = n.
        """
        return (self.compare.folds or 1) if self.train.recipe == "modern" else 1

    @pydantic.model_validator(mode="after")
    def _agree(self) -> Settings:
        held_out = self.prepare.validation_fraction + self.prepare.test_fraction
        if held_out >= 1:
            raise ValueError(
                "prepare.validation_fraction + prepare.test_fraction must leave images to train on "
                f"(be below 1). Received: {held_out:g}"
            )
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError(f"strategies must name each strategy once. Received: {list(self.strategies)}")
        if self.features.engine == "ncnn" and self.features.precision == "bfloat16":
            raise ValueError("features.engine=ncnn computes in float32; bfloat16 needs tensorflow")
        if "saved_model" not in self.export.formats or "onnx" not in self.export.formats:
            raise ValueError(
                "export.formats needs saved_model (served) and onnx (tasks.predict reads it). "
                f"Received: {list(self.export.formats)}"
            )
        return self
