"""Programs: the exit code says what happened, and the message says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import ingest
from tasks.errors import USER_ERROR
from tasks.runs.costs import read_costs
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.conftest import PROJECT, contents, save_image
from tests.tasks.steps import run_prepare

PREAMBLE = """
import dataclasses, errno, os, sys, time
from pathlib import Path
from tasks.errors import DataError
from tasks.files import write_bytes
from tasks import ingest
from tasks.program import run_stage

@dataclasses.dataclass(frozen=True)
class Summary:
    images: int

def run(settings, workspace):
"""


def start(workspace: Path, body: str) -> subprocess.Popen[str]:
    script = PREAMBLE + textwrap.indent(textwrap.dedent(body), "    ") + "\nraise SystemExit(run_stage('stage', run))\n"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=workspace,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(workspace: Path, body: str) -> tuple[int, str, str]:
    with start(workspace, body) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("stage", ["ingest", "prepare", "features", "evaluate", "export"])
def test_help_explains_a_stage_and_runs_nothing(stage: str, tmp_path: Path) -> None:
    command, environment = [sys.executable, "-m", f"tasks.{stage}"], {**os.environ, "PYTHONPATH": str(PROJECT)}
    for argument, code in (("--help", 0), ("--force", 2)):
        ended = subprocess.run([*command, argument], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == code, ended.stderr
        assert f"python -m tasks.{stage}" in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_stage_prints_its_summary_and_writes_its_costs(workspace: Path) -> None:
    code, out, _ = finish(workspace, "return Summary(images=3)")
    assert (code, out) == (0, "stage: Summary(images=3)\n")
    costs = read_costs(Workspace.at(workspace), "stage")
    always = {"seconds", "cpu_seconds", "peak_memory_mb"}
    assert set(costs) == {"images", *always, "gpu_seconds", "peak_gpu_memory_mb", "energy_j", "energy_of"}
    assert costs["images"] == 3
    assert costs["peak_memory_mb"] > 1


def test_costs_of_a_stage_that_never_ran_are_empty(workspace: Path) -> None:
    assert read_costs(Workspace.at(workspace), "stage") == {}


def test_stage_reports_a_user_error_without_a_traceback(workspace: Path) -> None:
    code, out, err = finish(workspace, "raise DataError('two classes are needed')")
    assert (code, out, err) == (USER_ERROR, "", "DataError: two classes are needed\n")


def test_stage_without_params_says_what_to_do(tmp_path: Path) -> None:
    code, _, err = finish(tmp_path, "return Summary(0)")
    assert code == USER_ERROR
    assert err.startswith("SettingsError: ")
    assert "git checkout params.yaml" in err


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EROFS"])
def test_stage_names_what_is_wrong_with_the_disk(workspace: Path, number: str) -> None:
    code, _, err = finish(workspace, f"raise OSError(errno.{number}, 'no', '/some/file')")
    assert code == USER_ERROR
    assert err.startswith("StorageError: the ")
    assert "/some/file" in err


def test_stage_names_a_file_that_the_disk_has_no_room_for(workspace: Path) -> None:
    body = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        write_bytes(workspace.folder / 'big', b'x' * 10_000)
    """
    code, _, err = finish(workspace, body)
    assert code == USER_ERROR
    assert err.startswith("StorageError: ")
    assert not (workspace / "big").exists()


def test_stage_shows_the_traceback_of_a_fault_of_its_own(workspace: Path) -> None:
    code, _, err = finish(workspace, "return 1 // 0")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert "Traceback" in err
    assert not Workspace.at(workspace).costs.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stage_leaves_through_its_finally_blocks_when_it_is_stopped(
    workspace: Path, number: signal.Signals, code: int
) -> None:
    body = """
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            Path("cleaned").touch()
    """
    with start(workspace, body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert (workspace / "cleaned").exists()
    assert "the same command continues from there" in err
    assert "Traceback" not in err


def test_costs_are_json_that_others_can_read(workspace: Path) -> None:
    finish(workspace, "return Summary(7)")
    assert json.loads((Workspace.at(workspace).costs / "stage.json").read_text())["images"] == 7


@pytest.mark.parametrize("stage", ["ingest", "prepare"])
def test_stage_on_a_full_disk_says_so_and_keeps_what_it_had(
    workspace: Path, source: Path, change: Callable[..., Settings], stage: str
) -> None:
    small = ("prepare.min_entropy_bits=0", "prepare.shard_size=4", "prepare.test_fraction=0.3")
    run_prepare(change(f"source.uri={source}", *small), workspace)
    save_image(source / "ant" / "new.png", "ant", 99)
    if stage == "prepare":
        ingest.run(change(), Workspace.at(workspace))
    before = contents(workspace / "data")
    body = f"""
        import resource, sys
        from tasks import {stage}
        sys.dont_write_bytecode = True  # else what it imports from now on is cached up to the limit, for good
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return {stage}.run(settings, workspace)
    """
    code, _, err = finish(workspace, body)
    assert code == USER_ERROR, err
    assert "StorageError: the file would pass the allowed size" in err
    assert contents(workspace / "data") == before


def test_python_without_the_packages_names_the_fix_without_a_traceback() -> None:
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import runpy; runpy.run_module('tasks.ingest')"
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "lacks this project's packages. Activate its environment (. .venv/bin/activate)" in ended.stderr
