"""The course of a soak: nights with faults, quiet nights, then the checks."""

from __future__ import annotations

import contextlib
import time
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.flows.project import ENDED
from tests.soak import balance, judging, leftovers, samples, versions
from tests.soak.faults import Faults
from tests.soak.judging import Soak
from tests.soak.plan import events
from tests.soak.project import BRANCH, STORE_BUCKET
from tests.soak.record import Night, Record
from tests.soak.site import Site
from tests.soak.source import JUNK

QUIET_NIGHTS = 2
_QUIET_LIMIT_S = 1200.0
_TICK_S = 0.3


def soak(folder: Path, seed: int, length_s: float, pause_s: float, commit: str) -> Soak:
    """Run a soak in a folder.

    Args:
        folder: an empty one.
        seed: of the plan.
        length_s: how long faults happen.
        pause_s: seconds between two faults, on average.
        commit: what is soaked, for the report.
    """
    record = Record(folder / "record.jsonl")
    plan = events(Random(f"plan {seed}"), length_s, pause_s)
    with Site(folder, Random(f"source {seed}")) as site:
        course = _Course(site, record)
        record.say(f"the site is up; {len(plan)} events are planned")
        faults = Faults(site, record, Random(f"faults {seed}"))
        began = time.monotonic()
        course.wait(lambda: bool(_ended(site.nights())), 600)  # the first night is undisturbed: there is a version
        start = time.monotonic()
        for event in plan:
            course.wait(lambda event=event: time.monotonic() - start >= event.at_s, length_s, faults.step)  # type: ignore[misc]
            faults.begin(event)
        course.wait(lambda: time.monotonic() - start >= length_s, length_s, faults.step)
        faults.stop()
        record.say("no more faults")
        quiet = course.quiet_nights(time.time())
        return course.judge(seed, commit, time.monotonic() - began, quiet)


def _ended(nights: Sequence[Night]) -> list[Night]:
    return [night for night in nights if night.state in ENDED]


