"""The pipeline as people start it: by command, by `dvc repro`, and as a deployment on a Prefect server."""

from __future__ import annotations

import re
import shutil
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.alerts import ACCURACY_DROPPED
from tasks.workspace import Workspace
from tests.conftest import fill_source
from tests.flows.conftest import serve
from tests.flows.project import STAGES, Api, Project, copy_project
from tests.waiting import is_running, wait_until

ONE_CLASS = "A classifier needs at least two classes"
PIPELINE = ("-m", "flows.pipeline")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served_project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Api]]:
    """A project with `python -m flows.ui` running in it: server, deployment and worker."""
    folder = tmp_path_factory.mktemp("served")
    with serve(copy_project(template, folder / "project"), folder) as served:
        yield served


@pytest.fixture
def api(served_project: tuple[Project, Api], project: Project) -> Api:
    """The served Prefect; the `project`'s runs are told to it."""
    project.environment |= served_project[1].client
    return served_project[1]


@pytest.fixture(scope="module")
def finished(
    template: Path, served_project: tuple[Project, Api], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str]:
    """A project whose pipeline has run once, and what it said."""
    project = copy_project(template, tmp_path_factory.mktemp("finished") / "project")
    project.environment |= served_project[1].client
    code, text = project.run(
        *PIPELINE, "--source", "digits", "--strategy", "feature_extraction", "--set", "train.seed=7"
    )
    assert code == 0, text
    return project, text


def hang(project: Project) -> list[int]:
    """The processes of the hanging stage, each of them running."""
    processes = project.processes()
    assert all(is_running(number) for number in processes)
    return processes


def wait_for_the_end_of(processes: list[int]) -> None:
    wait_until(lambda: not any(is_running(number) for number in processes), "the stage's processes to end")


def test_pipeline_runs_the_stages_in_order_and_nothing_when_nothing_changed(finished: tuple[Project, str]) -> None:
    project, _ = finished
    assert project.ran() == list(STAGES)
    code, text = project.run(*PIPELINE)
    assert (code, project.ran()) == (0, []), text


def test_first_line_says_which_settings_an_earlier_run_left(finished: tuple[Project, str]) -> None:
    project, text = finished
    assert text.startswith(
        "Changed in params.yaml, also for later runs: train.seed=7. Back to the committed settings: "
    )
    code, text = project.run(*PIPELINE, "--strategy", "feature_extraction")
    assert code == 0, text
    assert text.startswith(
        "Settings from before, not as committed: train.seed=7. "
        "Without them: make run RESET=1 STRATEGY=feature_extraction\n"
    )


def test_pipeline_shows_each_line_of_a_stage_once(finished: tuple[Project, str]) -> None:
    assert finished[1].count("> python stand_in.py prepare out/prepare out/ingest") == 1


def test_arguments_are_written_into_params(finished: tuple[Project, str]) -> None:
    assert "  seed: 7\n" in (finished[0].folder / "params.yaml").read_text()


def test_run_is_shown_with_progress_and_metrics(
    finished: tuple[Project, str], served_project: tuple[Project, Api]
) -> None:
    api = served_project[1]
    progress = api.artifact("progress-train-feature-extraction")
    assert progress["data"] == 100.0
    assert "3/3 images" in progress["description"]
    assert "loss 0.25" in progress["description"]
    assert '"images": "3/3"' in api.artifact("course-train-feature-extraction")["data"]
    assert "| train@feature_extraction | " in api.artifact("plan")["data"]
    row = api.artifact("metrics")["data"].splitlines()[2].replace("\u00a0", " ")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["**feature_extraction**", "modern", "87.5 % (n = 200)", "80.0 % to 90.0 %", "50.0 %"]


def test_command_repro_and_deployment_give_one_lock(
    finished: tuple[Project, str], served_project: tuple[Project, Api], project: Project
) -> None:
    by_repro = project
    (by_repro.folder / "params.yaml").write_bytes((finished[0].folder / "params.yaml").read_bytes())
    by_repro.dvc("repro")
    deployed, api = served_project
    run_id = api.start_run(train={"seed": 7})
    api.finish(run_id)
    assert by_repro.lock() == finished[0].lock() == deployed.lock("runs/manual")


