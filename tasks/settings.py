"""The settings: one frozen pydantic model a block of params.yaml, and the only reader and writer of that file.

YAML holds every value, so that DVC sees every change: the models carry no second set of defaults.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from tasks.errors import SettingsError
from tasks.files import write_bytes
from tasks.settings_block import Block
from tasks.vgg import strategies
from tasks.workspace import PARAMS

IMAGE_SIZE_PX = 224
HERE = "here"
_YAML_END = "...\n"

STRATEGIES: tuple[str, ...] = tuple(strategies.BY_NAME)
StrategyName = Literal[STRATEGIES]  # type: ignore[valid-type]  # each file of tasks/vgg/strategies adds its name
Recipe = Literal["modern", "tutorial"]
ClassWeight = Literal["none", "balanced"]
ExportFormat = Literal["saved_model", "onnx", "tflite"]
Issue = Literal["dark", "overexposed", "low_contrast", "blurred", "single_colour"]
_RENAMED = {
    "prepare.min_pictures_per_class": "prepare.min_images_per_class",
    "views": "augmentation",
    "train.flip_averaging": "train.test_time_augmentation",
    "train.modern.head_replacement.head_rate": "train.modern.head_replacement.head_learning_rate",
    "train.modern.fine_tuning.head_rate": "train.modern.fine_tuning.head_learning_rate",
    "train.modern.fine_tuning.block_rate": "train.modern.fine_tuning.block_learning_rate",
    "train.modern.fine_tuning.block_decay": "train.modern.fine_tuning.learning_rate_decay",
    "train.modern.progressive.head_rate": "train.modern.progressive.head_learning_rate",
    "train.modern.progressive.block_rate": "train.modern.progressive.block_learning_rate",
    "train.modern.progressive.block_decay": "train.modern.progressive.learning_rate_decay",
    "export.parity_pictures": "export.parity_images",
    "run.placement": "run.work_pools",
}
"""Settings that had another name once -> their name now; for the error that tells it."""

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


def load_settings(workspace: Path) -> Settings:
    """Read and check `workspace`/params.yaml.

    Raises:
        SettingsError: the file is missing, is not YAML, or a value is not allowed; names every such value.
    """
    path = workspace / PARAMS
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path} doesn't exist. Run from the project's root, or restore it: git checkout {PARAMS}"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} is not readable YAML: {error}. Restore it: git checkout {PARAMS}") from None
    return check_settings(values, str(path))


def check_settings(values: Any, where: str = PARAMS) -> Settings:
    """Turn plain values into Settings, or raise SettingsError that lists all that is wrong."""
    if not isinstance(values, dict):
        raise SettingsError(f"{where} must hold blocks of settings. Received: {type(values).__name__}")
    try:
        return Settings.model_validate(values)
    except pydantic.ValidationError as error:
        renamed = {_RENAMED.get(".".join(map(str, problem["loc"]))) for problem in error.errors()}
        told = [problem for problem in error.errors() if ".".join(map(str, problem["loc"])) not in renamed]
        problems = [_explain(problem) for problem in told]  # not the new name of an old setting as "missing"
        raise SettingsError(f"{where}:\n  " + "\n  ".join(problems)) from None


def change_settings(
    workspace: Path, changes: Mapping[str, Any], check: Callable[[Settings], None] | None = None
) -> Settings:
    """Write changes into params.yaml, comments kept, after checking the whole.

    Args:
        workspace: folder with params.yaml.
        changes: the settings that should differ, nested as in params.yaml: {"train": {"recipe": "tutorial"}}.
        check: called with the new settings before they are written; what it raises leaves the file as it was.

    Raises:
        SettingsError: a name is not a setting, or a value is not allowed; params.yaml is then as it was.
    """
    from ruamel.yaml import YAML  # only a change needs it

    load_settings(workspace)
    path = workspace / PARAMS
    editor = YAML()
    editor.width = 4096
    # A class of its own, as it is the class that learns it: with ruamel's, DVC writes dvc.lock in this process.
    editor.Representer = type("Representer", (editor.Representer,), {})
    editor.representer.add_representer(type(None), _write_null)
    document = editor.load(path.read_text(encoding="utf-8"))
    changed = _merge(document, _plain(changes))  # a form gives tuples, which YAML has not
    settings = check_settings(_plain(document), "SET")
    if check is not None:
        check(settings)
    if changed:
        text = io.BytesIO()
        editor.dump(document, text)
        write_bytes(path, text.getvalue())
    return settings


def parse_changes(assignments: Iterable[str]) -> dict[str, Any]:
    """Assignments as people type them -> changes, as `change_settings` takes them.

    Args:
        assignments: such as `train.recipe=tutorial`, `strategies=[feature_extraction]`; values are YAML.

    Raises:
        SettingsError: one has no `=`, its value is not YAML, or it contradicts one before it.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise SettingsError(f"SET takes block.key=value. Received: {assignment!r}")
        *blocks, key = name.strip().split(".")
        block: Any = changes
        for one in blocks:
            block = block.setdefault(one, {}) if isinstance(block, dict) else None
        if not isinstance(block, dict) or isinstance(block.get(key), dict):
            raise SettingsError(f"SET gives a whole block and a setting in it: {name.strip()} is in both.")
        try:
            block[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"The value of {name.strip()} is not YAML: {error}") from None
    return changes


