"""A new strategy is one file and its settings in params.yaml and dvc.yaml: tested in a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.slow

FIFTH = '''
"""`fifth` trains the topmost block, in as many rounds as its setting says."""

from pydantic import Field

from tasks.vgg.strategies.base import BLOCK_NAMES, FROZEN, BlockSettings, Strategy, modern_phase, tutorial_phase


class FifthSettings(BlockSettings):
    rounds: int = Field(ge=1, description="phases")


def modern(own, recipe, augmentation):
    unfrozen = BLOCK_NAMES[-own.blocks :]
    rates = own.learning_rates(unfrozen)
    return tuple(
        modern_phase(f"round{number}", unfrozen, rates, "fifth", own, recipe, augmentation)
        for number in range(own.rounds)
    )


STRATEGY = Strategy(
    name="fifth",
    order=5,
    start="linear_probe",
    settings=FifthSettings,
    modern=modern,
    tutorial=lambda recipe: (tutorial_phase("head", (), recipe),),
    descriptions={
        "modern": "A regularized linear model is trained together with the topmost block, in rounds.",
        "tutorial": f"{FROZEN} A head is trained.",
    },
)
'''
PARAMS = """\
    fifth:
      rounds: 2
      blocks: 1
      epochs: 2
      head_learning_rate: 0.001
      block_learning_rate: 0.00003
      learning_rate_decay: 0.5
"""
PIPELINE = """
import json, sys
from pathlib import Path
from tasks import evaluate, features, report, train
from tasks.params import parse_strategies
from tasks.settings import Settings
from tasks.vgg.boundaries import candidates
from tasks.workspace import Workspace
from tests.conftest import changing, fill_source
from tests.tasks.steps import run_prepare, settings_for
from tests.tasks.vgg.training.miniature import QUICK, use_tiny_weights

folder = Path.cwd()
use_tiny_weights()
names = parse_strategies("fifth")
settings = settings_for(changing(folder), fill_source(folder / "images"), *QUICK, f"strategies={names}")
run_prepare(settings, folder)
workspace = Workspace.at(folder)
features.run(settings, workspace)
summary = train.run(settings, workspace, "fifth")
champion = evaluate.run(settings, workspace).champion
model = json.loads((folder / "models/trained/fifth/model.json").read_text())
print(json.dumps({
    "all": parse_strategies("all"),
    "schema": Settings.model_json_schema()["$defs"]["FifthSettings"]["properties"]["rounds"]["description"],
    "asked": [list(name) for name in candidates(settings)],
    "starts_from": model["summary"]["starts_from"],
    "phases": [phase["phase"] for phase in model["summary"]["phases"]],
    "unusable": summary.unusable,
    "champion": champion,
    "page": (folder / "reports/report.html").read_text(),
    "report": report.run(workspace),
}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with one more file, and more lines in params.yaml and dvc.yaml."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (PROJECT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "tasks/vgg/strategies/fifth.py").write_text(FIFTH.lstrip())
    for file in ("params.yaml", "tests/settings/params.yaml"):
        insert(tmp_path / file, "    progressive:\n", PARAMS)
    entries = [f"      - train.modern.fifth.{name}\n" for name in ("blocks", "epochs", "rounds")]
    insert(tmp_path / "dvc.yaml", "      - train.modern.progressive.blocks\n", "".join(entries))
    return tmp_path


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, text + before))


def run(project: Path, command: Sequence[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_new_strategy_is_known_trained_and_reported(project: Path) -> None:
    found = json.loads(run(project, [sys.executable, "-c", PIPELINE]).splitlines()[-1])
    assert found["all"][-1] == "fifth"
    assert found["schema"] == "phases"
    assert found["asked"] == [["fifth", "block4_pool"]]
    assert found["starts_from"] == ["block4_pool"] * len(found["starts_from"])
    assert found["phases"][0] == "round0"
    assert found["champion"] == "fifth"
    assert not found["unusable"]
    assert "is trained together with the topmost block, in rounds." in unescape(found["page"])
    assert "| **fifth** | modern |" in found["report"]


def test_new_strategy_is_in_the_help_and_its_settings_in_the_graph(project: Path) -> None:
    assert ",progressive,fifth SET=" in run(project, ["make", "help"])
    tests = ["tests/test_dvc_yaml.py", "tests/test_params.py", "tests/tasks/vgg/test_strategies.py"]
    chosen = "features or settings or file or advice or description"
    run(project, [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "not slow", "-k", chosen, *tests])
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("      - train.modern.fifth.rounds\n", ""))
    with pytest.raises(AssertionError, match=r"train\.modern\.fifth\.rounds"):
        run(project, [sys.executable, "-m", "pytest", "-n", "0", "-q", "-k", "features and fifth", tests[0]])
