"""If DVC is killed while it writes its note of readers and writers, later runs still work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runs.dvc_state.torn_lock import remove_torn_lock
from tasks.runs.supervisor import run_dvc
from tasks.workspace import Workspace
from tests.tasks.runs.repository import init_dvc
from tests.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with one stage, whose note was cut."""
    (tmp_path / "dvc.yaml").write_text("stages:\n  first:\n    cmd: echo done > first\n    outs: [first]\n")
    init_dvc(tmp_path, in_git=False)
    note_of(tmp_path).parent.mkdir(exist_ok=True)
    note_of(tmp_path).write_text("")
    return tmp_path


def note_of(folder: Path) -> Path:
    return folder / ".dvc/tmp/rwlock"


@pytest.mark.parametrize("torn", ["", '{"write": {"/a/b": {"pid": 1', "[]", '{"write": 3}'])
def test_stage_runs_where_a_kill_tore_the_note(folder: Path, torn: str) -> None:
    note_of(folder).write_text(torn)
    run_dvc("first", ["repro", "--single-item", "first"], Workspace.at(folder), limit_s=60, on_line=print)
    assert (folder / "first").read_text() == "done\n"


def test_whole_note_stays(folder: Path) -> None:
    whole = json.dumps({"write": {"/a/b": {"pid": 1, "cmd": "dvc repro"}}, "read": {}})
    note_of(folder).write_text(whole)
    remove_torn_lock(Workspace.at(folder))
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
    command = [sys.executable, "-c", WRITING, str(note_of(folder).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            wait_until(lambda: writer.stdout.readline() == "writing\n", "the other process")  # type: ignore[union-attr]
            remove_torn_lock(Workspace.at(folder))
            assert note_of(folder).exists()
        finally:
            writer.kill()
