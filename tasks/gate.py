"""The gate: may the model of a commit replace the one in production? Reads both versions; `reports.gate` checks.

Both are compared on the candidate's held-out images, without those that production has learned from. What production
predicts for them was kept when it was evaluated. Only for images that have come since then, its exported model is run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from tasks.errors import IntegrityError, PredictError
from tasks.evaluated import unpack_predictions
from tasks.files import read_json
from tasks.images.decoding import Pixels
from tasks.images.folds import number_groups
from tasks.images.known_images import known_images
from tasks.images.manifest import Example, read_duplicates, read_examples, read_memory
from tasks.images.shards import Shards, open_shards
from tasks.reports import gate as checks
from tasks.runs.guarded_process import GuardedProcess
from tasks.runs.run_context import Say
from tasks.runs.supervisor import child_environment
from tasks.runs.version_folders import add_outputs, version_folder
from tasks.scores import Floats, log_losses, predict
from tasks.settings import Settings
from tasks.vgg.exports.signature import configured_key
from tasks.workspace import EVALUATION, EXPORT, PREDICTIONS, PREPARED, Workspace

_SAMPLE = 4
"""So many held-out images the exported model has to answer as evaluated; the stage `export` checks all formats."""
_LIMIT_S = 7200.0


@dataclass(frozen=True)
class Side:
    """One of the two versions, in its folder."""

    workspace: Workspace

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        evaluation: Mapping[str, Any] = read_json(self.workspace.evaluation)
        return evaluation

    @cached_property
    def examples(self) -> list[Example]:
        return read_examples(self.workspace.prepared)

    @cached_property
    def shards(self) -> Shards:
        return open_shards(self.workspace.shards)

    @cached_property
    def predictions(self) -> dict[str, Floats]:
        """What was predicted for the test images; none in an old version."""
        path = self.workspace.predictions
        return unpack_predictions(path.read_bytes()) if path.exists() else {}

    @property
    def classes(self) -> list[str]:
        classes: list[str] = self.evaluation["classes"]
        return classes

    @property
    def test(self) -> list[Example]:
        return [one for one in self.examples if one.split == "test"]

    @property
    def learned(self) -> list[str]:
        """The keys of the images that training has used, validation included."""
        return [one.key for one in self.examples if one.split != "test"]

    @property
    def apart(self) -> frozenset[str]:
        return read_memory(self.workspace.prepared).apart

    @property
    def measured(self) -> Mapping[str, Any]:
        """The champion's metrics on its test images."""
        tested: Mapping[str, Any] = self.evaluation["strategies"][self.evaluation["champion"]]["test"]
        return tested


@dataclass(frozen=True)
class Scores:
    """What an exported model has answered in a process of its own."""

    classes: list[str]
    probabilities: Floats
    latency_ms: float

    @classmethod
    def of(cls, export: Path, pixels: Pixels, temporary: Path, public_key: Path | None = None) -> Self:
        """Score images (n, 224, 224, 3).

        Raises:
            PredictError: the model can't be loaded, isn't signed by the owner of the public key, or doesn't answer in
                time.
        """
        images, scores = temporary / "images.npy", temporary / "scores.npz"
        np.save(images, pixels)
        command = [sys.executable, "-m", "tasks.exported_scores", str(export), str(images), str(scores)]
        command += [str(public_key.absolute())] if public_key else []
        here = str(Path(__file__).parents[1])
        environment = {**child_environment(os.environ), "PYTHONPATH": here}
        with GuardedProcess(command, temporary, environment, subprocess.PIPE, _LIMIT_S) as process:
            said = process.output.read().decode(errors="replace")
            while (ending := process.ending()) is None:
                time.sleep(0.01)  # its output has ended, so it ends, too
        if ending.code != 0 or not scores.exists():
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise PredictError(f"The exported model can't be used: {last}")
        with np.load(scores) as found:
            return cls(found["classes"].tolist(), found["probabilities"], float(found["latency_ms"]))


def judge_versions(clone: Path, settings: Settings, say: Say, candidate: str, production: str | None) -> dict[str, Any]:
    """The gate's verdict.

    Args:
        clone: of the repository.
        settings: `gate` and what the checks need besides.
        say: tells a person a line.
        candidate: the commit of a run.
        production: the commit of the version in production; None: there is none, so nothing is compared.

    Returns:
        JSON: `passed`, `checks` (the table, see `reports.gate`) and `classes` (of the candidate).

    Raises:
        RunError: data of one of them are missing.
        TransientError: a remote doesn't answer.
    """
    with contextlib.ExitStack() as stack:
        say("The gate checks the model" + (" against the one in production." if production else "."))
        needed = (EVALUATION, PREDICTIONS, PREPARED)
        now = Side(stack.enter_context(version_folder(clone, candidate, (EXPORT, *needed), say)))
        before = Side(stack.enter_context(version_folder(clone, production, needed, say))) if production else None
        rows = [*compare(now, before, settings), *check_alone(now, settings)]
    return {"passed": all(row["passed"] for row in rows), "checks": rows, "classes": now.classes}


