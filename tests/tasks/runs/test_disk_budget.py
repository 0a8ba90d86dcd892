"""A run that needs more space than is free is refused before it works, with what frees how much."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import artifacts
from tasks import plan
from tasks.errors import StorageError
from tasks.params import load_settings
from tasks.runs.disk_budget import check_disk
from tasks.runs.planning import Step, Verdict
from tasks.runs.run_context import RunContext
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.tasks.runs.repository import deployed, make_repository, working
from tests.tasks.runs.tidied import folder_in_cache, night


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The disk, with its free space in MB."""
    disk = SimpleNamespace(mb=0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(disk.mb * 1e6)))
    return disk


def step(disk_mb: float | None, verdict: Verdict = "runs", stage: str = "export") -> Step:
    return Step(stage, verdict, "because", None, False, None, disk_mb)


def test_need_is_that_of_all_stages_twice_because_the_cache_keeps_a_copy(root: Path, free: SimpleNamespace) -> None:
    steps = [step(300.0, stage="train"), step(200.0)]
    free.mb = 1001
    check_disk(steps, Workspace.at(root), 30)
    free.mb = 999
    with pytest.raises(StorageError, match=r"needs about 1.0.GB .* where 999.MB are free"):
        check_disk(steps, Workspace.at(root), 30)


def test_cache_on_another_disk_is_counted_there(root: Path, free: SimpleNamespace) -> None:
    other = Path("/dev/shm")  # another disk than that of temporary files, on most machines
    (root / ".dvc/config.local").write_text(f"[cache]\n    dir = {other}\n")
    free.mb = 501
    if root.stat().st_dev == other.stat().st_dev:
        free.mb = 1001
    check_disk([step(500.0)], Workspace.at(root), 30)


def test_stages_that_do_not_run_need_nothing(root: Path, free: SimpleNamespace) -> None:
    free.mb = 0
    check_disk([step(5e6, "-"), step(5e6, "may run"), step(5e6, "checks")], Workspace.at(root), 30)


def test_unknown_need_leaves_a_floor(root: Path, free: SimpleNamespace) -> None:
    free.mb = 201
    check_disk([step(None)], Workspace.at(root), 30)
    free.mb = 199
    with pytest.raises(StorageError, match=r"needs about 200.MB .*New files: unknown"):
        check_disk([step(None)], Workspace.at(root), 30)


def test_refusal_of_a_deployed_run_says_what_frees_how_much(root: Path, free: SimpleNamespace) -> None:
    for number in range(3):
        night(root, f"{number}" * 2_000_000)
    copies = Workspace.at(root).source_cache / "unpacked/a/data"
    copies.parent.mkdir(parents=True)
    copies.write_bytes(bytes(7_000_000))
    free.mb = 10
    with working(deployed(root, [])) as folder, pytest.raises(StorageError) as refused:
        check_disk([step(180.0)], Workspace.at(folder), 2)
    said = str(refused.value).replace("\u00a0", " ")
    assert "Nothing has begun" in said
    assert "export 180 MB" in said
    assert "`make tidy` frees 2.0 MB; with run.kept_runs=1, 4.0 MB" in said
    assert f"deleting {copies.parents[2]}, the copies of sources, frees 7.0 MB" in said


def test_plan_of_a_flow_is_shown_before_its_run_is_refused(
    root: Path, free: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda *, markdown, **_: shown.append(markdown))
    monkeypatch.setattr(plan, "run", lambda *_: plan.Plan("The plan", is_whole=True, steps=[step(180.0)]))
    settings = load_settings(PROJECT)
    free.mb = 10
    with pytest.raises(StorageError, match="Nothing has begun"):
        artifacts.show_plan(RunContext(Workspace.at(root)), settings)
    assert shown == ["The plan"]
    free.mb = 1000
    assert artifacts.show_plan(RunContext(Workspace.at(root)), settings)


def test_refusal_comes_also_where_tidying_cannot_tell(root: Path, free: SimpleNamespace) -> None:
    folder_in_cache(root, "unknown")
    (root / "dvc.yaml").write_text("stages: 1\n")
    with pytest.raises(StorageError, match="use a larger disk"):
        check_disk([step(180.0)], Workspace.at(root), 2)
