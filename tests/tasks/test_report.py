"""The program `report` on a small evaluated workspace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks import evaluate, report
from tasks.errors import IntegrityError
from tasks.workspace import Workspace
from tests.tasks.evaluate_workspace import make_settings, make_workspace
from tests.tasks.runs.repository import init_dvc

RIGHT = {"feature_extraction": {"test": 0.5}}


def test_report_shows_the_mistakes_of_the_workspace(tmp_path: Path) -> None:
    evaluate.run(make_settings(), Workspace.at(make_workspace(tmp_path, RIGHT)))
    text = report.run(Workspace.at(tmp_path), {"Plan": "http://localhost/plan"})
    assert text.count("data:image/jpeg") == 3
    assert "**50.0\u00a0%** on 10 images" in text
    assert text.endswith("- Plan: [http://localhost/plan](http://localhost/plan)")
    assert "SECRET" not in text


def test_report_without_an_evaluation_names_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="dvc repro evaluate"):
        report.run(Workspace.at(tmp_path))


def test_report_of_a_folder_that_did_not_evaluate_anew_takes_what_dvc_keeps(tmp_path: Path) -> None:
    evaluate.run(make_settings(), Workspace.at(make_workspace(tmp_path, RIGHT)))
    stage = "stages: {evaluate: {cmd: 'true', outs: [reports/evaluation.json: {persist: true}]}}"
    (tmp_path / "dvc.yaml").write_text(stage)
    init_dvc(tmp_path, in_git=False)
    subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet"], cwd=tmp_path, check=True)
    text = report.run(Workspace.at(tmp_path))
    (tmp_path / "reports/evaluation.json").unlink()
    assert report.run(Workspace.at(tmp_path)) == text


def test_report_goes_without_images_that_are_not_here(tmp_path: Path) -> None:
    evaluate.run(make_settings(), Workspace.at(make_workspace(tmp_path, RIGHT)))
    (tmp_path / "data/prepared/shards").rename(tmp_path / "elsewhere")
    assert "3 more are in the report." in report.run(Workspace.at(tmp_path))
