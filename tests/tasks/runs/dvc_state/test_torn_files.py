"""If DVC is killed while it writes dvc.lock, or its note of readers and writers, later runs still work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml

from tasks.runs.dvc_state.repository import open_repository
from tasks.runs.dvc_state.torn_files import repair_torn_files, restore_torn_lock
from tasks.runs.supervisor import run_dvc
from tasks.workspace import Workspace
from tests.tasks.runs.repository import init_dvc
from tests.waiting import wait_until

STAGES = """
stages:
  first:
    cmd: echo done > first
    outs: [first]
  second:
    cmd: cp first second
    deps: [first]
    outs: [second]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with two stages."""
    (tmp_path / "dvc.yaml").write_text(STAGES)
    init_dvc(tmp_path, in_git=False)
    return tmp_path


def note_of(folder: Path) -> Path:
    path = folder / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    return path


def repro(folder: Path, stage: str) -> None:
    run_dvc(stage, ["repro", "--single-item", stage], Workspace.at(folder), limit_s=60, on_line=print)


def stages_in(lock: bytes) -> list[str]:
    return list(parse_yaml(lock.decode(), "dvc.lock")["stages"])


@pytest.mark.parametrize("torn", ["", '{"write": {"/a/b": {"pid": 1', "[]", '{"write": 3}'])
def test_stage_runs_where_a_kill_tore_the_note(folder: Path, torn: str) -> None:
    note_of(folder).write_text(torn)
    repro(folder, "first")
    assert (folder / "first").read_text() == "done\n"


def test_whole_note_stays(folder: Path) -> None:
    whole = json.dumps({"write": {"/a/b": {"pid": 1, "cmd": "dvc repro"}}, "read": {}})
    note_of(folder).write_text(whole)
    repair_torn_files(Workspace.at(folder))
    assert note_of(folder).read_text() == whole


WRITING = """
import sys, time
from dvc.lock import make_lock

folder = sys.argv[1]
with make_lock(f"{folder}/rwlock.lock", tmp_dir=folder):
    print("writing", flush=True)
    time.sleep(600)
"""


def test_note_that_another_process_is_just_writing_stays(folder: Path) -> None:
    note_of(folder).write_text("")
    command = [sys.executable, "-c", WRITING, str(note_of(folder).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            wait_until(lambda: writer.stdout.readline() == "writing\n", "the other process")  # type: ignore[union-attr]
            repair_torn_files(Workspace.at(folder))
            assert note_of(folder).exists()
        finally:
            writer.kill()


@pytest.mark.parametrize("left", [0, 13, 40, -1])
def test_stage_runs_where_a_kill_tore_the_lock_and_the_finished_stage_stays_finished(
    folder: Path, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    repro(folder, "first")
    repro(folder, "second")
    lock = folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:left])
    capsys.readouterr()
    repro(folder, "second")
    said = capsys.readouterr().out
    assert "was cut while it was written" in said
    assert "Running stage 'first'" not in said
    assert stages_in(lock.read_bytes()) == ["first", "second"]


def test_lock_cut_anywhere_is_restored_or_names_whole_results_only(folder: Path) -> None:
    repro(folder, "first")
    repro(folder, "second")
    workspace = Workspace.at(folder)
    whole = workspace.lock.read_bytes()
    before = workspace.whole_lock.read_bytes()
    assert stages_in(before) == ["first"]
    for length in range(0, len(whole), 3):
        workspace.whole_lock.write_bytes(before)
        workspace.lock.write_bytes(whole[:length])
        if restore_torn_lock(workspace):
            assert workspace.lock.read_bytes() == before
        else:  # it was cut between two lines, and no line that is left is shorter than it was
            assert set(whole[:length].splitlines()) <= set(whole.splitlines())
            with open_repository(workspace) as repository:
                assert len(repository.index.stages) == 2


def test_torn_lock_without_an_earlier_version_is_removed(folder: Path) -> None:
    (folder / "dvc.lock").write_text("sche")
    with open_repository(Workspace.at(folder)) as repository:
        assert len(repository.index.stages) == 2
    assert not (folder / "dvc.lock").exists()
    repro(folder, "first")


def test_lock_with_conflicts_of_a_merge_is_left_to_the_person(folder: Path) -> None:
    conflict = "schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\n>>>>>>> other\n"
    (folder / "dvc.lock").write_text(conflict)
    repair_torn_files(Workspace.at(folder))
    assert (folder / "dvc.lock").read_text() == conflict
