"""Each program pays for the libraries that it computes with, and for no other: what it imports while it works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.steps import run_afresh, settings_for

SLOW = {
    "boto3",
    "dvc",
    "keras",
    "ncnn",
    "onnx",
    "onnxruntime",
    "optuna",
    "prefect",
    "pyarrow.compute",
    "ray",
    "scipy",
    "sklearn",
    "tensorflow",
    "tensorflow_datasets",
}
"""Each takes at least as long to import as Python takes to start; ten of them take longer than a small stage."""
NEEDED = {
    "ingest": set(),
    "prepare": set(),
    "features": {"ncnn", "onnx"},  # onnx reads the weights
    "train feature_extraction": set(),
    "evaluate": set(),
}


def slow_libraries(workspace: Path, module: str, *arguments: str) -> set[str]:
    """The slow libraries that a program imports, in whichever of its processes and whenever."""
    [said] = run_afresh([workspace], module, *arguments, PYTHONPROFILEIMPORTTIME="1")
    found = set(re.findall(r"\| +([\w.]+)$", said, re.MULTILINE))
    assert "json" in found
    return found & SLOW


@pytest.mark.slow
@pytest.mark.weights
def test_each_stage_imports_the_slow_libraries_that_it_needs_and_no_other(
    workspace: Path, source: Path, change: Any
) -> None:
    settings_for(change, source, "features.engine=ncnn")
    stages = {stage: slow_libraries(workspace, *f"tasks.{stage}".split()) for stage in NEEDED}
    assert stages == NEEDED
