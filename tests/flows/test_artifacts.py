"""A person's way through Prefect's UI, in a real browser: the form, the run, the report with its images.

The pipeline is the real one, on a few digits. Images of what was seen are left in `.cache/screenshots`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.runs.costs import read_history
from tasks.settings import change_settings
from tasks.workspace import Workspace
from tests.conftest import PARAMS, PROJECT
from tests.flows.browser import PROGRAM, Page, browser
from tests.flows.conftest import serve
from tests.flows.project import Api, Project, write_deployments
from tests.waiting import wait_until

SCREENSHOTS = PROJECT / ".cache/screenshots"
STAGES_WITH_IMAGES = ("ingest", "prepare", "features")
CANARY = "canary-4d7e"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.weights,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def cockpit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Api]]:
    """The real project, with 12 images of each digit, served as `make ui` serves it; it has secrets to keep."""
    folder = tmp_path_factory.mktemp("cockpit")
    project = Project(folder / "project")
    for name in ("flows", "tasks"):
        shutil.copytree(PROJECT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, project.folder)
    shutil.copy(PARAMS, project.folder)
    write_deployments(project.folder)
    change_settings(
        project.folder, ["source.limit_per_class=12", "augmentation.count=1", "export.formats=[saved_model, onnx]"]
    )
    project.git("init", "-q", "-b", "main")
    project.dvc("init", "-q")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "The project")
    secrets = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ROOTSTOCK_ALERT_WEBHOOK", "RAY_AUTH_TOKEN")
    project.environment |= {name: f"{CANARY}-{name}" for name in secrets}
    remote = f"['remote \"store\"']\n    url = s3://bucket/store\n    secret_access_key = {CANARY}-config\n"
    (project.folder / ".dvc/config.local").write_text(remote)
    with serve(project, folder) as served:
        yield served


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def field(page: Page, name: str) -> str:
    """The selector of a field of the form."""
    label = f"find('label', '{name} (Optional)')"
    page.wait(f"{label}.length", f"the field {name}")
    return f"[id='{page.run(f'{label}[0].htmlFor')}']"


def open_form(page: Page, api: Api) -> None:
    page.open(api.url.removesuffix("/api"))
    page.click("a", "Deployments")
    page.click("a", "manual")
    page.click("button", "Run")
    page.click("[role=menuitem]", "Custom run")
    field(page, "uri")


def choose(page: Page, name: str, option: str) -> None:
    """In a dropdown."""
    page.click(field(page, name))
    page.click("[role=option]", option)
    page.press("Escape")  # one where several may be chosen stays open
    page.wait("!find('[role=option]', null).length", f"the dropdown {name} to be closed")


def open_artifact(page: Page, api: Api, run_id: str, key: str) -> None:
    """From the page of the run, by the tab of its artifacts."""
    page.open(f"{api.url.removesuffix('/api')}/v2/runs/flow-run/{run_id}")
    page.click("[role=tab]", "Artifacts")
    page.click(f"a[href$='/artifacts/key/{key}']")
    page.click("a[href*='/artifacts/artifact/']")
    page.wait("find('button', 'Raw').length", f"the artifact {key}")


def newest_run(api: Api) -> Any:
    """Of those that were started by hand; the schedule's lie in the future."""
    by_hand = {"name": {"any_": ["manual"]}}
    runs = api.post("/flow_runs/filter", deployments=by_hand, sort="EXPECTED_START_TIME_DESC", limit=1)
    return runs[0] if runs else None


@pytest.fixture(scope="module")
def run_id(cockpit: tuple[Project, Api], page: Page) -> str:
    """A run that was started in the form, with another strategy and recipe and fewer epochs; it has ended well."""
    api = cockpit[1]
    open_form(page, api)
    page.image(SCREENSHOTS / "form.png")
    choose(page, "strategies", "head_replacement")
    choose(page, "recipe", "tutorial")
    page.image(SCREENSHOTS / "form-changed.png")
    page.fill(field(page, "epochs"), "5")
    page.image(SCREENSHOTS / "form-epochs.png")
    page.click("button", "Submit")
    wait_until(lambda: newest_run(api) is not None, "the run")
    run: str = newest_run(api)["id"]
    page.open(f"{api.url.removesuffix('/api')}/v2/runs/flow-run/{run}")
    api.finish(run, patience_s=1200)
    page.wait("find('span', 'Completed').length", "the run to be shown as completed")
    page.image(SCREENSHOTS / "run.png")
    return run


