"""The flow that scores: its form, its child process, and its place among the deployments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from flows.score import describe_scores, run_score, score
from tasks.errors import RunError, TransientError
from tasks.files import read_json
from tasks.score import SUMMARY
from tasks.scoring.rows import FORMATS
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.tasks.exporting import save_export
from tests.tasks.test_score import fill


def test_form_of_scoring_asks_for_a_source_and_a_folder_and_offers_the_formats() -> None:
    shown = parameter_schema(score.fn)
    assert shown.required == ["source", "out"]
    assert tuple(shown.properties["form"]["enum"]) == FORMATS
    assert all(one.get("description") for one in shown.properties.values())


def test_deployment_of_scoring_fits_the_form_and_waits_for_a_person_to_start_its_schedule() -> None:
    deployments = {one["name"]: one for one in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]}
    one = deployments["new-images"]
    assert one["entrypoint"] == "flows/score.py:score"
    assert one["parameters"].keys() == {"source", "out"}
    assert [schedule["active"] for schedule in one["schedules"]] == [False]


@pytest.mark.slow
def test_scoring_runs_in_the_clone_and_its_failures_say_whether_waiting_helps(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workspace / "new", 12)
    model = save_export(tmp_path / "export")
    clone, lines, states = Workspace.at(workspace), list[str](), list[dict[str, Any]]()
    arguments = ["--model", str(model), "--out", "scores/today"]
    run_score(clone, [*arguments, "new"], 600, lines.append, states.append)
    assert "12 rows" in lines[-1]
    assert states[-1]["done"] == 12
    summary = read_json(workspace / "scores/today" / SUMMARY)
    assert "| error not_an_image | 2 " in describe_scores(summary, "scores/today")
    with pytest.raises(RunError, match="The source 'old' doesn't exist"):
        run_score(clone, [*arguments, "old"], 600, lines.append, states.append)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(TransientError):
        run_score(clone, [*arguments, "s3://bucket/new"], 600, lines.append, states.append)
