"""A stage from a process that has its imports: the same as from a new process of DVC, and no process is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.runs.guarded_process import Ending
from tasks.runs.stage_failure import StageFailed
from tasks.runs.supervisor import child_environment, run_dvc, supervise, warm_dvc
from tasks.runs.warm_dvc import WarmDvc
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.tasks.runs.repository import init_dvc
from tests.tasks.runs.test_supervisor import FAMILY, family
from tests.waiting import is_running, wait_until

STAGES = """
stages:
  fit:
    cmd: python -m fit.run one 2
    deps: [fit, order]
    outs: [out]
  shell:
    cmd: python shell.py > said && cat said
    deps: [shell.py, order]
    outs: [said]
"""
FIT = """
import atexit, os, sys, threading, time
from pathlib import Path
from tasks.progress import Progress
from fit.what import WHAT

with Path("imports").open("a") as file:
    file.write("x")

def main():
    with Progress("fit", 1, "images") as progress:
        progress.advance()
    print(WHAT, sys.argv[1:], os.environ["DVC_STAGE"], sys.modules["__main__"].__spec__.name)
    Path("out").write_text(" ".join(sys.argv[1:]) + Path("order").read_text())
    exec(Path("order").read_text(), {"family": FAMILY})
    atexit.register(print, "the exit handler was called")
    threading.Thread(target=finish).start()
    return 0

def finish():
    time.sleep(0.1)
    print("the last thread has ended", end=" ")

