"""Each program pays for the libraries that it computes with, and for no other: what it imports while it works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.tasks.steps import run_afresh
from tests.tasks.test_train import STRATEGY, fill

SLOW = (
    "boto3",
    "dvc",
    "keras",
    "ncnn",
    "onnx",
    "onnxruntime",
    "optuna",
    "prefect",
    "ray",
    "scipy",
    "sklearn",
    "tensorflow",
)


def slow_libraries(workspace: Path, module: str, *arguments: str) -> set[str]:
    """The slow libraries that a program imports, wherever and whenever."""
    [said] = run_afresh([workspace], module, *arguments, PYTHONPROFILEIMPORTTIME="1")
    found = set(re.findall(r"\| +(\w+)$", said, re.MULTILINE))
    assert "json" in found
    return found.intersection(SLOW)


def test_linear_training_needs_no_library_but_numpy(workspace: Path, change: Any) -> None:
    change()
    assert slow_libraries(fill(workspace), "tasks.train", STRATEGY) == set()
