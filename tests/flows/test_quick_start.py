"""What `make run` does so that Prefect starts and ends without waits, behind a proxy, too."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.settings import get_current_settings

from flows import artifacts, pipeline
from flows.quick_imports import quick_imports
from flows.server import prefect_environment
from tasks.errors import IntegrityError
from tasks.files import write_json
from tasks.head_start import HeadStart
from tasks.params import load_settings
from tasks.plan import Plan
from tasks.runs.costs import keep_costs
from tasks.runs.run_context import RunContext
from tasks.workspace import Workspace
from tests.conftest import PARAMS
from tests.flows.project import Project
from tests.flows.stand_in import METRICS, worse


def test_imports_look_for_no_garbage_and_leave_nothing_to_look_through() -> None:
    frozen = gc.get_freeze_count()
    with contextlib.suppress(ZeroDivisionError), quick_imports():
        assert not gc.isenabled()
        raise ZeroDivisionError
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_flow_on_a_temporary_server_has_no_heart_for_which_it_would_wait_at_its_end() -> None:
    waited: list[bool] = []
    server: Any = SimpleNamespace(wait_until_ready=lambda: waited.append(True))
    with contextlib.ExitStack() as stack:
        pipeline._settle_on(server, stack)
        assert get_current_settings().flows.heartbeat_frequency is None
    assert get_current_settings().flows.heartbeat_frequency == 180
    assert waited


@pytest.mark.parametrize("content", [None, "", "<<<<<<< HEAD\n", "[]"])
def test_missing_or_torn_metrics_are_told_with_their_cure(content: str | None, tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    if content is not None:
        workspace.metrics.parent.mkdir()
        workspace.metrics.write_text(content)
    with pytest.raises(IntegrityError, match="dvc repro --force --single-item evaluate"):
        pipeline._tell(workspace)


STOPPED_AT_THE_IMPORT = """
import contextlib, sys, time
from pathlib import Path
from flows import pipeline

@contextlib.contextmanager
def interrupted():
    while not Path("behave/ingest.waits").exists():
        time.sleep(0.05)
    raise KeyboardInterrupt
    yield

pipeline.quick_imports = interrupted
pipeline._choose_server = lambda _: None
code = pipeline.main([])
sys.exit(99 if "prefect" in sys.modules else code)
"""


def test_first_stage_works_before_prefect_is_imported_and_ends_with_the_command(project: Project) -> None:
    project.behave("ingest", "wait")
    code, text = project.run("-c", STOPPED_AT_THE_IMPORT)
    assert code == 130, text
    assert text.endswith("Stopped. Finished work is kept; the same command continues from there.\n")
    assert project.ran() == ["ingest"]
    assert project.left_over() == []


def test_artifacts_of_a_run_count_what_began_before_its_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, str] = {}
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda *, key, markdown, **_: shown.update({key: markdown})
    )
    workspace = Workspace.at(tmp_path)
    costs = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mb": 1.0}
    keep_costs(workspace, "export", costs)  # of the run before
    plan = Plan("The plan", is_whole=True, steps=[])
    head_start = HeadStart((), workspace, 60.0, plan)
    keep_costs(workspace, "ingest", costs)
    context = RunContext(workspace, head_start=head_start)
    with artifacts.show_costs(context):
        keep_costs(workspace, "train", costs)
        artifacts.show_plan(context, load_settings(PARAMS.parent))
    assert shown["plan"] == "The plan"
    assert [line.split()[1] for line in shown["costs"].splitlines()[2:5]] == ["ingest", "train", "all"]


def test_accuracy_is_compared_with_that_before_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(artifacts, "emit_event", lambda *_, payload: told.append(payload["text"]))
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: SimpleNamespace(warning=print))
    workspace = Workspace.at(tmp_path)
    write_json(workspace.metrics, METRICS)
    head_start = HeadStart((), workspace, 60.0, Plan("The plan", is_whole=True, steps=[]))
    write_json(workspace.metrics, worse(METRICS))  # `evaluate` may end before the flow begins
    with artifacts.watch_accuracy(RunContext(workspace, head_start=head_start)):
        pass
    [text] = told
    assert text.startswith("The test accuracy dropped from 0.8750")


@pytest.mark.parametrize("known", [{}, {"NO_PROXY": "a.example"}, {"no_proxy": "a.example", "NO_PROXY": "b.example"}])
def test_proxy_is_not_asked_for_the_server_of_this_machine(tmp_path: Path, known: dict[str, str]) -> None:
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9"}
    found = prefect_environment(Workspace.at(tmp_path), {**proxy, **known})
    for name in ("no_proxy", "NO_PROXY"):
        assert found[name].split(",") == [*(["a.example"] if known else []), "127.0.0.1", "localhost"]
    assert "NO_PROXY" not in prefect_environment(Workspace.at(tmp_path), {})
