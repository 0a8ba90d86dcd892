"""A user's way through Prefect's UI, in a real browser: the form, the run, the report with its images.

The pipeline is the real one, on a few digits. Images of what was seen are left in `.cache/screenshots`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from flows.login import LOGIN_VARIABLE
from tasks.params import change_settings
from tasks.runs.costs import read_history
from tasks.workspace import SERVER_LOGIN, Workspace
from tests.conftest import PARAMS, PROJECT
from tests.flows.browser import PROGRAM, browser, log_in
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
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Api]]:
    """The real project, with 12 images of each digit, served as `make ui` serves it; it has secrets to keep."""
    folder = tmp_path_factory.mktemp("served")
    project = Project(folder / "project")
    for name in ("flows", "tasks"):
        shutil.copytree(PROJECT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, project.folder)
    shutil.copy(PARAMS, project.folder)
    write_deployments(project.folder)
    change_settings(
        project.folder,
        {
            "source": {"limit_per_class": 12},
            "augmentation": {"count": 1},
            "export": {"formats": ["saved_model", "onnx"]},
        },
    )
    project.git("init", "-q", "-b", "main")
    project.dvc("init", "-q")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "The project")
    secrets = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ROOTSTOCK_ALERT_WEBHOOK", "RAY_AUTH_TOKEN")
    project.environment |= {name: f"{CANARY}-{name}" for name in secrets}
    remote = f"['remote \"store\"']\n    url = s3://bucket/store\n    secret_access_key = {CANARY}-config\n"
    (project.folder / ".dvc/config.local").write_text(remote)
    with serve(project, folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(served: tuple[Project, Api]) -> Iterator[Page]:
    _, api = served
    with browser() as opened:
        log_in(opened, address(api), api.client[LOGIN_VARIABLE])
        yield opened


def address(api: Api, path: str = "") -> str:
    return api.url.removesuffix("/api") + path


def field(page: Page, name: str) -> Locator:
    """A field of the form; Prefect's dropdowns have a label too, but are nothing that HTML knows as a field."""
    label = page.locator("label").get_by_text(f"{name} (Optional)", exact=True).first
    return page.locator(f"[id='{label.get_attribute('for')}']")


def open_form(page: Page, api: Api) -> None:
    page.goto(address(api))
    page.get_by_role("link", name="Deployments", exact=True).click()
    page.get_by_role("link", name="manual", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(field(page, "uri")).to_be_visible()


def choose(page: Page, name: str, option: str) -> None:
    """In a dropdown."""
    field(page, name).click()
    page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")  # one where several may be chosen stays open
    expect(page.get_by_role("option")).to_have_count(0)


def open_artifact(page: Page, api: Api, run_id: str, key: str) -> None:
    """From the page of the run, by the tab of its artifacts."""
    page.goto(address(api, f"/v2/runs/flow-run/{run_id}"))
    page.get_by_role("tab", name="Artifacts").click()
    page.locator(f"a[href$='/artifacts/key/{key}']").click()
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    expect(page.get_by_role("button", name="Raw")).to_be_visible()


def shoot(page: Page, name: str) -> None:
    """Keep what is seen now."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def newest_run(api: Api) -> Any:
    """Of those that were started by hand; the schedule's lie in the future."""
    by_hand = {"name": {"any_": ["manual"]}}
    runs = api.post("/flow_runs/filter", deployments=by_hand, sort="EXPECTED_START_TIME_DESC", limit=1)
    return runs[0] if runs else None


@pytest.fixture(scope="module")
def run_id(served: tuple[Project, Api], page: Page) -> str:
    """A run that was started in the form, with another strategy and recipe and fewer epochs; it has ended well."""
    api = served[1]
    open_form(page, api)
    shoot(page, "form")
    choose(page, "strategies", "head_replacement")
    choose(page, "recipe", "tutorial")
    shoot(page, "form-changed")
    field(page, "epochs").fill("5")
    shoot(page, "form-epochs")
    page.get_by_role("button", name="Submit").click()
    wait_until(lambda: newest_run(api) is not None, "the run")
    run: str = newest_run(api)["id"]
    page.goto("about:blank")  # the page of a running run keeps a core busy with its animations
    api.finish(run, patience_s=1200)
    page.goto(address(api, f"/v2/runs/flow-run/{run}"))
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    shoot(page, "run")
    return run


def test_form_sends_what_was_changed_and_nothing_else(served: tuple[Project, Api], run_id: str) -> None:
    project, api = served
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
    served: tuple[Project, Api], run_id: str, page: Page
) -> None:
    api = served[1]
    open_form(page, api)
    field(page, "epochs").fill("0")
    page.get_by_role("button", name="Submit").click()
    expect(field(page, "epochs")).to_have_js_property("validationMessage", "Value must be greater than or equal to 1.")
    assert newest_run(api)["id"] == run_id