def parse_strategies(text: str) -> list[str]:
    """`all`, a name, or several with commas -> a list of known strategies.

    Raises:
        SettingsError: a name is unknown; lists the known ones.
    """
    if text.strip() == "all":
        return list(STRATEGIES)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown or not names:
        raise SettingsError(
            f"STRATEGY must be one of {', '.join(STRATEGIES)}, several with commas, or all. "
            f"Received: {', '.join(unknown) or repr(text)}"
        )
    return list(dict.fromkeys(names))


def format_assignment(name: str, value: Any) -> str:
    """A setting as people type it in SET: `parse_changes` the other way round."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return f"{name}={text.removesuffix(_YAML_END).strip()}"


def _merge(block: Any, changes: Mapping[str, Any], above: str = "") -> bool:
    """Write changes into a block of params.yaml; tells whether that changed it."""
    changed = False
    for name, value in changes.items():
        known = name in block
        if known and isinstance(block[name], Mapping) and isinstance(value, Mapping):
            changed |= _merge(block[name], value, f"{above}{name}.")
        elif not known or (isinstance(value, Mapping) and value):
            raise _unknown(f"{above}{name}", value, block)
        elif _plain(block[name]) != value:
            block[name] = _in_one_line(value)
            changed = True
    return changed


def _unknown(name: str, value: Any, known: Iterable[str]) -> SettingsError:
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    if new := _new_name(name):
        return SettingsError(f"{name} is called {new} now.")
    return SettingsError(f"There is no setting {name!r}. Known here: {', '.join(known)}")


def _new_name(name: str) -> str | None:
    """What a setting that was renamed, or whose block was, is called now."""
    block, _, key = name.rpartition(".")
    if name in _RENAMED or not block:
        return _RENAMED.get(name)
    return f"{new}.{key}" if (new := _new_name(block)) else None


def _in_one_line(value: Any) -> Any:
    """A list as it stands in params.yaml: [a, b]."""
    from ruamel.yaml.comments import CommentedSeq

    if not isinstance(value, list):
        return value
    written = CommentedSeq(value)
    written.fa.set_flow_style()
    return written


def _write_null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")  # not as an empty place


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if where in _RENAMED:
        return f"{where}: is called {_RENAMED[where]} now. Rename it in {PARAMS}"
    received = problem["input"]
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where}: is missing. Restore it: git checkout {PARAMS}"
    if isinstance(received, dict) or not where:
        return f"{where}: {text}" if where else text
    return f"{where}: {text}. Received: {received!r}"
