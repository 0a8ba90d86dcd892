"""Explains why a stage failed, from its output and ending: the reason, the important message, whether to retry."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from enum import StrEnum

from tasks.errors import TRANSIENT_ERROR, USER_ERROR, StageError
from tasks.runs.guarded_process import Ending


class Remedy(StrEnum):
    """What may help after a failure: to try again, to wait and try again, or only the user."""

    RETRY = "retry"
    WAIT = "wait"
    FIX = "fix"


_BY_CODE = {
    USER_ERROR: (Remedy.FIX, "it stopped because of a problem that only you can fix"),
    TRANSIENT_ERROR: (Remedy.WAIT, "something outside is busy or doesn't answer"),
    126: (Remedy.FIX, "its program can't be executed"),
    127: (Remedy.FIX, "its program isn't there"),
}
_CRASHED = (Remedy.RETRY, "it crashed")
_EXIT_CODES = {Remedy.RETRY: 1, Remedy.WAIT: TRANSIENT_ERROR, Remedy.FIX: USER_ERROR}
_DVC_VERDICT = re.compile(r"^ERROR: failed to reproduce '.*': failed to run: .*, exited with (-?\d+)$")
_DVC_ERROR = re.compile(r"^ERROR: ")
_PROGRAM_ERROR = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)(: .*)?$")
_SHELL_SIGNAL = 128
_LAST_LINES = 5
_LONGEST_MESSAGE = 40


class StageFailed(StageError):
    """A stage's child process failed, or was stopped.

    Attributes:
        stage: its name in dvc.yaml.
        reason: why it ended, in words.
        said: the important last lines of its output; may be empty.
        command: the command that repeats the stage.
        remedy: what may help.
    """

    def __init__(self, stage: str, reason: str, said: str, command: str, remedy: Remedy) -> None:
        super().__init__(stage, reason, said, command, remedy)  # pickle needs all arguments
        self.stage, self.reason, self.said, self.command, self.remedy = stage, reason, said, command, remedy
        self.exit_code = _EXIT_CODES[remedy]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stage}: {self.reason})"

    def __str__(self) -> str:
        text = f"stage {self.stage} failed: {self.reason}. Repeat it alone: {self.command}"
        return f"{text}\n{self.said}" if self.said else text


def explain(stage: str, command: str, ending: Ending, tail: Sequence[str], limit_s: float) -> StageFailed | None:
    """The error that says how a `dvc repro` of one stage ended; None if it ended well.

    Args:
        stage: its name in dvc.yaml.
        command: the command that repeats the stage, as a person types it.
        ending: of the `dvc` process.
        tail: last lines of the output of DVC and the stage's program, oldest first.
        limit_s: the time limit that was set.
    """
    if ending.reason == "exit" and ending.code == 0:
        return None
    code = _program_code(tail) if ending.reason == "exit" else None
    remedy, _ = _BY_CODE.get(code or 0, _CRASHED)
    return StageFailed(stage, _reason(ending, code, limit_s), _said(tail), command, remedy)


def _program_code(tail: Sequence[str]) -> int | None:
    """The exit code of the stage's program, which is only in DVC's last message (DVC's own code is always 255)."""
    for line in reversed(tail):
        if verdict := _DVC_VERDICT.match(line):
            return int(verdict[1])
    return None


def _reason(ending: Ending, program_code: int | None, limit_s: float) -> str:
    if ending.reason == "limit":
        return f"it was stopped at its time limit of {limit_s:g} s (run.stage_time_limit_s in params.yaml)"
    if ending.reason == "stopped":
        return "it was stopped"
    code = ending.code if program_code is None else program_code
    if ending.reason == "lost" or code is None:
        return f"its guard process was killed; {_out_of_memory()}"
    number = -code if code < 0 else code - _SHELL_SIGNAL
    if code < 0 or code > _SHELL_SIGNAL:
        name = _signal_name(number)
        if name is not None:
            return f"it was killed by {name}" + (f"; {_out_of_memory()}" if number == signal.SIGKILL else "")
    if program_code is None:
        return f"DVC could not run it or keep its outputs (exit code {code})"
    return f"{_BY_CODE.get(code, _CRASHED)[1]} (exit code {code})"


def _out_of_memory() -> str:
    return "the signal came from outside, probably from the kernel because memory ran out (see: dmesg | tail)"


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def _said(tail: Sequence[str]) -> str:
    """The program's own error with its lines, or else DVC's error, or else the last lines of the output."""
    own = [line for line in tail if not _DVC_VERDICT.match(line)]
    starts = [number for number, line in enumerate(own) if _PROGRAM_ERROR.match(line)]
    starts = starts or [number for number, line in enumerate(own) if _DVC_ERROR.match(line)]
    lines = own[starts[-1] :] if starts else own[-_LAST_LINES:]
    return "\n".join(lines[:_LONGEST_MESSAGE]).strip()
