"""Each program pays for the libraries that it computes with, and for no other: what it imports while it works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
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
    "scipy.optimize",
    "scipy.stats",
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
    found = modules(said)
    assert "json" in found
    return found & SLOW


def modules(said: str) -> set[str]:
    """The modules that Python names with `-X importtime`."""
    return set(re.findall(r"\| +([\w.]+)$", said, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.weights
def test_each_stage_imports_the_slow_libraries_that_it_needs_and_no_other(
    workspace: Path, source: Path, change: Any
) -> None:
    settings_for(change, source, "features.engine=ncnn")
    stages = {stage: slow_libraries(workspace, *f"tasks.{stage}".split()) for stage in NEEDED}
    assert stages == NEEDED


def test_processes_that_decode_import_neither_the_settings_nor_arrow() -> None:
    """One starts for each `prepare` and each `predict`, which wait for it."""
    command = [sys.executable, "-X", "importtime", "-c", "import tasks.images.workers"]
    said = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stderr
    found = modules(said)
    assert "tasks.images.decoding" in found
    assert found & {"pydantic", "pyarrow", *SLOW} == set()
