"""Chooses the engine that computes features: measured once and then kept, so a busy machine can't change the choice.

Validation and test images always pass the network in float32, as the exported model does: so the reported metrics are
those of the exported model. Training images may use bfloat16, or int8 if validation images show no loss of accuracy.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.errors import SettingsError
from tasks.files import fingerprint, sync_file
from tasks.images.augmentation import measure_views
from tasks.images.manifest import Duplicate, Example
from tasks.settings import Features, Settings, Train
from tasks.vgg.boundaries import BOTTLENECK, Decision, Rates, RowsByFolder, decide
from tasks.vgg.calibration import Calibration, calibrate, check, choose_checked, load_calibration, save_calibration
from tasks.vgg.engines import Engine, measure_rate
from tasks.vgg.extraction import Extraction, keep_images
from tasks.vgg.hardware import cpu_has, has_fast_int8, has_gpu
from tasks.vgg.head import Pooling
from tasks.vgg.strategies.base import Phase
from tasks.vgg.weights import Weights
from tasks.workspace import Workspace

_FASTER_BY = 1.2
"""TensorFlow is chosen if it is more than this many times as fast as ncnn, whose float32 is exact."""
_SLOWER_BY = 10
"""Training is assumed to be at most this many times slower than the engine that computes features."""
_WORTH_MEASURING_S = 60.0
"""The rate of training is measured if a cache saves at least so much where training is slowest."""
_DISK_BYTES = 32 << 20
_WORTH_CHECKING = 2_000
"""`auto` checks int8 if at least this many training rows are missing: it saves 30 ms a row, the check takes 30 s."""
_ROWS_A_CHECKED_IMAGE = 8
"""The check must save its own time: it takes as long for one image as int8 saves on about two rows."""
_SIMILAR = 0.99
"""Smallest mean cosine of int8 features to float32 features; it is 0.998 where int8 is computed as it should be."""
_COMPARED = 8
"""Images of that mean; a single image may have 0.988."""


@dataclass(frozen=True)
class Engines:
    """The engines that compute features.

    Attributes:
        evaluated: for images of the validation and the test split; in float32.
        training: for training images; in any precision.
        calibration: of `training` in int8, else None.
    """

    evaluated: Engine
    training: Engine
    calibration: Calibration | None = None

    def __str__(self) -> str:
        same = self.training == self.evaluated
        return str(self.evaluated) if same else f"{self.evaluated}, training images by {self.training}"


def choose_engine(wanted: Features, weights: Weights, workspace: Workspace) -> Engine:
    """The fastest engine for training images; never int8.

    Without a GPU or matrix units (AMX) nothing is measured: ncnn in float32 is as fast as bfloat16, and exact. With
    them, each engine computes one batch, and the faster one is kept for this workspace and this kind of machine.
    """
    if wanted.engine == "ncnn" or (wanted.engine == "auto" and wanted.precision == "float32" and not has_gpu()):
        return Engine("ncnn", "float32")
    if wanted.precision == "float32" or wanted.precision == "bfloat16":
        return Engine("tensorflow", wanted.precision)
    if wanted.engine == "tensorflow":
        return Engine("tensorflow", "bfloat16" if _has_bfloat16() else "float32")
    if not has_gpu() and not cpu_has("amx_bf16"):
        return Engine("ncnn", "float32")
    exact, fast = Engine("ncnn", "float32"), Engine("tensorflow", "bfloat16")

    def measure() -> str:
        rates = [measure_rate(engine, weights, wanted.batch_size) for engine in (exact, fast)]
        return fast.name if rates[1] > _FASTER_BY * rates[0] else exact.name

    return fast if workspace.decide_once("engine", _machine(), measure) == fast.name else exact


def choose_engines(
    wanted: Features, weights: Weights, workspace: Workspace, base: Mapping[str, Any], examples: Sequence[Example],
    extraction: Extraction,
) -> Engines:  # fmt: skip
    """The engines before anything is computed; they include int8 if the settings ask for it or it was chosen earlier.

    Args:
        wanted: the block `features`.
        weights: of the network.
        workspace: stores measurements and earlier calibrations.
        base: what all features depend on.
        examples: all of them.
        extraction: reads the images.

    Raises:
        SettingsError: the settings ask for int8, which this machine computes wrongly.
    """
    engine = choose_engine(wanted, weights, workspace)
    evaluated = _in_float32(engine, wanted)
    if wanted.precision not in ("auto", "int8"):
        return Engines(evaluated, engine)
    calibration = load_calibration(workspace.features / BOTTLENECK, fingerprint(base))
    if calibration is None and wanted.precision == "int8":
        calibration = calibrate(weights, _keys(examples, "train"), extraction.read_images)
    wrong = _find_wrong_products(evaluated, calibration, workspace, extraction) if calibration else ""
    if wrong and wanted.precision == "int8":
        raise SettingsError(f"features.precision=int8 can't be used: {wrong}. Use features.precision=float32")
    if wrong:
        print(f"features: int8 for training images: no, {wrong}", flush=True)
        calibration = None
    return Engines(evaluated, calibration.engine if calibration else engine, calibration)


def training_poolings(rules: Train, examples: Sequence[Example]) -> tuple[Pooling, ...]:
    """The poolings that training chooses from."""
    if rules.recipe == "tutorial":
        return ("flatten",)
    from tasks.vgg.training.linear_probe import poolings_for  # only the check of int8 needs it here

    used = [one for one in examples if one.split != "test"]
    return poolings_for(rules.modern, len({one.label for one in used}), len(used))


def _find_wrong_products(
    evaluated: Engine, calibration: Calibration, workspace: Workspace, extraction: Extraction
) -> str:
    """What is wrong with int8 on this machine, in words, or nothing; measured once for a kind of CPU."""
    keys = calibration.images[:_COMPARED]

    def measure() -> float:
        exact, rounded = (
            extraction.compute(engine, keys).reshape(len(keys), -1).astype(np.float64)
            for engine in (evaluated, calibration.engine)
        )
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
        return float(((exact * rounded).sum(axis=1) / lengths).mean())

    facts = {
        "machine": platform.machine(),
        "flags": [flag for flag in ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8") if cpu_has(flag)],
        "onnxruntime": version("onnxruntime"),
        "ranges": list(calibration.ranges),
    }
    cosine: float = workspace.decide_once("int8 cosine", facts, measure)
    differ = "on this machine int8 features differ from float32 features"
    return "" if cosine >= _SIMILAR else f"{differ} (mean cosine {cosine:.3f}, at least {_SIMILAR} is needed)"


def _in_float32(engine: Engine, wanted: Features) -> Engine:
    """An engine in float32, on the same hardware."""
    if engine.precision == "float32":
        return engine
    return Engine("tensorflow" if has_gpu() or wanted.engine == "tensorflow" else "ncnn", "float32")


def check_int8(
    engines: Engines, settings: Settings, workspace: Workspace, weights: Weights, examples: Sequence[Example],
    duplicates: Sequence[Duplicate], rows: RowsByFolder, extraction: Extraction,
) -> Engines:  # fmt: skip
    """Let `auto` use int8 for training images if validation shows no loss of accuracy; prints the result.

    The check runs if int8 is fast here, many rows are missing, and no training image has features yet. It first
    computes the features of the validation and test images, which are needed anyway.
    """
    if (
        settings.features.precision != "auto"
        or engines.calibration
        or engines.training.name != "ncnn"
        or not has_fast_int8()
    ):
        return engines
    train = set(_keys(examples, "train"))
    if extraction.has_rows(engines.evaluated, BOTTLENECK, train):
        return engines
    chosen = choose_checked([one for one in examples if one.split == "validation"])
    missing = len({row for some in keep_images(rows, train).values() for row in some})
    if missing < max(_WORTH_CHECKING, _ROWS_A_CHECKED_IMAGE * len(chosen)):
        return engines
    evaluated = {one.key for one in examples if one.split != "train"}
    extraction.bring([(engines.evaluated, keep_images(rows, evaluated))])
    calibration = calibrate(weights, sorted(train), extraction.read_images)
    if wrong := _find_wrong_products(engines.evaluated, calibration, workspace, extraction):
        print(f"features: int8 for training images: no, {wrong}", flush=True)
        return engines
    keys = [one.key for one in chosen]
    exact, quantized = extraction.stored(BOTTLENECK, keys), extraction.compute(calibration.engine, keys)
    poolings = training_poolings(settings.train, examples)
    verdict = check(exact, quantized, chosen, duplicates, poolings)
    print(f"features: int8 for training images: {'yes' if verdict.passed else 'no'}, {verdict.reason}", flush=True)
    return Engines(engines.evaluated, calibration.engine, calibration) if verdict.passed else engines


def keep_calibration(engines: Engines, workspace: Workspace, base: Mapping[str, Any]) -> None:
    """Store the calibration with the features, or remove the one of an earlier run."""
    save_calibration(workspace.features / BOTTLENECK, engines.calibration, fingerprint(base))


def decide_boundary(
    settings: Settings, workspace: Workspace, engine: Engine, weights: Weights, strategy: str, boundary: str,
    phases: Sequence[Phase], train: int, validation: int, room_bytes: float,
) -> Decision:  # fmt: skip
    """`boundaries.decide` with this machine's rates.

    TensorFlow trains, with another rate than that of the engine that computes features (a third of ncnn's with AVX2).
    To measure its rate takes ten seconds, so that is done only where the rate decides and the decision matters.
    """
    images_per_s, disk, views = measure_rates(engine, weights, settings, workspace)

    def at(training_images_per_s: float) -> Decision:
        rates = Rates(images_per_s, disk, training_images_per_s, views)
        wish = settings.features.boundary_cache
        trainings = settings.as_many_trainings
        return decide(strategy, boundary, phases, train, validation, rates, room_bytes, wish, trainings)

    training = Engine("tensorflow", training_precision(settings.train))
    if engine == training:
        return at(images_per_s)
    slowest, fastest = at(images_per_s / _SLOWER_BY), at(inf if has_gpu() else _FASTER_BY * images_per_s)
    if slowest.kept == fastest.kept or slowest.saved_s < _WORTH_MEASURING_S:
        return at(images_per_s)
    return at(_measure_training(training, weights, settings.features, workspace))


def training_precision(rules: Train) -> Literal["float32", "bfloat16"]:
    """The precision in which TensorFlow trains: `bfloat16` if the hardware computes in it (twice as fast)."""
    if rules.precision != "auto":
        return rules.precision
    return "bfloat16" if _has_bfloat16() else "float32"


def measure_rates(
    engine: Engine, weights: Weights, settings: Settings, workspace: Workspace
) -> tuple[float, float, float]:
    """Images/s of the engine, bytes/s of the disk, augmented views/s: measured once for this workspace and machine."""

    def measure() -> list[float]:
        images_per_s = measure_rate(engine, weights, settings.features.batch_size)
        return [images_per_s, _disk_rate(workspace.features), measure_views(settings.augmentation)]

    images, disk_bytes, views = workspace.decide_once("speeds", {**_machine(), "engine": str(engine)}, measure)
    return images, disk_bytes, views


def _measure_training(engine: Engine, weights: Weights, wanted: Features, workspace: Workspace) -> float:
    """Images/s of the engine that trains, measured once as the other rates."""
    facts = {**_machine(), "engine": str(engine)}
    measure = partial(measure_rate, engine, weights, wanted.batch_size)
    rate: float = workspace.decide_once("training rate", facts, measure)
    return rate


def _has_bfloat16() -> bool:
    """Whether the hardware computes in bfloat16."""
    return has_gpu() or cpu_has("avx512_bf16", "amx_bf16")


def _machine() -> dict[str, Any]:
    """What distinguishes machines that share a clone, such as a laptop and a GPU box."""
    return {"gpu": has_gpu(), "amx": cpu_has("amx_bf16")}


def _keys(examples: Sequence[Example], split: str) -> list[str]:
    return [one.key for one in examples if one.split == split]


def _disk_rate(folder: Path) -> float:
    """How fast the disk writes, bytes/s."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".{os.getpid()}.partial"
    try:
        start = time.monotonic()
        file.write_bytes(bytes(_DISK_BYTES))
        sync_file(file)
        return _DISK_BYTES / (time.monotonic() - start)
    finally:
        with suppress(FileNotFoundError):
            file.unlink()
