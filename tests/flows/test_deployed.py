"""Deployed runs: on schedule, one after the other, cancelled and resumed, and while a server restarts."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect

from flows.login import LOGIN_VARIABLE
from tasks.runs.registry import Registry, read_registry
from tests.flows.browser import browser, log_in
from tests.flows.project import ENDED, NIGHTLY, Api, Project, copy_project
from tests.flows.site import Site
from tests.tasks.exporting import save_export
from tests.tasks.test_score import fill
from tests.waiting import is_running, wait_until

pytestmark = pytest.mark.slow
TRAIN = "train@feature_extraction"
AT_ONCE = 5
BUDGET = {"git": 32, "dvc": 3, "requests": 25, "modules": 20}
"""What a run with nothing to do may take: children, open repositories, requests; and modules that it imports once due.

The requests are Prefect's own, but for three artifacts.
"""
COMPLETED = {"state": {"type": {"any_": ["COMPLETED"]}}}


GATE = """
def judge_versions(_clone, settings, _say, _candidate, production):
    told = f"{settings.gate.margin} against {production and production[:10]}"
    check = {"check": "accuracy", "candidate": "1", "production": "0", "limit": "0", "passed": True, "sentence": told}
    return {"passed": True, "checks": [check], "classes": []}
"""
"""A gate that lets everything through."""
EXPORT = """
    cmd: python stand_in.py export out/export out/evaluation params.yaml
    deps: [stand_in.py, out/evaluation]
    params: [gate.margin]
    outs: [out/export]
artifacts:
  champion: {path: out/export, type: model}
"""


def register_models(project: Project) -> None:
    """Let the project's models be registered; with another gate.margin a run makes another model."""
    stages, _ = (project.folder / "dvc.yaml").read_text().split("    cmd: python stand_in.py export")
    (project.folder / "dvc.yaml").write_text(stages.rstrip() + EXPORT)
    (project.folder / "tasks/gate.py").write_text(GATE)
    project.git("commit", "-qam", "Register models")


