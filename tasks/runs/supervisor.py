"""Supervises a command of DVC as a guarded child process, and sends its output and progress to callbacks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.progress import PROGRESS_VARIABLE
from tasks.runs.dvc_state.changes import would_skip
from tasks.runs.dvc_state.torn_files import repair_torn_files
from tasks.runs.guarded_process import GRACE_S, Ending, GuardedProcess
from tasks.runs.stage_failure import explain
from tasks.runs.warm_dvc import WarmDvc
from tasks.workspace import Workspace

_POLL_S = 0.5
_TAIL_LINES = 200
_LONGEST_LINE = 16_384
_LINE_END = re.compile(rb"\r\n|\n|\r")
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

OnLine = Callable[[str], None]
OnProgress = Callable[[dict[str, Any]], None]


def bring_up_to_date(
    stage: str,
    workspace: Workspace,
    *,
    limit_s: float,
    on_line: OnLine,
    on_progress: OnProgress = lambda _state: None,
    is_wanted: Callable[[], bool] = lambda: True,
    warm: WarmDvc | None = None,
) -> None:
    """Do what `dvc repro --single-item` does. No new process of DVC is started if DVC would skip the stage.

    Args and errors are those of `run_dvc`.
    """
    skips = False
    if warm is None:  # a fork of it finds out as fast, and beside this process
        with contextlib.suppress(Exception):  # DVC's own process tells what is wrong
            skips = would_skip(workspace, stage)
    if skips:
        on_line(f"Stage '{stage}' didn't change, skipping")
        return
    command = ["repro", "--single-item", stage]
    run_dvc(
        stage,
        command,
        workspace,
        limit_s=limit_s,
        on_line=on_line,
        on_progress=on_progress,
        is_wanted=is_wanted,
        warm=warm,
    )


def run_dvc(
    stage: str,
    arguments: Sequence[str],
    workspace: Workspace,
    *,
    limit_s: float,
    on_line: OnLine,
    on_progress: OnProgress = lambda _state: None,
    grace_s: float = GRACE_S,
    is_wanted: Callable[[], bool] = lambda: True,
    warm: WarmDvc | None = None,
) -> None:
    """Run one command of DVC for a stage, in a child process.

    Args:
        stage: the stage for messages, such as `prepare` or `train@fine_tuning`.
        arguments: such as `["repro", "--single-item", "prepare"]`.
        workspace: with dvc.yaml.
        limit_s: time limit, seconds; the guard enforces it by the monotonic clock.
        on_line: called with each line of output that isn't blank, without terminal codes.
        on_progress: called with each new `tasks.progress.Progress.state` of the stage.
        grace_s: seconds from SIGTERM to SIGKILL when the child is stopped.
        is_wanted: asked twice a second; the child is stopped when the answer is no.
        warm: forks the child, which then has its imports.

    Raises:
        StageFailed: the command failed, or took too long.
    """
    arguments = ["dvc", "--wait-for-lock", *arguments]
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def note(line: str) -> None:
        tail.append(line)
        on_line(line)

    repair_torn_files(workspace)
    # `python -m dvc` runs the DVC of this interpreter, whatever is in PATH.
    command = [sys.executable, "-m", *arguments]
    environment = child_environment(os.environ)
    ending = supervise(
        command,
        workspace.folder,
        environment,
        note,
        on_progress,
        limit_s=limit_s,
        grace_s=grace_s,
        is_wanted=is_wanted,
        warm=warm,
    )
    failure = explain(stage, shlex.join(arguments), ending, tail, limit_s)
    if failure is not None:
        raise failure


@contextlib.contextmanager
def warm_dvc(workspace: Workspace) -> Iterator[WarmDvc | None]:
    """DVC and the programs of a workspace's stages, imported in a process that forks others.

    None on other systems than Linux: macOS's own libraries don't bear a fork that starts no new program.
    """
    if sys.platform == "linux":
        with WarmDvc(workspace.folder, child_environment(os.environ)) as warm:
            yield warm
    else:
        yield None


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for DVC and its programs: this interpreter first in PATH, unbuffered output, no analytics."""
    binaries = str(Path(sys.executable).parent)
    return {
        **environment,
        "PATH": os.pathsep.join([binaries, *filter(None, [environment.get("PATH")])]),
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
    }


def supervise(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    on_line: OnLine,
    on_progress: OnProgress,
    *,
    limit_s: float,
    grace_s: float = GRACE_S,
    is_wanted: Callable[[], bool] = lambda: True,
    warm: WarmDvc | None = None,
) -> Ending:
    """Run a command to its end. If an exception leaves this call, all processes of the command are stopped first."""
    with Workspace.at(folder).temporary_folder() as temporary:
        progress_file = temporary / "progress.json"
        variables = {**environment, PROGRESS_VARIABLE: str(progress_file)}
        with GuardedProcess(command, folder, variables, subprocess.PIPE, limit_s, grace_s, warm) as child:
            states = _new_states(progress_file)
            lines = _Lines(on_line)
            while child.ending() is None:
                _read_some(child.output.fileno(), lines, _POLL_S)
                for state in next(states):
                    on_progress(state)
                if not is_wanted():
                    child.stop()
            while _read_some(child.output.fileno(), lines, 0):  # the rest of the pipe after the end
                pass
            lines.end()
            for state in next(states):
                on_progress(state)
            ending = child.ending()
    assert ending is not None
    return ending


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line = on_line
        self._rest = b""

    def add(self, data: bytes) -> None:
        *whole, self._rest = _LINE_END.split(self._rest + data)
        for line in whole:
            self._give(line)
        if len(self._rest) > _LONGEST_LINE:  # a line without end must not fill the memory
            self.end()

    def end(self) -> None:
        self._give(self._rest)
        self._rest = b""

    def _give(self, line: bytes) -> None:
        text = _TERMINAL_CODES.sub("", line.decode("utf-8", "replace")).rstrip()
        if text:
            self._on_line(text)


def _read_some(descriptor: int, lines: _Lines, timeout_s: float) -> bool:
    """Read available output, waiting `timeout_s` at most. Returns False if there was none."""
    # The guard holds the pipe's other end too, so there is no end of file, and no busy loop, before the guard ends.
    poll = select.poll()  # select itself refuses descriptors above 1023
    poll.register(descriptor, select.POLLIN)
    data = os.read(descriptor, 65_536) if poll.poll(1000 * timeout_s) else b""
    if data:
        lines.add(data)
    return bool(data)


def _new_states(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield a list at each step: the file's state if the file was replaced since the last step, else empty."""
    seen = ""
    while True:
        found = []
        with contextlib.suppress(FileNotFoundError):
            text = file.read_text(encoding="utf-8")
            if text != seen:  # not its time: two writes can come within one tick of the file system's clock
                seen = text
                found.append(json.loads(text))
        yield found
