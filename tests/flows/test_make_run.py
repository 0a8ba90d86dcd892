"""`make run` as in the README: the real pipeline in a fresh clone, from images to an accurate model.

Then the project's own tests pass in that clone, which has by now been used, and in a shell that is set up for something
else.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from tasks.params import change_settings, parse_changes
from tests.conftest import PARAMS, PROJECT
from tests.flows.project import Project

CLASSES = {"three": 3, "eight": 8, "nine": 9}
"""Digits that look alike in 8x8 pixels: right for most of them is learnt, right for all of them is luck."""
A_SPLIT = 12
SURE = 1e-6
"""How likely, at most, guessing is to be as often right."""
QUICK_TESTS = (
    "tests/test_params.py",
    "tests/test_dvc_yaml.py",
    "tests/tasks/test_settings.py",
    "tests/tasks/test_plan.py::test_limit_of_images_a_class_is_counted",
    "tests/tasks/images/sources/test_s3_refusals.py::test_s3_works_again_with_the_credentials_file_renewed",
    "tests/flows/test_form.py",
    "tests/flows/test_pipeline.py::test_wrong_argument_is_reported_in_words",
)
OTHER_SETTINGS = (
    "source.limit_per_class=5",
    "prepare.test_fraction=0.4",
    "prepare.near_duplicate_bits=0",
    "features.batch_size=7",
    "strategies=[progressive, head_replacement]",
    "train.recipe=tutorial",
    "train.seed=11",
    "train.tutorial.epochs=3",
    "run.stage_retries=0",
)
HOSTILE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_PROFILE": "nobody",
    "DVC_STUDIO_TOKEN": "x",
    "PREFECT_API_URL": "http://127.0.0.1:9/api",
    "PREFECT_HOME": "/nonexistent",
    "SOURCE": "elsewhere",
}
pytestmark = [pytest.mark.slow, pytest.mark.weights]


@dataclass(frozen=True)
class Used:
    """A clone in which `make run` has ended."""

    clone: Project
    source: Path
    code: int
    output: str

    def metrics(self) -> dict[str, Any]:
        """The champion's figures."""
        found = json.loads((self.clone.folder / "reports/metrics.json").read_text())
        figures: dict[str, Any] = found["strategies"][found["champion"]]
        return figures


def make_clone(folder: Path) -> Project:
    """The tracked files with the tests' settings, in a repository of their own, with the environment of these tests."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        if (PROJECT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    shutil.copy(PARAMS, folder)
    clone = Project(folder)
    clone.git("init", "-q", "-b", "main")
    clone.git("add", ".")
    clone.git("commit", "-q", "-m", "The project")
    (folder / ".git/info/exclude").write_text(".venv\n")
    return clone


def write_digits(folder: Path) -> Path:
    """train/<class>/ and test/<class>/, with handwritten digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    for label, digit in CLASSES.items():
        for number, pixels in enumerate(grey[digits.target == digit][: 2 * A_SPLIT]):
            file = folder / ("train" if number < A_SPLIT else "test") / label / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    folder = tmp_path_factory.mktemp("make-run")
    clone = make_clone(folder / "clone")
    source = write_digits(folder / "Ann's digits")
    settings = "augmentation.count=1 export.formats=[saved_model,onnx]"
    code, output = clone.make("run", f"SOURCE={source}", f"SET={settings}")
    return Used(clone, source, code, output)


def test_make_run_ends_well_and_names_what_is_there(used: Used) -> None:
    assert used.code == 0, used.output
    end = used.output.split("\nChampion: ")[1]
    assert end.startswith(f"feature_extraction, test accuracy {used.metrics()['test']['accuracy']:.4f} ")
    named = re.findall(r"^(?:Report|Metrics|Model): +(\S+)$", end, re.MULTILINE)
    assert named == ["reports/report.html", "reports/metrics.json", "models/export"]
    assert [path for path in named if not (used.clone.folder / path).exists()] == []
    assert used.clone.left_over() == []


def test_make_run_learns_what_held_out_images_show(used: Used) -> None:
    test = used.metrics()["test"]
    assert test["n"] == A_SPLIT * len(CLASSES)
    right = round(test["accuracy"] * test["n"])
    assert scipy.stats.binomtest(right, test["n"], 1 / len(CLASSES), alternative="greater").pvalue < SURE


def test_exported_model_answers_files_with_the_accuracy_that_was_reported(used: Used) -> None:
    command = [sys.executable, "-m", "tasks.predict", "--model", "models/export", str(used.source / "test")]
    folder, environment = used.clone.folder, used.clone.environment
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(str(path) for path in (used.source / "test").rglob("*.png"))
    for row in rows:
        assert list(row)[:4] == ["path", "label", "probability", "probabilities"]
        assert "unsure" in row
        assert set(row["probabilities"]) == set(CLASSES)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    right = sum(Path(row["path"]).parent.name == row["label"] for row in rows)
    # An image between two classes may fall to the other one: features are kept in 16 bits.
    assert right == pytest.approx(used.metrics()["test"]["accuracy"] * len(rows), abs=1.01)


def test_own_tests_pass_in_a_clone_that_was_used_and_in_a_hostile_shell(used: Used) -> None:
    assert used.clone.git("status", "--porcelain").splitlines() == [" M params.yaml", "?? dvc.lock", "?? reports/"]
    change_settings(used.clone.folder, parse_changes(OTHER_SETTINGS))
    environment = {**used.clone.environment, **HOSTILE}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *QUICK_TESTS]
    folder = used.clone.folder
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert re.search(r"^\d+ passed", ended.stdout, re.MULTILINE), ended.stdout
