"""Carries out the plan: signals, power failures, full disks, a person beside, and the failures of S3."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import psutil

from tests.soak import s3_faults
from tests.soak.plan import PERSON, SIGNALS, Event
from tests.soak.processes import OF_RUNS, by_role
from tests.soak.record import Record
from tests.soak.site import Site
from tests.soak.torn import TEARS

_HUNT_S = 150.0
"""How long a fault waits for its target to appear."""


@dataclass
class _Hunt:
    event: Event
    deadline: float
    strike_at: float | None = None


class Faults:
    """Call `begin` for each event when its time has come, and `step` all the time; `stop` ends all faults."""

    def __init__(self, site: Site, record: Record, random: Random) -> None:
        self._site, self._record, self._random = site, record, random
        self._mark = site.disk.folder
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._hunts: list[_Hunt] = []
        self._failing = ""
        self._person: threading.Thread | None = None

    def begin(self, event: Event) -> None:
        if event.kind == "source":
            self._record.say(f"source: {self._site.source.change(self._random.randint(1, 4))}")
        elif event.kind in (*SIGNALS, "power failure"):
            self._hunts.append(_Hunt(event, time.monotonic() + _HUNT_S))
        elif event.kind == "full disk":
            self._fill_disk(event)
        elif event.kind in PERSON:
            self._work_beside(event)
        else:
            self._fail_s3(event)

    def step(self) -> None:
        """Do what has become due."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._do(heapq.heappop(self._later)[2])
        if self._hunts:
            living = by_role(self._mark)
            self._hunts = [hunt for hunt in self._hunts if not self._strike(hunt, living)]

    def stop(self) -> None:
        """Undo everything now."""
        self._hunts.clear()
        if self._person is not None:
            self._person.join()
        while self._later:
            self._do(heapq.heappop(self._later)[2])

    def _do(self, action: Callable[[], None]) -> None:
        """Undo a fault. A command that another fault hits is tried again."""
        try:
            action()
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            self._record.say(f"tries again: {error}")
            time.sleep(1)
            self._after(5, action)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), action))

    def _strike(self, hunt: _Hunt, living: dict[str, list[psutil.Process]]) -> bool:
        """Send the signal if its time has come. Returns whether the hunt is over."""
        now, event = time.monotonic(), hunt.event
        targets = living.get("engine" if event.kind == "power failure" else event.target, [])
        if targets and hunt.strike_at is None:
            hunt.strike_at = now + event.delay_s
        if not targets or hunt.strike_at is None or now < hunt.strike_at:
            return now > hunt.deadline
        if event.kind == "power failure":
            self._cut_power(event)
            return True
        victim = self._random.choice(targets)
        began = time.time()
        with contextlib.suppress(psutil.NoSuchProcess):
            line = _short(victim)
            if event.kind == "SIGSTOP":
                victim.suspend()
                self._after(event.lasts_s, lambda: self._resume(victim, began, event, line))
            else:
                victim.send_signal(signal.SIGKILL if event.kind == "kill -9" else signal.SIGTERM)
                self._record.fault(began, event.kind, event.target, line)
        return True

    def _resume(self, victim: psutil.Process, began: float, event: Event, line: str) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.resume()
        self._record.fault(began, "SIGSTOP, SIGCONT", event.target, f"{event.lasts_s:.0f} s {line}")

    def _cut_power(self, event: Event) -> None:
        """Kill the worker and all processes of runs at once, and tear a file. The server is on another machine."""
        began = time.time()
        living = by_role(self._mark)
        victims = [one for role in ("worker", *OF_RUNS, "shell", "other") for one in living.get(role, [])]
        for action in (psutil.Process.suspend, psutil.Process.kill):  # at once: none sees another one's end
            for one in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    action(one)
        psutil.wait_procs(victims, 10)
        for target in (event.target, *self._random.sample(sorted(TEARS), len(TEARS))):
            if torn := TEARS[target](self._site.project, self._random):
                break
        self._record.fault(began, "power failure", target, f"{len(victims)} processes; {torn}")

    def _fill_disk(self, event: Event) -> None:
        disk, began = self._site.disk, time.time()
        if not disk.can_be_filled:
            return
        disk.fill()

        def empty() -> None:
            disk.empty()
            self._record.fault(began, "full disk", "clone", f"{event.lasts_s:.0f} s")

        self._after(event.lasts_s, empty)

    def _fail_s3(self, event: Event) -> None:
        if self._failing:
            return
        began, self._failing = time.time(), event.kind
        detail = s3_faults.begin(event.kind, self._site, self._random)

        def end() -> None:
            s3_faults.end(self._site)
            self._failing = ""
            self._record.fault(began, event.kind, "S3", f"{event.lasts_s:.0f} s {detail}")

        self._after(event.lasts_s, end)

    def _work_beside(self, event: Event) -> None:
        """Let a person begin to work in the clone, one thing at a time."""
        if self._person is None or not self._person.is_alive():
            self._person = threading.Thread(target=self._work, args=(event,), daemon=True)
            self._person.start()

    def _work(self, event: Event) -> None:
        """What a person does. What fails for want of disk is tried no more."""
        began, site = time.time(), self._site
        try:
            detail = self._PERSONS_WORK[event.kind](self)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            self._record.say(f"{event.kind} didn't work: {error}")
            site.project.git("checkout", "-q", "--", ".")
            return
        self._record.fault(began, event.kind, "clone", detail)

    def _commit(self) -> str:
        notes = self._site.project.folder / "NOTES.md"
        notes.write_text(f"{self._random.random()}\n")
        self._site.project.git("add", "NOTES.md")
        self._site.project.git("commit", "-q", "-m", "Take a note")
        return ""

    def _edit(self) -> str:
        """Half-finished edits, for a while."""
        edited = ("params.yaml", "dvc.yaml", "late_stages.py", "flows/this_run.py")
        for name in edited:
            (self._site.project.folder / name).write_text("half-finished(")
        self._after(30, lambda: void(self._site.project.git("checkout", "-q", "--", *edited)))
        return ", ".join(edited)

    def _collect_garbage(self) -> str:
        return self._site.project.git("gc", "-q")

    def _deploy(self) -> str:
        program = self._site.project.folder / "late_stages.py"
        text = re.sub(r"EPOCHS = \d+", f"EPOCHS = {self._random.randint(10, 40)}", program.read_text())
        if not text.startswith('"""'):  # half-finished edits
            return "not now"
        program.write_text(text)
        self._site.project.git("commit", "-q", "--allow-empty", "-m", "Change the training", "late_stages.py")
        self._site.wait_for_server()
        self._site.deploy()
        return ""

    _PERSONS_WORK: dict[str, Callable[[Faults], str]] = {  # noqa: RUF012
        "commit beside": _commit,
        "edits beside": _edit,
        "git gc beside": _collect_garbage,
        "deployment of a new commit": _deploy,
    }


def void(_: object) -> None:
    """Nothing."""


def _short(process: psutil.Process) -> str:
    """A command without interpreter and folders."""
    words = [word.rpartition("/")[2] if word.startswith("/") else word for word in process.cmdline()]
    return " ".join(words)[:80]
