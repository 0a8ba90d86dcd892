"""What happened when: one line for each fault, each night, each sample of memory and disk."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        began, ended: Unix time; at `ended` the fault was undone, which is not yet when its effects were.
        kind: such as `kill -9`, `503 SlowDown`, `full disk`.
        target: what it hit, such as `engine`.
        detail: in words.
    """

    began: float
    ended: float
    kind: str
    target: str
    detail: str = ""


@dataclass(frozen=True)
class Night:
    """One run of the schedule, as Prefect's server knows it.

    Attributes:
        due, taken, began, ended: when it should run, a worker took it, it ran, it ended; Unix times, or None.
        state: its type, such as COMPLETED.
        reason: the state's message.
        healed: lines of its log that tell what it repaired or went on with.
        commit: line of its log about the commit; empty if it made none.
        log: all lines.
    """

    run_id: str
    name: str
    due: float
    began: float | None
    ended: float | None
    state: str
    reason: str
    healed: tuple[str, ...] = ()
    commit: str = ""
    log: str = ""
    taken: float | None = None

    @property
    def seconds(self) -> float | None:
        return None if self.began is None or self.ended is None else self.ended - self.began


@dataclass(frozen=True)
class Sample:
    """Memory and disk at one time, MB; memory is None while the service is down."""

    time: float
    server_mb: float | None
    worker_mb: float | None
    clone_mb: float
    prefect_mb: float


class Record:
    """Collects faults and samples, and writes each at once to a file, so that a broken soak can be understood."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.faults: list[Fault] = []
        self.samples: list[Sample] = []

    def fault(self, began: float, kind: str, target: str, detail: str = "") -> None:
        fault = Fault(began, time.time(), kind, target, detail)
        self.faults.append(fault)
        self.say(f"{kind}: {target} {detail}".rstrip())

    def sample(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._write({"sample": asdict(sample)})

    def say(self, text: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)
        self._write({"time": time.time(), "text": text})

    def _write(self, entry: dict[str, object]) -> None:
        with self._file.open("a") as file:
            file.write(f"{json.dumps(entry)}\n")