@pytest.fixture(scope="module")
def site(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("deployed")
    site = Site(folder, copy_project(template, folder / "project"))
    register_models(site.project)
    site.project.environment |= {"PYTHONPATH": str(Path(__file__).with_name("counting")), "COUNTS": str(folder)}
    try:
        site.open()
        yield site
    finally:
        site.close()
    assert site.project.left_over() == []


@pytest.fixture
def project(site: Site) -> Project:
    site.project.ran()
    (site.project.folder / "processes.txt").unlink(missing_ok=True)
    return site.project


@pytest.fixture
def api(site: Site) -> Api:
    return site.api


@pytest.fixture(scope="module")
def whole(site: Site) -> str:
    """A run of `nightly` for which everything was new."""
    run_id = site.api.start_run("nightly")
    site.api.finish(run_id)
    return run_id


def test_run_commits_on_its_branch_and_leaves_the_persons_folder_alone(
    site: Site, project: Project, whole: str
) -> None:
    assert project.git("status", "--short") == ""
    assert project.git("rev-parse", "--abbrev-ref", "HEAD") == "main"
    names = project.git("diff", "--name-only", "main", "runs/nightly").split()
    assert names == ["dvc.lock", "reports/metrics.json"]
    (commit,) = site.history("runs/nightly")
    assert f"({whole})" in project.git("log", "-1", "--format=%B", commit)
    site.assert_nothing_to_do("runs/nightly")


def test_doctor_finds_the_server_its_worker_and_the_pool_that_lacks_one(site: Site, project: Project) -> None:
    site.api.post("/work_pools/", name="paused", type="process", is_paused=True)
    code, text = project.run("-m", "flows.doctor")
    site.prefect("work-pool", "delete", "paused")
    for line in (
        "Prefect: the server answers, with Prefect 3.",
        "Prefect: the work pool local has a worker",
        "Prefect: the work pool gpu has no worker, and no schedule or setting needs one",
        "Prefect: no run is late",
        "clock: this machine's clock agrees with the clock of 127.0.0.1",
    ):
        assert f"\nok     {line}" in text
    assert code == 2
    assert (
        "\nWRONG  Prefect: The work pool paused is paused.\n       Repair it: prefect work-pool resume paused\n" in text
    )


@pytest.mark.usefixtures("whole")
def test_half_finished_edits_reach_no_deployed_run(site: Site, project: Project) -> None:
    edited = [
        project.folder / name
        for name in ("flows/settings_changes.py", "tasks/settings.py", "params.yaml", "stand_in.py")
    ]
    before = {path: path.read_bytes() for path in edited}
    try:
        for path in edited:
            path.write_text("half-finished(")
        site.api.finish(site.api.start_run("nightly"))
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert project.ran() == []


def test_schedule_of_one_minute_fires_and_an_unchanged_source_computes_nothing(
    site: Site, project: Project, api: Api, whole: str
) -> None:
    before = site.history("runs/nightly")
    deployed = (project.folder / "prefect.yaml").read_text()
    assert deployed.count(f"{NIGHTLY}\n        active: false") == 1
    every_minute = deployed.replace(NIGHTLY, 'cron: "* * * * *"').replace("active: false", "active: true")
    (project.folder / "prefect.yaml").write_text(every_minute)
    try:
        site.prefect("deploy", "--name", "nightly")
    finally:
        (project.folder / "prefect.yaml").write_text(deployed)
    deployment = api.get("/deployments/name/pipeline/nightly")
    assert deployment["version"] == project.git("rev-parse", "HEAD")
    (schedule,) = deployment["schedules"]
    assert (schedule["active"], schedule["schedule"]["timezone"]) == (True, "Etc/UTC")
    assert deployment["global_concurrency_limit"] is None  # a server that is down for minutes would end the run
    try:
        run = _first_scheduled(api, deployment["id"])
    finally:
        api.patch(f"/deployments/{deployment['id']}", paused=True)  # as the switch in the UI does
    assert run["state"]["type"] == "COMPLETED"
    assert project.ran() == []
    assert site.history("runs/nightly") == before
    full, nothing = api.seconds(whole), api.seconds(run["id"])
    print(f"\nfrom due to end: {nothing:.1f} s with nothing new, {full:.1f} s with all new, ratio {nothing / full:.2f}")
    site.assert_nothing_to_do("runs/nightly")
    counts = _counts(site, run["id"])
    assert all(counts[name] <= most for name, most in BUDGET.items()), counts


def _counts(site: Site, run_id: str) -> dict[str, int]:
    """What the process of a run has taken; see tests/flows/counting."""
    file = site.folder / f"{run_id}.json"
    wait_until(file.exists, "the process of the run to end")
    counts = json.loads(file.read_text())
    print(counts)
    return {**counts, "modules": len(counts["modules"])}


def _first_scheduled(api: Api, deployment: str) -> dict[str, Any]:
    """The first run that the schedule has started, once it has ended."""
    wanted = {"state": {"type": {"any_": list(ENDED)}}, "tags": {"all_": ["auto-scheduled"]}}

    def ended() -> list[dict[str, Any]]:
        ours = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs: list[dict[str, Any]] = api.post("/flow_runs/filter", **ours, flow_runs=wanted)
        return runs

    wait_until(lambda: bool(ended()), "the schedule to fire")
    return ended()[0]


def test_triggers_at_once_queue_up_and_give_one_history(site: Site, project: Project, api: Api) -> None:
    before = site.history()
    runs = [api.start_run(train={"seed": 100 + number}) for number in range(AT_ONCE)]
    wait_until(lambda: all(map(api.ended, runs)), "all runs to end", 900, pause_s=2)
    assert [api.state(one) for one in runs] == ["COMPLETED"] * AT_ONCE
    spans = sorted(_span(api, one) for one in runs)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), spans
    assert not any(state["name"] == "Late" for run in runs for state in api.states(run))  # who queues isn't late
    new = site.history()[: -len(before) or None]
    assert len(new) == AT_ONCE
    seeds = [site.params(commit)["train"]["seed"] for commit in new]
    assert sorted(seeds) == [100 + number for number in range(AT_ONCE)]
    for commit, seed in zip(new, seeds, strict=True):  # what the commit says is what it was made with
        assert f"seed: {seed}\n" in project.git("show", f"{commit}:dvc.lock")
        assert len(project.git("rev-parse", f"{commit}^@").split()) == 1
    assert project.ran().count(TRAIN) == AT_ONCE
    site.assert_nothing_to_do()