class _Course:
    """Takes samples while it waits for something.

    Attributes:
        tips: every commit that was seen at the tip of the branch.
    """

    def __init__(self, site: Site, record: Record) -> None:
        self.site, self.record = site, record
        self.tips: list[str] = []
        self._sampled = float("-inf")

    def wait(self, until: Callable[[], bool], limit_s: float, step: Callable[[], None] = lambda: None) -> bool:
        """Wait for a condition. Returns whether it came within the limit."""
        give_up = time.monotonic() + limit_s
        while time.monotonic() < give_up:
            step()
            self._watch()
            with contextlib.suppress(OSError, urllib.error.URLError):  # the server may be down
                if until():
                    return True
            time.sleep(_TICK_S)
        return False

    def _watch(self) -> None:
        reference = self.site.project.folder / f".git/refs/heads/{BRANCH}"
        with contextlib.suppress(FileNotFoundError):
            tip = reference.read_text().strip()
            if tip and tip not in self.tips:
                self.tips.append(tip)
        if time.monotonic() >= self._sampled + samples.EVERY_S:
            self._sampled = time.monotonic()
            if self.site.proxy is not None:
                self.site.proxy.seen.clear()
            self.record.sample(samples.take(self.site))

    def quiet_nights(self, since: float) -> list[Night]:
        """Wait until enough nights have ended that began after the last fault, and no run is active."""
        found: list[Night] = []

        def enough() -> bool:
            time.sleep(2)
            found[:] = [one for one in self.site.nights() if (one.began or 0) > since and one.state in ENDED]
            return len(found) >= QUIET_NIGHTS

        self.wait(enough, _QUIET_LIMIT_S)
        self.site.wait_for_server()
        self.site.schedule(active=False)

        def idle() -> bool:
            time.sleep(10)  # a worker may be about to take the next night
            return all(one.state in ENDED for one in self.site.nights())

        if not self.wait(idle, _QUIET_LIMIT_S):
            self.record.say("a run is still active")
        time.sleep(5)
        return found

    def judge(self, seed: int, commit: str, length_s: float, quiet: Sequence[Night]) -> Soak:
        site, record, clone = self.site, self.record, self.site.project.folder
        nights = site.nights(logs=True)
        _keep_logs(nights, site.folder / "logs/nights")
        store = versions.Store(clone / ".dvc/cache/files/md5", self._on_remote)
        history = site.project.git("log", "--first-parent", "--format=%H", f"main..{BRANCH}").split()
        locks = {one: site.project.git("show", f"{one}:dvc.lock") for one in history}
        gone = [fault.detail.split()[-2] for fault in record.faults if fault.detail.endswith("emptied")]
        services = [one.process_id for one in site.services.values() if one.process_id is not None]
        last = locks[history[0]] if history else "stages: {}"
        splits = [(one[:10], versions.splits(store, locks[one])) for one in reversed(history)]
        problems = {
            "no night is lost": judging.lost(nights, record.faults),
            "each night has an end, and a reason if it failed": judging.unaccounted(nights),
            "after the last fault nights complete": judging.not_quiet(quiet, QUIET_NIGHTS),
            "every version is complete": [
                f"{one[:10]}: {lack}" for one in history for lack in versions.missing(store, locks[one])
            ],
            "no object is damaged": sorted(store.damaged),
            "no version is forgotten": versions.forgotten(self.tips, history, gone),
            "no image changes its split": versions.moved(splits),
            "counts balance, labels are right": balance.unbalanced(
                balance.tables(store, last), site.source.labels, len(JUNK)
            ),
            "DVC finds nothing to do": self._dvc_status(),
            "git finds nothing broken": versions.fsck(clone),
            "no process is left over": leftovers.processes(site.disk.folder, services),
            "no worktree, lock or unfinished file is left over": [
                *leftovers.files(clone, site.disk.folder / "tmp"),
                *leftovers.notes_of_dvc(site.project.notes_of_dvc),
            ],
            "memory and disk are flat": samples.grown(record.samples),
            "alerts tell the truth": judging.false_alarms(site.chat.texts(), nights, self._confusing()),
            "the remotes have all": self._not_shared(history),
        }
        figures = {
            "versions on the branch": str(len(history)),
            "images at the source": str(len(site.source.labels)),
            "alerts received": str(len(site.chat.bodies)),
            "nights that ended badly without an alert": str(len(judging.silent(site.chat.texts(), nights))),
            "starts of the server, of the worker": ", ".join(str(len(one.started)) for one in site.services.values()),
        }
        return Soak(seed, commit, length_s, nights, quiet, record.faults, record.samples, problems, figures)

    def _confusing(self) -> list[float]:
        """When runs were made, or the server was started again."""
        found = [one.ended for one in self.record.faults if "deployment" in one.kind]
        return [self.site.deployed, *self.site.services["server"].started, *found]

    def _on_remote(self, digest: str) -> bytes | None:
        client = self.site.client
        try:
            answer = client.get_object(Bucket=STORE_BUCKET, Key=f"dvc/files/md5/{digest[:2]}/{digest[2:]}")
        except client.exceptions.NoSuchKey:
            return None
        data: bytes = answer["Body"].read()
        return data

    def _dvc_status(self) -> list[str]:
        """What `dvc status` says of the last version, checked out beside."""
        project, folder = self.site.project, self.site.disk.folder / "taken"
        project.git("worktree", "add", "-q", "--detach", str(folder), BRANCH)
        try:
            (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {project.folder / '.dvc/cache'}\n")
            here = ["--cd", str(folder)]
            try:
                project.run("-m", "dvc", *here, "pull", "-q", "--allow-missing")
                said = project.run("-m", "dvc", *here, "status")
            except RuntimeError as error:
                return [str(error)]
            allowed = ("ingest:", "always changed", "Data and pipelines are up to date.", "")
            return [line for line in map(str.strip, said.splitlines()) if line not in allowed]
        finally:
            project.git("worktree", "remove", "--force", str(folder))

    def _not_shared(self, history: Sequence[str]) -> list[str]:
        """Whether git's remote has the branch's tip."""
        line = self.site.project.git("ls-remote", "origin", f"refs/heads/{BRANCH}")
        there = line.split()[0] if line else "nothing"
        return [] if history and there == history[0] else [f"origin has {there} in place of the branch's tip"]


def _keep_logs(nights: Sequence[Night], folder: Path) -> None:
    folder.mkdir(parents=True)
    for night in nights:
        text = f"{night.name} {night.state}: {night.reason}\n\n{night.log}\n"
        (folder / f"{night.due:.0f}-{night.name}.txt").write_text(text)
