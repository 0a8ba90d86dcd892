"""Complete stages on small images, for the tests of the stages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tasks import features, ingest, prepare
from tasks.settings import Settings
from tasks.vgg import engine_choice, engines
from tasks.vgg.engines import Engine
from tasks.workspace import Workspace
from tests.conftest import PROJECT

Change = Callable[..., Settings]


def settings_for(change: Change, source: Path | str, *assignments: str) -> Settings:
    """Settings for small sets: shards of four images, no limits on their content."""
    small = ("prepare.shard_size=4", "prepare.min_entropy_bits=0", "prepare.min_content_fraction=0")
    shares = ("prepare.validation_fraction=0.25", "prepare.test_fraction=0.25")
    return change(f"source.uri={source}", *small, *shares, *assignments)


def run_prepare(settings: Settings, workspace: Path) -> prepare.Summary:
    ingest.run(settings, Workspace.at(workspace))
    return prepare.run(settings, Workspace.at(workspace))


def use_tiny_extractor(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let features be mean colours over a 2x2 grid, at every boundary (plus 1 if rounded); gives the batches' sizes."""
    sizes: list[int] = []

    def build(engine: Engine, _weights: Any, boundaries: Sequence[str], *_: Any) -> engines.Extract:
        def extract(batch: np.ndarray) -> tuple[np.ndarray, ...]:
            sizes.append(len(batch))
            means = batch.reshape(len(batch), 2, 112, 2, 112, 3).mean(axis=(2, 4)).astype(np.float16) + (
                engine.precision != "float32"
            )
            return tuple(means for _ in boundaries)

        return extract

    monkeypatch.setattr(features, "load_weights", dict)
    monkeypatch.setattr(engine_choice, "choose_engine", lambda *_: Engine("ncnn", "float32"))
    monkeypatch.setattr(engines, "build_extractor", build)
    return sizes


def start_program(workspace: Path, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return _start(workspace, "-m", module, *arguments, **environment)


def twins(workspace: Path) -> list[Path]:
    """The workspace and a copy of it."""
    other = workspace.with_name("twin")
    shutil.copytree(workspace, other)
    return [workspace, other]


def run_afresh(workspaces: Sequence[Path], module: str, *arguments: str, **environment: str) -> list[str]:
    """Run a program in each workspace, in processes that order sets differently; gives what each wrote to stderr."""
    said = []
    for seed, workspace in enumerate(workspaces, 1):
        with start_program(workspace, module, *arguments, PYTHONHASHSEED=str(seed), **environment) as process:
            _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
        said.append(errors)
    return said


def _start(workspace: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# A program that stops, and waits to be killed, as soon as so many files have their names.
STOPPING = """
import os, runpy, signal, sys
from pathlib import Path
from tasks import files

module, pattern, count = sys.argv[1:]
del sys.argv[1:]
sync = files.sync_folder

def sync_and_stop(folder):
    sync(folder)
    if len(list(Path.cwd().glob(pattern))) == int(count):
        os.kill(os.getpid(), signal.SIGSTOP)

files.sync_folder = sync_and_stop
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def kill_program(workspace: Path, module: str, finished: str, count: int) -> list[psutil.Process]:
    """Kill a program in the midst of its work, when `count` files match `finished`; gives the workers that it had."""
    with _start(workspace, "-c", STOPPING, module, finished, str(count)) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), f"{module} came to its end: {process.communicate()}"
            workers = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(list(workspace.glob(finished))) == count
    return workers


def identities(folder: Path, pattern: str) -> dict[Path, tuple[int, int]]:
    """Path -> inode and time of change: a file that was written anew, even with the same bytes, has others."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob(pattern)}