def compare(now: Side, before: Side | None, settings: Settings) -> list[checks.Row]:
    """The checks of a candidate against production, on the same images."""
    radius = settings.prepare.near_duplicate_bits
    test, keys = now.test, [one.key for one in now.test]
    leaked = known_images(keys, now.shards, now.learned, now.shards, now.apart, radius)
    if before is None:
        return [checks.check_held_out(checks.HeldOut(len(test), len(leaked)), False)]
    clean = [one for one in test if one.key not in leaked]
    known = known_images(
        [one.key for one in clean], now.shards, before.learned, before.shards, now.apart | before.apart, radius
    )
    left = [one for one in clean if one.key not in known]
    compared = [one for one in left if one.label in before.classes]
    images = checks.HeldOut(len(test), len(leaked), len(known), len(left) - len(compared))
    rows = [checks.check_held_out(images, True)]
    if compared:
        pairs = _pair(now, before, compared)
        rows += [checks.check_accuracy(pairs, settings.gate.margin), checks.check_log_loss(pairs)]
    foreign, what_if = ([side.evaluation.get(name) for side in (now, before)] for name in ("foreign", "what_if"))
    return [*rows, checks.check_foreign(*foreign), checks.check_what_if(*what_if)]


def check_alone(now: Side, settings: Settings) -> list[checks.Row]:
    """The checks of the candidate that need no other version."""
    rows = [checks.check_recalls(now.measured, settings.gate.min_recall)]
    sample = sorted(now.predictions)[:_SAMPLE]
    pixels = now.shards.read(sample)
    tolerance, budgets, key = settings.export.probability_tolerance, settings.gate, configured_key()
    try:
        with now.workspace.temporary_folder() as temporary:
            found = Scores.of(now.workspace.export, pixels, temporary, key)
    except PredictError as error:
        return [*rows, checks.check_export(None, tolerance, str(error))]
    expected = np.array([now.predictions[key] for key in sample])
    difference = float(np.abs(found.probabilities - expected).max())
    rows.append(checks.check_export(difference, tolerance, "", is_signed=key is not None))
    if budgets.max_latency_ms is not None:
        rows.append(checks.check_budget("latency of one image", found.latency_ms, "ms", budgets.max_latency_ms))
    if budgets.max_size_mb is not None:
        files = [path for path in now.workspace.export.rglob("*") if path.is_file()]
        size_mb = sum(path.stat().st_size for path in files) / 1e6
        rows.append(checks.check_budget("size of the export", size_mb, "MB", budgets.max_size_mb))
    return rows


def _pair(now: Side, before: Side, compared: Sequence[Example]) -> checks.Pairs:
    """Both versions' predictions for the same images."""
    keys = [one.key for one in compared]
    new = [key for key in keys if key not in before.predictions]
    answers = {**before.predictions, **(_score_new(now, before, new) if new else {})}
    hits, losses = zip(
        *(
            _judge_predictions(found, side.classes, compared)
            for side, found in ((now, now.predictions), (before, answers))
        ),
        strict=True,
    )
    group_of = number_groups(now.examples, read_duplicates(now.workspace.prepared))
    groups = np.unique([group_of[key] for key in keys], return_inverse=True)[1]
    return checks.Pairs(hits[0], hits[1], losses[0], losses[1], groups)


def _judge_predictions(
    found: Mapping[str, Floats], classes: Sequence[str], compared: Sequence[Example]
) -> tuple[checks.Booleans, Floats]:
    """Whether each prediction is right, and its log loss."""
    missing = [one.path for one in compared if one.key not in found]
    if missing:
        raise IntegrityError(
            f"{PREDICTIONS} lacks {len(missing)} test images, such as {missing[0]}: dvc repro evaluate"
        )
    labels = np.array([classes.index(one.label) for one in compared])
    probabilities = np.array([found[one.key] for one in compared])
    return predict(probabilities) == labels, log_losses(probabilities, labels)


def _score_new(now: Side, before: Side, keys: Sequence[str]) -> dict[str, Floats]:
    """What production answers for images that it hasn't been tested on, by its exported model."""
    add_outputs(before.workspace, (EXPORT,))
    with before.workspace.temporary_folder() as temporary:
        found = Scores.of(before.workspace.export, now.shards.read(keys), temporary)
    return dict(zip(keys, found.probabilities, strict=True))
