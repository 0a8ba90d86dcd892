"""The guard: a small process between a run and its command, so that no process of the command is left behind.

`python guard.py LINK LIMIT_S GRACE_S COMMAND...` starts a session and the command in it. It stops all its descendants
as soon as the command ends, LIMIT_S passes, or the other end of the socket LINK closes. The kernel closes that end
however the run's process ends, kill -9 included. (A parent-death signal would reach the command only, not the shells
and workers below it, and comes when the *thread* that started the command ends.) Then the guard writes one JSON object
to LINK: `ended` ("exit", "limit" or "stopped") and `code` (exit code, or minus the signal).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def main(arguments: Sequence[str]) -> int:
    link, limit_s, grace_s, *command = arguments
    guard = Guard(socket.socket(fileno=int(link)), float(limit_s), float(grace_s))
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigdef=_HANDLED)
    except OSError as error:
        print(f"{type(error).__name__}: can't start {command[0]}: {error.strerror}", flush=True)
        guard.report("exit", 127)
    else:
        guard.watch(child)
    return 0


class Guard:
    """What this process is from now on: the guard of one command, its child. It leads a process group.

    Args:
        link: to the run's process.
        limit_s: the command is stopped after that many seconds.
        grace_s: from SIGTERM to SIGKILL, seconds.
    """

    def __init__(self, link: socket.socket, limit_s: float, grace_s: float) -> None:
        self._link, self._grace_s, self._deadline = link, grace_s, time.monotonic() + limit_s
        link.set_inheritable(False)  # otherwise the command would keep the link open
        _adopt_orphans()
        self._wakes, self._waker = socket.socketpair()
        for end in (self._wakes, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno())
        for number in _HANDLED:
            signal.signal(number, _note)

    def leave(self) -> None:
        """In a fork of this process that is the command: be no guard."""
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self._link, self._wakes, self._waker):
            end.close()

    def watch(self, child: int) -> None:
        """Return when the command and all its descendants have ended, and the run knows how."""
        ended, code = self._wait(child)
        swept_code = _sweep(child, self._grace_s)
        self.report(ended, swept_code if code is None else code)

    def report(self, ended: str, code: int | None) -> None:
        with contextlib.suppress(OSError):  # if the run's process was killed, nothing reads it
            self._link.sendall(json.dumps({"ended": ended, "code": code}).encode())

    def _wait(self, child: int) -> tuple[str, int | None]:
        """Wait for the first reason to stop. Returns the reason, and the command's code if the command has ended."""
        poll = select.poll()  # select itself refuses descriptors above 1023
        for one in (self._link, self._wakes):
            poll.register(one, select.POLLIN)
        while True:
            code = _reap(child)
            if code is not None:
                return "exit", code
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "limit", None
            ready = {descriptor for descriptor, _ in poll.poll(1000 * min(left, 3600.0))}  # refuses very long times
            if self._link.fileno() in ready:  # the run never writes: readable means closed
                return "stopped", None
            if self._wakes.fileno() in ready and any(number != signal.SIGCHLD for number in self._wakes.recv(4096)):
                return "stopped", None


def _sweep(child: int, grace_s: float) -> int | None:
    """Send SIGTERM to every descendant, and SIGKILL after the grace. Returns the command's code."""
    code = None
    if _living():
        os.killpg(0, signal.SIGTERM)  # the guard is in the group too: its handler ignores the signal
        _send(signal.SIGTERM, outside_group=True)
    deadline = time.monotonic() + grace_s
    while _living() and time.monotonic() < deadline:
        code = _first(code, _reap(child))
        time.sleep(0.05)
    give_up = time.monotonic() + 10.0  # a process in an uninterruptible call to the kernel can't be killed
    while _living() and time.monotonic() < give_up:
        _send(signal.SIGKILL, outside_group=False)
        code = _first(code, _reap(child))
        time.sleep(0.02)
    return _first(code, _reap(child))


def _living() -> list[psutil.Process]:
    living = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def _send(number: signal.Signals, outside_group: bool) -> None:
    for process in _living():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if not outside_group or os.getpgid(process.pid) != os.getpgrp():
                process.send_signal(number)


def _reap(child: int) -> int | None:
    """Reap all children that ended, adopted orphans included. Returns the code of the command if it was one of them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if process_id == 0:
                break
            if process_id == child:
                code = os.waitstatus_to_exitcode(status)
    return code


def _first(code: int | None, other: int | None) -> int | None:
    return other if code is None else code


def _adopt_orphans() -> None:
    """On Linux, make processes whose parent has ended children of the guard, so that it finds them.

    On other systems, the guard doesn't find an orphan that has also left the process group.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _note(_number: int, _frame: object) -> None:
    """Does nothing: the wake-up descriptor wakes `_wait`. Without a handler, the signal would end or miss the guard."""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