def test_report_shows_the_images(served: tuple[Project, Api], run_id: str, page: Page) -> None:
    open_artifact(page, served[1], run_id, "report")
    mistake = page.locator("img[src^='data:image/jpeg']").first
    matrix = page.locator("img[src^='data:image/svg+xml']")
    for image in (mistake, matrix):
        expect(image).to_be_visible()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50
    expect(page.get_by_role("paragraph").filter(has_text="The test accuracy is")).to_be_visible()
    shoot(page, "report")
    page.get_by_role("heading", name="Worst mistakes").scroll_into_view_if_needed()
    shoot(page, "report-mistakes")
    matrix.scroll_into_view_if_needed()
    shoot(page, "report-confusion")


def test_plan_tells_what_would_run_and_why(served: tuple[Project, Api], run_id: str, page: Page) -> None:
    open_artifact(page, served[1], run_id, "plan")
    expect(page.get_by_role("paragraph").filter(has_text="Source digits: 120 images, 120 new, 0 gone.")).to_be_visible()
    expect(page.get_by_role("cell", name="it has never run").first).to_be_visible()
    shoot(page, "plan")


def test_costs_are_shown_and_are_the_experience_of_later_plans(
    served: tuple[Project, Api], run_id: str, page: Page
) -> None:
    project, api = served
    open_artifact(page, api, run_id, "costs")
    expect(page.get_by_role("cell", name="train@head_replacement")).to_be_visible()
    shoot(page, "costs")
    history = {one["stage"]: one for one in read_history(Workspace.at(project.folder))}
    assert [history[stage]["reused"] for stage in STAGES_WITH_IMAGES] == [0, 0, 0]
    code, plan = project.run("-m", "tasks.plan")
    assert code == 0, plan
    assert re.search(r"^\| features +\| runs +\| +120 \| +\d[^|]* \|", plan, re.MULTILINE), plan


def test_course_of_the_training_ends_with_the_last_epoch(served: tuple[Project, Api], run_id: str, page: Page) -> None:
    open_artifact(page, served[1], run_id, "course-train-head-replacement")
    expect(page.get_by_role("columnheader", name="loss", exact=True)).to_be_visible()
    shoot(page, "course")
    done = page.get_by_role("cell", name="/").last.inner_text()
    steps, _, of = done.partition("/")
    assert steps == of
    assert int(of) % 5 == 0


def test_same_choices_again_compute_nothing(served: tuple[Project, Api], run_id: str) -> None:
    project, api = served
    before, commit = len(read_history(Workspace.at(project.folder))), project.git("rev-parse", "runs/manual")
    again = api.start_run(**api.get(f"/flow_runs/{run_id}")["parameters"])
    api.finish(again, patience_s=600)
    assert read_history(Workspace.at(project.folder))[before:] == []  # not even ingest: the plan has listed the source
    assert project.git("rev-parse", "runs/manual") == commit
    full, nothing = api.seconds(run_id), api.seconds(again)
    print(f"\nfrom due to end: {nothing:.1f} s with nothing new, {full:.1f} s with all new, ratio {nothing / full:.2f}")


def test_secrets_are_in_no_file_commit_log_or_artifact(served: tuple[Project, Api], run_id: str) -> None:
    project, api = served
    password = api.client[LOGIN_VARIABLE].partition(":")[2]
    for secret, place in ((CANARY, ".dvc/config.local"), (password, SERVER_LOGIN)):
        holding = [
            str(file.relative_to(project.folder.parent))
            for file in project.folder.parent.rglob("*")
            if file.is_file() and secret.encode() in file.read_bytes()
        ]
        assert holding == [f"project/{place}"]  # where it was put, so the search does find
        assert secret not in project.git("log", "--all", "--patch")
    shown = [api.post(f"/{kind}/filter") for kind in ("logs", "artifacts", "flow_runs", "deployments", "work_pools")]
    assert all(shown)
    assert CANARY not in str(shown)
    assert password not in str(shown)