def test_form_sends_what_was_changed_and_nothing_else(cockpit: tuple[Project, Api], run_id: str) -> None:
    project, api = cockpit
    sent = api.get(f"/flow_runs/{run_id}")["parameters"]
    assert {block: value for block, value in sent.items() if value} == {
        "strategies": ["head_replacement"],
        "train": {"recipe": "tutorial", "tutorial": {"epochs": 5}},
    }
    before = (project.folder / "params.yaml").read_text().splitlines()
    after = project.git("show", "runs/manual:params.yaml").splitlines()
    changed = [new.split("#")[0].split() for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [["strategies:", "[head_replacement]"], ["recipe:", "tutorial"], ["epochs:", "5"]]


def test_form_refuses_a_value_out_of_bounds_with_the_reason(
    cockpit: tuple[Project, Api], run_id: str, page: Page
) -> None:
    api = cockpit[1]
    open_form(page, api)
    page.fill(field(page, "epochs"), "0")
    page.click("button", "Submit")
    reasons = "[...document.querySelectorAll('input')].map(one => one.validationMessage).filter(text => text)"
    assert page.wait(f"{reasons}.length && {reasons}", "the reason") == ["Value must be greater than or equal to 1."]
    assert newest_run(api)["id"] == run_id


def test_report_shows_the_images(cockpit: tuple[Project, Api], run_id: str, page: Page) -> None:
    open_artifact(page, cockpit[1], run_id, "report")
    kinds = "[...document.images].filter(one => one.naturalWidth > 50).map(one => one.src.slice(5, 15))"
    page.wait(f"{kinds}.includes('image/jpeg')", "a worst mistake")
    page.wait(f"{kinds}.includes('image/svg+')", "the confusion matrix")
    assert "held-out images are answered right" in page.text()
    page.image(SCREENSHOTS / "report.png")
    page.run("find('h2', 'Worst mistakes')[0].scrollIntoView()")
    page.image(SCREENSHOTS / "report-mistakes.png")
    page.run("[...document.images].find(one => one.src.includes('svg+')).scrollIntoView({block: 'center'})")
    page.image(SCREENSHOTS / "report-confusion.png")


def test_plan_tells_what_would_run_and_why(cockpit: tuple[Project, Api], run_id: str, page: Page) -> None:
    open_artifact(page, cockpit[1], run_id, "plan")
    page.wait("document.body.innerText.includes('Source digits: 120 images, 120 new, 0 gone.')", "the source")
    assert "it has never run" in page.text()
    page.image(SCREENSHOTS / "plan.png")


def test_costs_are_shown_and_are_the_experience_of_later_plans(
    cockpit: tuple[Project, Api], run_id: str, page: Page
) -> None:
    project, api = cockpit
    open_artifact(page, api, run_id, "costs")
    page.wait("document.body.innerText.includes('train@head_replacement')", "the costs")
    page.image(SCREENSHOTS / "costs.png")
    history = {one["stage"]: one for one in read_history(Workspace.at(project.folder))}
    assert [history[stage]["reused"] for stage in STAGES_WITH_IMAGES] == [0, 0, 0]
    code, plan = project.run("-m", "tasks.plan")
    assert code == 0, plan
    assert re.search(r"^\| features +\| runs +\| +120 \| +\d[^|]* \|", plan, re.MULTILINE), plan


def test_course_of_the_training_ends_with_the_last_epoch(cockpit: tuple[Project, Api], run_id: str, page: Page) -> None:
    open_artifact(page, cockpit[1], run_id, "course-train-head-replacement")
    page.wait("find('th', 'loss').length", "the course")
    page.image(SCREENSHOTS / "course.png")
    done = page.run("find('td', null).map(one => one.textContent.trim()).filter(text => text.includes('/')).at(-1)")
    steps, _, of = done.partition("/")
    assert steps == of
    assert int(of) % 5 == 0


def test_same_choices_again_compute_nothing(cockpit: tuple[Project, Api], run_id: str) -> None:
    project, api = cockpit
    before, commit = len(read_history(Workspace.at(project.folder))), project.git("rev-parse", "runs/manual")
    again = api.start_run(**api.get(f"/flow_runs/{run_id}")["parameters"])
    api.finish(again, patience_s=600)
    assert read_history(Workspace.at(project.folder))[before:] == []  # not even ingest: the plan has listed the source
    assert project.git("rev-parse", "runs/manual") == commit
    full, nothing = api.seconds(run_id), api.seconds(again)
    print(f"\nfrom due to end: {nothing:.1f} s with nothing new, {full:.1f} s with all new, ratio {nothing / full:.2f}")


def test_secrets_are_in_no_file_commit_log_or_artifact(cockpit: tuple[Project, Api], run_id: str) -> None:
    project, api = cockpit
    holding = [
        str(file.relative_to(project.folder.parent))
        for file in project.folder.parent.rglob("*")
        if file.is_file() and CANARY.encode() in file.read_bytes()
    ]
    assert holding == ["project/.dvc/config.local"]  # where it was put, so the search does find
    assert CANARY not in project.git("log", "--all", "--patch")
    shown = [api.post(f"/{kind}/filter") for kind in ("logs", "artifacts", "flow_runs", "deployments", "work_pools")]
    assert all(shown)
    assert CANARY not in str(shown)
