"""`make run` after which nothing changed says so at once; in any doubt it runs. The real `ingest`, a real DVC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import plan
from tasks.params import change_settings, load_settings, parse_changes
from tasks.workspace import Workspace
from tests.conftest import PROJECT, contents, draw_image, fill_source, new_workspace
from tests.tasks.runs.repository import dvc, init_dvc

STAGES = """
stages:
  ingest:
    cmd: python -m tasks.ingest
    always_changed: true
    params: [source, ingest]
    outs: [data/raw: {persist: true}]
  copy:
    cmd: cp data/raw/manifest.parquet copied
    deps: [data/raw]
    params: [train]
    outs: [copied]
"""
FIGURES = {"accuracy": 0.875, "accuracy_ci95": [0.8, 0.9], "n": 200, "log_loss": 0.25}
EVALUATION = {
    "champion": "fine_tuning",
    "strategies": {
        "fine_tuning": {
            "recipe": "modern",
            "validation": FIGURES,
            "test": FIGURES | {"balanced_accuracy": 0.875, "expected_calibration_error": 0.0},
        }
    },
}
METRICS = {
    "champion": "fine_tuning",
    "strategies": {"fine_tuning": EVALUATION["strategies"]["fine_tuning"] | {"train_seconds": 2.0}},  # type: ignore[index]
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which everything has run, and its source."""
    folder = tmp_path_factory.mktemp("made")
    fill_source(folder / "source")
    workspace = new_workspace(folder)
    (workspace / "dvc.yaml").write_text(STAGES)
    change_settings(workspace, parse_changes([f"source.uri={folder / 'source'}"]))
    init_dvc(workspace, in_git=False)
    dvc(workspace, "repro", environment={**os.environ, "PYTHONPATH": str(PROJECT)})
    for name, content in {"evaluation": EVALUATION, "metrics": METRICS}.items():
        (workspace / "reports").mkdir(exist_ok=True)
        (workspace / "reports" / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A workspace of its own, with a source of its own at the place that its settings name."""
    shutil.copytree(made / "workspace", tmp_path / "workspace", symlinks=True)
    return tmp_path / "workspace"


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The source; it is as it was again after the test."""
    saved = shutil.copytree(made / "source", tmp_path / "saved")
    yield made / "source"
    shutil.rmtree(made / "source")
    shutil.copytree(saved, made / "source")


def is_nothing_to_do(root: Path) -> bool:
    workspace = Workspace.at(root)
    made = plan.run_if_possible(plan.list_source(load_settings(root), workspace), workspace)
    return made is not None and plan.is_nothing_to_do(made, workspace)


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `flows.pipeline`; the exit code is 99 if it imported Prefect or TensorFlow."""
    code = (
        "import sys; from flows.pipeline import main; code = main(sys.argv[1:]); "
        "sys.exit(99 if {'prefect', 'tensorflow'} & set(sys.modules) else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_make_run_says_at_once_that_nothing_is_to_do_and_where_the_results_are(root: Path) -> None:
    before = contents(root / "data"), (root / "dvc.lock").read_bytes()
    code, text = run(root)
    assert code == 0, text
    assert "Nothing to do: the source, the settings and the code are as they were in the last run.\n" in text
    assert "Champion: fine_tuning, test accuracy 0.8750 (95 % interval 0.8000 to 0.9000, 200 images)\n" in text
    assert [line.split()[1] for line in text.splitlines()[-3:]] == [
        "reports/report.html",
        "reports/metrics.json",
        "models/export",
    ]
    assert (contents(root / "data"), (root / "dvc.lock").read_bytes()) == before


def test_setting_that_no_stage_reads_is_written_and_nothing_is_to_do(root: Path) -> None:
    code, text = run(root, "--set", "run.stage_retries=7")
    assert code == 0, text
    assert "Nothing to do" in text
    assert load_settings(root).run.stage_retries == 7


def change_bytes_only(path: Path) -> None:
    """Other bytes of the same size at the same time."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_seconds(root: Path) -> None:
    worse = json.loads((root / "reports/metrics.json").read_text())
    worse["strategies"]["fine_tuning"]["train_seconds"] = 99.0
    (root / "reports/metrics.json").write_text(json.dumps(worse))


def other_champion(root: Path) -> None:
    text = (root / "reports/metrics.json").read_text()
    (root / "reports/metrics.json").write_text(text.replace("fine_tuning", "progressive"))


DOUBTS: dict[str, Callable[[Path], object]] = {
    "another setting of a stage": lambda root: change_settings(root, parse_changes(["train.seed=7"])),
    "another setting of ingest": lambda root: change_settings(root, parse_changes(["ingest.pack_size_mb=65"])),
    "a missing output": lambda root: (root / "copied").unlink(),
    "a missing pack": lambda root: next((root / "data/raw").glob("*.tar")).unlink(),
    "a flipped bit in a pack": lambda root: change_bytes_only(next((root / "data/raw").glob("*.tar"))),
    "a changed output": lambda root: (root / "copied").write_text("other"),
    "no dvc.lock": lambda root: (root / "dvc.lock").unlink(),
    "another command": lambda root: (root / "dvc.yaml").write_text(STAGES.replace("cp data", "cp -f data")),
    "a file of stages that DVC refuses": lambda root: (root / "dvc.yaml").write_text("stages: 1\n"),
    "an ingest that was killed": lambda root: (root / ".rootstock/ingest.jsonl").touch(),
    "no metrics": lambda root: (root / "reports/metrics.json").unlink(),
    "metrics of another run": other_champion,
    "torn metrics": lambda root: (root / "reports/metrics.json").write_text('{"champion": "fine_'),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_in_doubt_the_pipeline_runs(root: Path, doubt: str) -> None:
    assert is_nothing_to_do(root)
    DOUBTS[doubt](root)
    assert not is_nothing_to_do(root)


def test_durations_that_another_machine_measured_are_no_doubt(root: Path) -> None:
    other_seconds(root)
    assert is_nothing_to_do(root)


def test_new_image_at_the_source_is_something_to_do(root: Path, source: Path) -> None:
    draw_image("ant", 99).save(source / "ant/099.png")
    assert not is_nothing_to_do(root)


def test_new_bytes_of_the_same_size_and_time_are_something_to_do(root: Path, source: Path) -> None:
    change_bytes_only(source / "ant/001.png")
    assert not is_nothing_to_do(root)
    found = plan.run(load_settings(root), Workspace.at(root))
    assert found.steps[0].why == "1 new"


@pytest.mark.parametrize("limit", ["LISTING_LIMIT_S", "READING_LIMIT_S"])
def test_source_that_takes_long_is_left_to_ingest(root: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, limit, 0.0)
    assert not is_nothing_to_do(root)
    found = plan.run(load_settings(root), Workspace.at(root))
    assert (found.is_empty, found.steps[0].verdict) == (False, "checks")


def test_plan_reads_no_image_if_a_stage_runs_anyway(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_settings(root, parse_changes(["train.seed=7"]))
    monkeypatch.setattr(plan, "read_ahead", lambda *_: pytest.fail("an image was read"))
    assert plan.run(load_settings(root), Workspace.at(root)).steps[0].verdict == "checks"