def test_clear_drop_of_the_accuracy_is_an_event(
    finished: tuple[Project, str], served_project: tuple[Project, Api], tmp_path: Path
) -> None:
    """What becomes of it: tests/flows/test_alerts.py."""
    project = copy_project(finished[0].folder, tmp_path / "project")
    project.environment |= served_project[1].client
    project.behave("evaluate", "worse")
    assert served_project[1].events(ACCURACY_DROPPED) == []
    code, text = project.run(*PIPELINE, "--strategy", "feature_extraction,head_replacement")
    assert code == 0, text
    wait_until(lambda: bool(served_project[1].events(ACCURACY_DROPPED)), "the event")
    (event,) = served_project[1].events(ACCURACY_DROPPED)
    assert "dropped from 0.8750" in event["payload"]["text"]
    assert event["payload"]["text"] in text


def test_cancel_in_the_ui_kills_every_process_of_the_stage(served_project: tuple[Project, Api]) -> None:
    project, api = served_project
    project.behave("ingest", "hang")
    try:
        run_id = api.start_run(ingest={"pack_size_mb": 65})
        stage = hang(project)
        api.post(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLING"})
        wait_for_the_end_of(stage)
        api.finish(run_id, "CANCELLED")
    finally:
        project.behave("ingest", "")


def test_form_values_are_written_and_nothing_else(served_project: tuple[Project, Api]) -> None:
    project, api = served_project
    before = (project.folder / "params.yaml").read_text()
    run_id = api.start_run(source={}, strategies=[], train={"recipe": "tutorial", "tutorial": {"epochs": 7}})
    api.finish(run_id)
    assert (project.folder / "params.yaml").read_text() == before
    after = project.git("show", "runs/manual:params.yaml")
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [line.split("#")[0].split() for line in changed] == [["recipe:", "tutorial"], ["epochs:", "7"]]


def test_choices_that_do_not_go_together_fail_before_any_stage_with_the_reason(
    served_project: tuple[Project, Api],
) -> None:
    project, api = served_project
    before = (project.folder / "params.yaml").read_text()
    project.ran()
    run_id = api.start_run(features={"engine": "ncnn", "precision": "bfloat16"})
    api.finish(run_id, "FAILED")
    assert "features.engine=ncnn computes in float32" in api.get(f"/flow_runs/{run_id}")["state"]["message"]
    assert (project.ran(), (project.folder / "params.yaml").read_text()) == ([], before)


def test_deployed_run_on_one_class_tells_it_once_before_any_stage(
    served_project: tuple[Project, Api], tmp_path: Path
) -> None:
    project, api = served_project
    project.ran()
    run_id = api.start_run(source={"uri": str(fill_source(tmp_path / "source", classes=("ant",)))})
    api.finish(run_id, "FAILED")
    api.wait_for_log(run_id, ONE_CLASS, "Finished in state Failed")
    assert api.log(run_id).count(ONE_CLASS) == 1, api.log(run_id)
    assert project.ran() == []


@pytest.mark.parametrize("changes", [{"train": {"tutorial": {"epochs": 0}}}, {"train": {"recipe": "magic"}}])
def test_value_out_of_bounds_makes_no_run(served_project: tuple[Project, Api], changes: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        served_project[1].start_run(**changes)
    assert "Validation failed for field 'train" in refused.value.read().decode()


@pytest.mark.quick
def test_make_run_needs_no_server_tells_where_the_results_are_waits_and_tries_again_what_crashed(
    project: Project,
) -> None:
    shutil.rmtree(Workspace.at(project.folder).prefect_home)  # as in a fresh clone, where Prefect has no database yet
    for stage in ("ingest", "features"):
        project.behave(stage, "busy once")
    project.behave("prepare", "crash once")
    code, text = project.make("run", "SET=run.outage_limit_s=6")
    assert code == 0, text
    assert project.ran() == ["ingest", "ingest", "prepare", "prepare", "features", "features", *STAGES[3:]]
    assert text.count("TransientError: ingest: the store doesn't answer.\nThe next attempt is in ") == 1
    assert text.count("Finished work is kept. Ctrl-C stops the run.") == 2
    all_s, rest_s = map(float, re.findall(r"([\d.]+)\ss are left", text))
    assert rest_s < all_s == 6
    for part in ("feature_extraction", "0.8750", "reports/report.html", "reports/metrics.json", "models/export"):
        assert part in text.split("Champion: ")[1]
    assert (Workspace.at(project.folder).prefect_home / "prefect.db").exists()
    assert project.left_over() == []


def test_second_run_in_a_folder_waits_says_for_whom_and_changes_no_setting_of_the_first(
    project: Project, api: Api, tmp_path: Path
) -> None:
    project.behave("prepare", "wait")
    first = project.command(*PIPELINE, "--set", "train.seed=7")
    project.wait_for("prepare")
    said = tmp_path / "second.log"
    second = project.command(*PIPELINE, "--set", "train.seed=8", output=said)
    wait_until(lambda: "Ctrl-C" in said.read_text() or second.poll() is not None, "the second run to wait")
    assert re.match(
        r"make run SET=train.seed=7, since [\d :-]+ \(process \d+\), works in this folder", said.read_text()
    )
    second.send_signal(signal.SIGINT)
    assert second.wait(60) == 130
    project.behave("prepare", "")
    assert first.wait(300) == 0, (project.folder / "command.log").read_text()
    assert "  seed: 7\n" in (project.folder / "params.yaml").read_text()
    assert "seed: 7\n" in project.lock()
    assert project.ran() == list(STAGES)


def test_user_error_is_not_retried_and_its_message_comes_last(project: Project, api: Api) -> None:
    project.behave("prepare", "user error")
    code, text = project.run(*PIPELINE)
    assert code == 2, text
    assert project.ran() == ["ingest", "prepare"]
    assert text.rstrip().endswith("SourceError: prepare has no images.\n  Give it some.")
    assert "\nStageError: stage prepare failed" in text
    assert "dvc --wait-for-lock repro --single-item prepare" in text
    assert "Traceback" not in text


def test_time_limit_of_the_settings_ends_the_stage_and_its_children(project: Project, api: Api) -> None:
    project.behave("ingest", "hang")
    code, text = project.run(*PIPELINE, "--set", "run.stage_time_limit_s=8 run.stage_retries=0")
    assert code == 1, text
    assert "time limit of 8 s" in text
    assert not any(is_running(number) for number in project.processes())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_command_its_server_and_the_stage(project: Project, number: signal.Signals) -> None:
    project.behave("ingest", "hang")
    process = project.command(*PIPELINE)
    stage = hang(project)
    process.send_signal(number)
    assert process.wait(120) not in (0, 1)
    wait_for_the_end_of(stage)
    assert project.left_over() == []


def test_sigkill_leaves_no_process_and_the_next_run_goes_on(project: Project) -> None:
    project.behave("prepare", "hang")
    process = project.command(*PIPELINE)
    stage = hang(project)
    process.kill()
    process.wait()
    wait_for_the_end_of(stage)
    wait_until(lambda: project.left_over() == [], "the temporary server to end")
    assert project.ran() == list(STAGES[:2])

    project.behave("prepare", "")
    code, text = project.run(*PIPELINE)
    assert (code, project.ran()) == (0, list(STAGES[1:])), text


def test_wrong_setting_is_reported_before_prefect_is_imported(project: Project) -> None:
    code, text = project.run(
        "-c",
        "import sys; from flows.pipeline import main; code = main(['--set', 'train.seed=x']); "
        "sys.exit(99 if 'prefect' in sys.modules else code)",
    )
    assert code == 2, text
    assert text.startswith("\nSettingsError: ")
    assert "Traceback" not in text


def test_server_that_does_not_answer_is_reported_in_words(project: Project) -> None:
    project.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    code, text = project.run(*PIPELINE)
    assert code == 2
    assert "http://127.0.0.1:9/api" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("a_class", "classes", "error"),
    [
        (12, ("ant",), f"SourceError: {ONE_CLASS}"),
        (0, ("ant", "bee"), f"SourceError: {ONE_CLASS}"),
        (3, ("ant", "bee"), "DataError: No classifier can be trained on these images:\n  class 'ant': 3 images"),
    ],
)
def test_what_a_listing_tells_against_a_source_is_told_once_before_a_run_is_begun(
    project: Project, tmp_path: Path, a_class: int, classes: tuple[str, ...], error: str
) -> None:
    before = (project.folder / "params.yaml").read_text()
    source = fill_source(tmp_path / "source", a_class, classes)
    for label in classes:
        (source / label).mkdir(parents=True, exist_ok=True)
    code, text = project.run(*PIPELINE, "--source", str(source))
    assert code == 2
    assert text.count(error) == 1
    assert "flow run" not in text
    assert (project.folder / "params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--strategy", "guessing"], "SettingsError: STRATEGY must be one of"),
        (["--source", "/no/such/folder"], "SourceError: "),
        (["--set", "nothing"], "SettingsError: SET takes block.key=value"),
        (["--set", "a='"], "SettingsError: SET doesn't parse"),
    ],
)
def test_wrong_argument_is_reported_in_words(project: Project, arguments: list[str], error: str) -> None:
    before = (project.folder / "params.yaml").read_text()
    code, text = project.run(*PIPELINE, *arguments)
    assert code == 2
    assert error in text
    assert "Traceback" not in text
    assert (project.folder / "params.yaml").read_text() == before
