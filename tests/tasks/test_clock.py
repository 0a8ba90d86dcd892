"""A clock that jumps by a day or by decades changes no result, no stored data and no time limit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tasks import ingest, prepare
from tasks.files import atomic_file, sweep_temporaries
from tasks.runs import process_guard
from tasks.runs.code_snapshot import _KEPT, unpack
from tasks.runs.supervisor import supervise
from tasks.workspace import RAW, SHARDS, Workspace
from tests.tasks.runs.repository import dvc, git, make_repository
from tests.tasks.steps import Change, identities, settings_for

DAY_S = 86_400
LONG_AGO, FAR_AHEAD = 1, 4_000_000_000
JUMPING = """
import itertools, runpy, time
real, days = time.time, itertools.count(1)
time.time = lambda: real() + next(days) * {step}
runpy.run_path({program!r}, run_name="__main__")
"""


def date(folder: Path, moment: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (moment, moment))


@pytest.mark.parametrize("moment", [LONG_AGO, FAR_AHEAD])
def test_nothing_is_made_again_because_files_have_other_times(
    workspace: Path, source: Path, change: Change, moment: int
) -> None:
    settings = settings_for(change, source)
    for stage in (ingest, prepare):
        stage.run(settings, Workspace.at(workspace))
    for folder in (source, workspace):
        date(folder, moment)
    files = identities(workspace / SHARDS, "*.safetensors"), identities(workspace / RAW, "*.tar")
    assert all(files)
    for stage in (ingest, prepare):
        stage.run(settings, Workspace.at(workspace))
    after = identities(workspace / SHARDS, "*.safetensors"), identities(workspace / RAW, "*.tar")
    assert after == files


@pytest.mark.slow
def test_dvc_runs_a_stage_for_other_bytes_and_not_for_other_times(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "clone")
    dvc(root, "repro")
    date(root / "out", FAR_AHEAD)
    assert "Running stage" not in dvc(root, "repro", "-s", "double")
    program = root / "add.py"
    program.write_text(program.read_text().replace("write_text(sys", "write_text('0' + sys"))
    os.utime(program, (LONG_AGO, LONG_AGO))
    assert "Running stage 'double'" in dvc(root, "repro", "-s", "double")
    assert (root / "out/double").read_text().startswith("0double")


@pytest.mark.parametrize(("step", "code", "ended"), [(DAY_S, "", "exit"), (-DAY_S, "time.sleep(600)", "limit")])
def test_time_limit_holds_while_the_clock_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, code: str, ended: str
) -> None:
    program = tmp_path / "guard.py"
    program.write_text(JUMPING.format(step=step, program=process_guard.__file__))
    monkeypatch.setattr(process_guard, "__file__", str(program))
    limit_s = 1.0 if ended == "limit" else DAY_S / 2
    command = [sys.executable, "-c", f"import time\n{code}"]
    ending = supervise(command, tmp_path, os.environ, print, print, limit_s=limit_s, grace_s=0.5)
    assert ending.reason == ended


@pytest.mark.parametrize("moment", [LONG_AGO, FAR_AHEAD])
def test_temporaries_of_the_dead_are_swept_and_of_the_living_kept_whatever_their_times(
    tmp_path: Path, moment: int
) -> None:
    (tmp_path / ".gone.1.partial").touch()
    with atomic_file(tmp_path / "alive") as file:
        file.write(b"whole")
        date(tmp_path, moment)
        assert sweep_temporaries(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["alive"]


def test_code_that_was_just_unpacked_is_kept_though_the_clock_was_put_back(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "clone")
    for number in range(_KEPT):
        (Workspace.at(root).code / f"{number:040d}").mkdir(parents=True)
    date(Workspace.at(root).code, FAR_AHEAD)
    assert (unpack(root, git(root, "rev-parse", "HEAD")) / "add.py").exists()