def _span(api: Api, run_id: str) -> tuple[datetime, datetime]:
    """When a run began to run, and when it ended."""
    times = {state["type"]: datetime.fromisoformat(state["timestamp"]) for state in api.states(run_id)}
    return times["RUNNING"], times["COMPLETED"]


def hang(project: Project, api: Api, seed: int) -> tuple[str, list[int]]:
    """A run whose training hangs, and the processes of its stage."""
    project.behave(TRAIN, "hang")
    run_id = api.start_run(train={"seed": seed})
    processes = project.processes()
    project.behave(TRAIN, "")
    assert all(is_running(number) for number in processes)
    return run_id, processes


def test_cancelled_training_leaves_no_process_and_the_next_run_resumes_and_says_so(
    site: Site, project: Project, api: Api
) -> None:
    before = site.history()
    run_id, processes = hang(project, api, 7)
    api.post(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLING"})
    asked = time.monotonic()
    wait_until(lambda: not any(is_running(number) for number in processes), "the stage's processes to end")
    print(f"\ncancelled: no process of the stage is left after {time.monotonic() - asked:.1f} s")
    site.api.finish(run_id, "CANCELLED")
    assert site.history() == before
    folder = project.folder / ".rootstock/runs/manual"
    assert json.loads((folder / ".rootstock/run.json").read_text())["ended"] == "it was stopped"
    project.ran()

    resumed = api.start_run(train={"seed": 7})
    site.api.finish(resumed)
    api.wait_for_log(
        resumed,
        "Resumes the unfinished run",
        "(it was stopped); its finished stages are kept.",
        f"{TRAIN}: resumes after epoch 1",
    )
    assert project.ran()[0] == TRAIN
    assert len(site.history()) == len(before) + 1
    site.assert_nothing_to_do()


def test_killed_run_leaves_no_process_and_the_next_one_resumes(site: Site, project: Project, api: Api) -> None:
    run_id, processes = hang(project, api, 8)
    engine = next(one for one in psutil.Process(processes[1]).parents() if "prefect.engine" in " ".join(one.cmdline()))
    engine.kill()
    wait_until(lambda: not any(is_running(number) for number in processes), "the stage's processes to end")
    site.api.finish(run_id, "CRASHED")
    resumed = api.start_run(train={"seed": 8})
    site.api.finish(resumed)
    api.wait_for_log(resumed, "(it was killed); its finished stages are kept.", f"{TRAIN}: resumes after epoch 1")
    site.assert_nothing_to_do()


def test_run_survives_a_server_that_is_killed_and_started_again(site: Site, project: Project, api: Api) -> None:
    project.behave(TRAIN, "wait")
    run_id = api.start_run(train={"seed": 9})
    project.wait_for(TRAIN)
    site.restart_server()
    assert api.state(run_id) == "RUNNING"
    project.behave(TRAIN, "")
    site.api.finish(run_id)
    wait_until(lambda: set(_task_states(api, run_id).values()) == {"COMPLETED"}, "the tasks' states")
    site.assert_nothing_to_do()
    site.api.finish(api.start_run(train={"seed": 10}))  # the slot is free again


def _task_states(api: Api, run_id: str) -> dict[str, str]:
    found = api.post("/task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
    return {run["name"]: run["state"]["type"] for run in found}


@pytest.mark.usefixtures("whole")
def test_weekly_summary_tells_of_the_nights(site: Site, api: Api) -> None:
    run_id = api.start_run("weekly", flow="summary")
    site.api.finish(run_id)
    text = api.artifact("weekly-summary")["data"]
    nights = api.post("/flow_runs/filter", deployments={"name": {"any_": ["nightly"]}}, flow_runs=COMPLETED)
    assert re.search(rf"\| nights: completed +\| {len(nights)} +\|", text), text
    assert re.search(r"\| its test accuracy +\| 0.8750 ", text), text
    assert re.search(r"\| time: all stages of this clone +\| [1-9]", text), text


def versions(project: Project) -> Registry:
    return read_registry(project.folder)


def test_scoring_that_a_form_has_started_writes_rows_and_shows_their_counts(api: Api, tmp_path: Path) -> None:
    model, images, out = save_export(tmp_path / "export"), fill(tmp_path / "new", 12), tmp_path / "scores"
    named = {"source": str(images), "out": str(out), "model": str(model), "form": "jsonl"}
    run_id = api.start_run("new-images", "score", **named)
    api.finish(run_id)
    api.wait_for_log(run_id, "12 rows", "All rows are written.")
    [part] = out.glob("part-*.jsonl")
    assert len(part.read_text().splitlines()) == 12
    shown = api.artifact("scores")
    assert shown["flow_run_id"] == run_id
    assert "| error not_an_image | 2 " in re.sub(" +", " ", shown["data"])


def test_night_ends_in_a_registered_version_in_production(project: Project, api: Api, whole: str) -> None:
    found = versions(project)
    version = found.version_at(project.git("rev-list", "-1", "runs/nightly", "--", "dvc.lock"))
    assert version is not None
    assert version.about["gate"]["passed"]
    assert found.production in found.versions
    wanted = {"key": {"any_": ["gate"]}, "flow_run_id": {"any_": [whole]}}
    (text,) = (one["data"] for one in api.post("/artifacts/filter", artifacts=wanted))
    assert "passed the gate" in text
    assert text.endswith("It is in production.")


@pytest.mark.browser
@pytest.mark.usefixtures("whole")
def test_version_waits_for_a_person_and_the_answer_decides_and_a_form_takes_it_back(
    site: Site, project: Project, api: Api
) -> None:
    before = versions(project).production
    assert before is not None
    asked = api.start_run("nightly", gate={"margin": 0.02, "approval": "ask"})
    site.api.finish(asked)
    version = versions(project).versions[-1]
    assert versions(project).production == before
    waiting = waiting_run(api, f"approve {version.version}")
    wait_until(lambda: api.get(f"/flow_runs/{waiting}")["state"]["name"] == "Suspended", "the question")
    again = api.start_run("nightly", gate={"margin": 0.02, "approval": "ask"})  # nobody is asked twice
    site.api.finish(again)
    assert waiting_run(api, f"approve {version.version}") == waiting

    answer_yes(api, waiting, "looks right", "Ada")
    site.api.finish(waiting)
    entry = versions(project).assigned("production")[-1]
    assert versions(project).production == version
    assert (entry.by, entry.about["why"]) == ("Ada", "looks right")

    back = api.start_run("champion", flow="registry", action="roll back", reason="calls ants bees", by="Grace")
    site.api.finish(back)
    assert versions(project).production == before
    assert re.search(rf"\| {before.version} +\| production \|", api.artifact("registry")["data"])


def answer_yes(api: Api, run_id: str, reason: str, by: str) -> None:
    """Fill in the form of a run that waits, as a person does."""
    address = api.url.removesuffix("/api")
    with browser() as page:
        log_in(page, address, api.client[LOGIN_VARIABLE])
        page.goto(f"{address}/runs/flow-run/{run_id}")
        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_text("passed the gate")).to_be_visible()
        page.locator(".p-select-button__control").last.press("ArrowDown")
        page.locator(".p-select-option", has_text="yes").click()
        for place, text in enumerate((reason, by)):
            page.locator("textarea.p-textarea__control").nth(place).fill(text)
        page.get_by_role("button", name="Submit").click()
        wait_until(lambda: api.get(f"/flow_runs/{run_id}")["state"]["name"] != "Suspended", "the answer to arrive")


def waiting_run(api: Api, name: str) -> str:
    """The only run of a name."""
    (found,) = api.post("/flow_runs/filter", flow_runs={"name": {"any_": [name]}})
    run_id: str = found["id"]
    return run_id