FAMILY = %r
if __name__ == "__main__":
    raise SystemExit(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a stage that runs a module, and one that runs a command of the shell."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    init_dvc(tmp_path, in_git=False)
    (tmp_path / "fit").mkdir()
    files = {"dvc.yaml": STAGES, "fit/run.py": FIT % FAMILY, "fit/what.py": "WHAT = 'fitted'", "order": "pass"}
    for name, text in {**files, "shell.py": "print(open('order').read())"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def warm(folder: Path) -> Iterator[WarmDvc]:
    with warm_dvc(Workspace.at(folder)) as server:
        assert server
        yield server
    assert [process.pid for process in processes_in(folder)] == []


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def repro(folder: Path, warm: WarmDvc | None, stage: str = "fit", on_line: Callable[[str], None] = print) -> list[str]:
    """What a stage says, without its rate; with its progress."""
    said: list[str] = []

    def note(line: str) -> None:
        said.append(comparable(line))
        on_line(line)

    def show(state: dict[str, object]) -> None:
        said.append(f"{state['done']} of {state['total']}")

    command = ["repro", "--single-item", stage]
    workspace = Workspace.at(folder)
    run_dvc(stage, command, workspace, limit_s=60.0, on_line=note, on_progress=show, grace_s=0.5, warm=warm)
    return [line for line in said if line not in ("0 of 1", "1 of 1")] + sorted({*said} & {"1 of 1"})


def comparable(text: str) -> str:
    """TEXT without rates and without dash's word about a killed child, which pushes the first of the last lines out."""
    return re.sub(r", [0-9.]+ images/s|\nKilled(?=\n|$)|\nRunning stage 'fit':", "", text)


def test_stages_say_and_write_the_same_as_from_new_processes_and_import_once(folder: Path, warm: WarmDvc) -> None:
    def all_said(server: WarmDvc | None) -> tuple[list[str], str, bytes]:
        for name in ("dvc.lock", "out", "said", ".dvc/cache"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        said = [line for _ in range(2) for stage in ("fit", "shell") for line in repro(folder, server, stage)]
        return said, (folder / "dvc.lock").read_text(), (folder / "out").read_bytes()

    plain = all_said(None)
    assert "fitted ['one', '2'] fit fit.run" in plain[0]
    assert "the last thread has ended the exit handler was called" in plain[0]
    forked = all_said(warm)
    assert forked == plain
    (folder / "order").write_text("1")
    repro(folder, warm)
    assert (folder / "imports").read_text() == "xx"  # one new process, one warm one


@pytest.mark.parametrize("name", ["run", "what"])
def test_program_whose_source_has_changed_since_is_imported_again(folder: Path, warm: WarmDvc, name: str) -> None:
    repro(folder, warm)
    source = folder / f"fit/{name}.py"
    source.write_text(source.read_text().replace("fitted", "fitted otherwise").replace("WHAT, ", "WHAT, 'otherwise', "))
    assert any("otherwise" in line for line in repro(folder, warm))


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_failure_is_told_as_from_a_new_process(
    folder: Path, warm: WarmDvc, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("SHELL", shell)  # DVC's choice
    for order in ("1/0", "import sys; sys.exit(75)", "import os; os.kill(os.getpid(), 9)"):
        (folder / "order").write_text(order)
        told = []
        for server in (None, warm):
            with pytest.raises(StageFailed) as caught:
                repro(folder, server)
            told.append((comparable(str(caught.value)), caught.value.remedy, caught.value.exit_code))
        assert told[0] == told[1]


def test_stage_that_is_stopped_leaves_no_process(folder: Path, warm: WarmDvc) -> None:
    (folder / "order").write_text("import time; exec(family + 'time.sleep(600)')")

    def stop(line: str) -> None:
        if "family" in line:
            family(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repro(folder, warm, on_line=stop)
    assert [number for number in family(folder) if is_running(number)] == []


def test_time_limit_ends_the_stage_in_the_fork(folder: Path, warm: WarmDvc) -> None:
    (folder / "order").write_text("import time; print('begun'); time.sleep(600)")
    said: list[str] = []
    command = [sys.executable, "-m", "dvc", "repro", "fit"]
    for limit_s in (3.0, 15.0, 75.0):
        variables = child_environment(os.environ)
        ending = supervise(command, folder, variables, said.append, print, limit_s=limit_s, warm=warm)
        assert ending.reason == "limit"
        if "begun" in said:
            return
    raise AssertionError(said)


def test_death_of_the_guard_kills_the_stage_and_is_reported(folder: Path, warm: WarmDvc) -> None:
    (folder / "order").write_text("import psutil, time; psutil.Process().parents()[1].kill(); time.sleep(600)")
    command = [sys.executable, "-m", "dvc", "repro", "fit"]
    variables = child_environment(os.environ)
    assert supervise(command, folder, variables, print, print, limit_s=60.0, warm=warm) == Ending("lost", None)
    wait_until(lambda: len(processes_in(folder)) == 1, "all but the warm process to end")


def test_time_of_the_processors_is_counted_as_that_of_children(folder: Path) -> None:
    (folder / "order").write_text("import time\nwhile time.process_time() < 1.5: pass")
    before = os.times()
    with warm_dvc(Workspace.at(folder)) as warm:
        repro(folder, warm)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system >= 1.5


def test_death_of_the_run_or_of_the_warm_process_leaves_nothing_in_the_way(folder: Path) -> None:
    (folder / "order").write_text("import time; exec(family + 'time.sleep(600)')")
    code = """
from pathlib import Path
from tasks.runs.supervisor import run_dvc, warm_dvc
from tasks.workspace import Workspace
workspace = Workspace.at(Path.cwd())
with warm_dvc(workspace) as warm:
    run_dvc("fit", ["repro", "fit"], workspace, limit_s=60.0, on_line=print, grace_s=0.5, warm=warm)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder) as run:
        members = family(folder)
        assert all(is_running(member) for member in members)
        run.kill()
    wait_until(lambda: processes_in(folder) == [], "all processes to end")
    (folder / "order").write_text("pass")
    with warm_dvc(Workspace.at(folder)) as warm:
        [process] = processes_in(folder)
        process.send_signal(signal.SIGKILL)
        assert "fitted ['one', '2'] fit fit.run" in repro(folder, warm)
