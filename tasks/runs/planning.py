"""The plan of a run: which stages it would run and why, for how many images, how long, and with how much disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.markdown_tables import duration, markdown_table, size
from tasks.runs.costs import Costs, expected_seconds
from tasks.runs.dvc_state.changes import StageChanges
from tasks.workspace import Workspace

Verdict = Literal["runs", "may run", "checks", "-"]
BY_IMAGE = ("ingest", "prepare", "features")
"""Stages that compute new images only; the other stages compute everything again."""


@dataclass(frozen=True)
class SourceNews:
    """The differences between a listing of the source and the packed images.

    Attributes:
        name: of the source.
        total: images at the source.
        new: images that were not there before, or whose version changed.
        gone: images that are no longer there.
        rearranged: labels, splits, groups or the excluded files differ.
        unversioned: known images that have to be read again, because only their bytes tell whether they changed.
    """

    name: str
    total: int
    new: int
    gone: int
    rearranged: bool
    unversioned: int

    @property
    def changed(self) -> bool:
        return bool(self.new or self.gone or self.rearranged)


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        verdict: `runs`; `checks`: checks its source and does nothing else if nothing changed; `may run`: runs if an
            earlier stage changes its output; `-`: is up to date.
        why: the reason, in words.
        new: images to compute; None if unknown, or if the stage doesn't work image by image.
        at_most: `new` is an upper bound.
        seconds: expected time; None without earlier runs.
        disk_mb: expected size of the new files, MB; None without earlier runs.
    """

    stage: str
    verdict: Verdict
    why: str
    new: int | None
    at_most: bool
    seconds: float | None
    disk_mb: float | None


def make_plan(changes: Sequence[StageChanges], source: SourceNews | None, history: Sequence[Costs]) -> list[Step]:
    """Decide for each stage whether it would run.

    Args:
        changes: the result of `tasks.runs.dvc_state.changes.read_changes`.
        source: the differences at the source; None if the listing takes too long.
        history: the result of `tasks.runs.costs.read_experience`.
    """
    steps: list[Step] = []
    for one in changes:
        before = {step.stage: step.verdict for step in steps if step.stage in one.after}
        verdict, why = _judge(one, before, source)
        steps.append(_measured(one, verdict, why, source, history))
    return steps


def _judge(one: StageChanges, before: dict[str, Verdict], source: SourceNews | None) -> tuple[Verdict, str]:
    if one.always and not one.new:
        return _judge_source(one, source)
    if one.reasons:
        return "runs", "; ".join(one.reasons)
    running = [name for name, verdict in before.items() if verdict == "runs"]
    if running:
        return "runs", f"reads the output of {', '.join(running)}"
    if any(verdict != "-" for verdict in before.values()):
        return "may run", "only if its inputs change"
    return "-", "up to date"


def _judge_source(one: StageChanges, source: SourceNews | None) -> tuple[Verdict, str]:
    """The verdict on a stage that DVC runs each time, and that has run before."""
    told = list(one.reasons)
    if source is None:
        told.append("the source wasn't listed for this plan: it would take long")
    else:
        told += [f"{source.new:,} new"] if source.new else []
        told += [f"{source.gone:,} gone"] if source.gone else []
        if source.rearranged and not (source.new or source.gone):
            told.append("labels, splits, groups or excluded files changed")
        if source.unversioned:
            told.append(f"{source.unversioned:,} known images are read again: only their bytes show changes")
    if one.reasons or (source and source.changed):
        return "runs", "; ".join(told)
    return ("checks", told[0]) if told else ("-", "the source is unchanged")


def _measured(
    one: StageChanges, verdict: Verdict, why: str, source: SourceNews | None, history: Sequence[Costs]
) -> Step:
    if verdict == "-":
        return Step(one.stage, verdict, why, 0 if one.stage in BY_IMAGE else None, False, 0.0, 0.0)
    if one.stage not in BY_IMAGE:
        return Step(one.stage, verdict, why, None, False, expected_seconds(history, one.stage, None), one.output_mb)
    if source is None:
        return Step(one.stage, verdict, why, None, False, None, None)
    # A change in its settings or code may concern every image; otherwise it computes only new images at the source.
    own = bool(one.reasons) and one.stage != "ingest"
    new = source.total if own or one.new else source.new
    disk = _disk(one, new, source)
    return Step(one.stage, verdict, why, new, own and not one.new, expected_seconds(history, one.stage, new), disk)


def _disk(one: StageChanges, new: int, source: SourceNews) -> float | None:
    """Expected size in proportion to the known images; zero if there are no new images."""
    known = source.total - source.new
    if not new:
        return 0.0
    return None if one.output_mb is None or known <= 0 else new * one.output_mb / known


def plan_text(steps: Sequence[Step], source: SourceNews | None, workspace: Workspace) -> str:
    """The plan in Markdown that is also easy to read on a terminal."""
    heads = ["stage", "verdict", "new images", "time", "disk", "why"]
    rows = [
        [step.stage, step.verdict, _count(step), *(("-", "-") if step.verdict == "-" else _expected(step)), step.why]
        for step in steps
    ]
    return "\n\n".join(
        [_source_line(source), markdown_table(heads, rows, right=heads[2:5]), _sum_line(steps, workspace)]
    )


def _count(step: Step) -> str:
    if step.stage not in BY_IMAGE:
        return "-"
    return "unknown" if step.new is None else f"{'at most ' if step.at_most else ''}{step.new:,}"


def _expected(step: Step) -> tuple[str, str]:
    return duration(step.seconds), size(step.disk_mb)


def _source_line(source: SourceNews | None) -> str:
    if source is None:
        return "The source was not listed."
    news = f"{source.new:,} new, {source.gone:,} gone" if source.changed else "unchanged"
    return f"Source {source.name}: {source.total:,} images, {news}."


def _sum_line(steps: Sequence[Step], workspace: Workspace) -> str:
    sure = [step for step in steps if step.verdict in ("runs", "checks")]
    perhaps = [step for step in steps if step.verdict != "-"]
    if not perhaps:
        return "Nothing to do."
    told = [f"Expected: {_sums(sure)}"]
    if len(perhaps) > len(sure):
        told.append(f", plus {_sums(perhaps)} if all stages run that may run")
    told.append(". DVC's cache takes the same disk space again unless the file system can share blocks; ")
    told.append(f"{size(shutil.disk_usage(workspace.folder).free / 1e6)} are free.")
    return "".join(told)


def _sums(steps: Sequence[Step]) -> str:
    """The sums in words; a sum is unknown if one part is unknown."""
    times, disks = [step.seconds for step in steps], [step.disk_mb for step in steps]
    time = None if None in times else sum(filter(None, times))
    disk = None if None in disks else sum(filter(None, disks))
    return f"time {duration(time)}, disk {size(disk)}"
