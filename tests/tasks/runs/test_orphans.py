"""Left-over processes: only those of a supervisor, and only in the folder, are stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tasks.progress import PROGRESS_VARIABLE
from tasks.runs.orphans import stop_orphans

DEAF = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@contextmanager
def sleeper(folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", DEAF]
    with subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"up\n"
            yield process
        finally:
            process.kill()


def test_only_orphans_are_stopped(tmp_path: Path) -> None:
    inside = tmp_path / "run/inside"
    inside.mkdir(parents=True)
    (tmp_path / "run.2").mkdir()
    supervised = {PROGRESS_VARIABLE: "x"}
    with ExitStack() as stack:
        orphan = stack.enter_context(sleeper(inside, **supervised))
        shell = stack.enter_context(sleeper(inside))
        other = stack.enter_context(sleeper(tmp_path / "run.2", **supervised))
        assert stop_orphans(tmp_path / "run", grace_s=0.2) == 1
        assert not psutil.pid_exists(orphan.pid)
        assert (shell.poll(), other.poll()) == (None, None)


def test_nothing_happens_without_orphans(tmp_path: Path) -> None:
    assert stop_orphans(tmp_path / "nowhere") == 0
