"""A command with a guard (process_guard.py): if this process ends in any way, the command's processes end too."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

import psutil

from tasks.runs import process_guard
from tasks.runs.warm_dvc import WarmDvc

NO_LIMIT_S = 1e9
GRACE_S = 10.0
"""Time from SIGTERM to SIGKILL. It is shorter than the 30 s after which a Prefect worker kills a cancelled run."""


@dataclass(frozen=True)
class Ending:
    """How a guarded command ended.

    Attributes:
        reason: `exit` (by itself), `limit` (time limit), `stopped` (by us), or `lost` (its guard was killed).
        code: exit code, or minus the number of the signal that ended the command; None if unknown.
    """

    reason: Literal["exit", "limit", "stopped", "lost"]
    code: int | None


class GuardedProcess:
    """A running command. Leaving the `with` block stops it and all its descendants.

    Args:
        command: program and arguments; the program is looked up in the environment's PATH.
        output: receives stdout and stderr, as for subprocess; with `subprocess.PIPE`, read `.output`.
        limit_s: the command is stopped after that many seconds of the monotonic clock.
        grace_s: from SIGTERM to SIGKILL, seconds.
        warm: forks the guard and the command, if it can run this command.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: int | IO[bytes] | None = None,
        limit_s: float = NO_LIMIT_S,
        grace_s: float = GRACE_S,
        warm: WarmDvc | None = None,
    ) -> None:
        self._grace_s = grace_s
        self._ending: Ending | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._link, guards_link = socket.socketpair()
        with guards_link, contextlib.ExitStack() as stack:
            if output == subprocess.PIPE:
                reads, writes = os.pipe()
                self._output = os.fdopen(reads, "rb")
                output = stack.enter_context(os.fdopen(writes, "wb"))
            if warm is not None and not isinstance(output, int | None):
                started = warm.start(command, folder, environment, limit_s, grace_s, guards_link, output)
                if started is not None:
                    self._pid = started
                    return
            guard = [process_guard.__file__, str(guards_link.fileno()), str(limit_s), str(grace_s)]
            self._process = subprocess.Popen(
                [sys.executable, "-I", *guard, *command],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output is not None else None,
                pass_fds=(guards_link.fileno(),),
                start_new_session=True,
            )
            self._pid = self._process.pid

    @property
    def output(self) -> IO[bytes]:
        if self._output is None:
            raise ValueError("output=subprocess.PIPE is needed to read a command's output")
        return self._output

    def ending(self) -> Ending | None:
        """How the command ended; None while it runs."""
        if self._ending is None and self._has_ended(0.0):
            self._ending = self._read_report()
            self._reap()
        return self._ending

    def stop(self) -> None:
        """Stop the command and all its descendants; returns when they are gone."""
        if self.ending() is None:
            self._link.shutdown(socket.SHUT_WR)
            if not self._has_ended(self._grace_s + 15.0):
                self._kill_all()
                self._has_ended(None)
            self.ending()

    def _has_ended(self, timeout_s: float | None) -> bool:
        """Whether the guard has reported or is gone: it holds the other end of the link alone, and writes once."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))

    def _read_report(self) -> Ending:
        text = b""
        with contextlib.suppress(ConnectionError):
            while part := self._link.recv(4096):
                text += part
        if not text:  # the guard itself was killed: kill the rest of its group
            self._kill_all()
            return Ending("lost", None)
        report = json.loads(text)
        return Ending(report["ended"], report["code"])

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()

    def _kill_all(self) -> None:
        """Last resort, when the guard is gone or hangs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._link.close()
            if self._output is not None:
                self._output.close()
