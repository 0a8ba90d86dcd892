"""A process that has imported DVC and the stages' programs, and forks a guarded child for each command of DVC.

Each child is what `python -m dvc` below a guard (process_guard.py) would be; only the imports are already done. The
program of that process is tasks/runs/dvc_state/fork_server.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tasks.progress import PROGRESS_VARIABLE

_SERVER = "tasks.runs.dvc_state.fork_server"
_END_S = 5.0


class WarmDvc:
    """The process; it starts at once, and leaving the `with` block, or the end of this process, ends it.

    It ends alone: its children have their own links to this process.

    Args:
        folder: with dvc.yaml; commands in other folders are DVC's alone, and their programs start as usual.
        environment: of the process; a command has its own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._is_used = False
        self._control, its_end = socket.socketpair()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _SERVER, str(its_end.fileno())],
                cwd=folder,
                # By this variable, processes that a killed run has left are found: also by those that it forks.
                env={**environment, PROGRESS_VARIABLE: ""},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a command that it can't run runs without it, and tells what is wrong
                pass_fds=(its_end.fileno(),),
                start_new_session=True,
            )

    def start(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        limit_s: float,
        grace_s: float,
        link: socket.socket,
        output: IO[bytes],
    ) -> int | None:
        """Start a guarded command. Returns the guard's process id; None if this process can't run the command.

        Args:
            command: such as `[sys.executable, "-m", "dvc", "repro"]`; only this interpreter's DVC can be run.
            folder: in which the command works.
            environment: of the command.
            limit_s: its time limit, seconds.
            grace_s: from SIGTERM to SIGKILL, seconds.
            link: the guard's end of the link to this process.
            output: receives stdout and stderr.
        """
        if list(command[:3]) != [sys.executable, "-m", "dvc"]:
            return None
        request = [str(folder), dict(environment), limit_s, grace_s, *command[3:]]
        with self._lock, contextlib.suppress(OSError, ValueError):
            socket.send_fds(self._control, [b"-"], [link.fileno(), output.fileno()])
            send(self._control, request)
            self._is_used = True
            answer = receive(self._control)
            return None if answer is None else int(answer)
        return None

    def close(self) -> None:
        """End the process; no command runs any more."""
        self._control.close()
        if not self._is_used:
            self._process.kill()  # perhaps it still imports
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def send(channel: socket.socket, value: object) -> None:
    """Send a value as JSON, after its length."""
    data = json.dumps(value).encode()
    channel.sendall(len(data).to_bytes(8, "big") + data)


def receive(channel: socket.socket) -> Any:
    """The next value; None if the other side has closed the channel."""
    length = int.from_bytes(_read(channel, 8) or b"", "big")
    data = _read(channel, length) if length else None
    return None if data is None else json.loads(data)


def _read(channel: socket.socket, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        part = channel.recv(length - len(data))
        if not part:
            return None
        data += part
    return data
