"""The plan says what runs and why, and `unknown` if it can't know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.runs.dvc_state.changes import StageChanges
from tasks.runs.planning import SourceNews, Step, make_plan, plan_text
from tasks.workspace import Workspace

CHAIN = ("ingest", "prepare", "features", "train@x", "evaluate")
SAME = SourceNews("here", total=100, new=0, gone=0, rearranged=False, unversioned=0)


def graph(**reasons: tuple[str, ...]) -> list[StageChanges]:
    """A chain of stages that have all run before."""
    return [
        StageChanges(
            stage=name,
            after=CHAIN[number - 1 : number] if number else (),
            always=name == "ingest",
            new=False,
            reasons=reasons.get(name.partition("@")[0], ()),
            output_mb=50.0,
            is_whole=True,
        )
        for number, name in enumerate(CHAIN)
    ]


def verdicts(steps: list[Step]) -> list[str]:
    return [step.verdict for step in steps]


def history(**more: Any) -> list[dict[str, Any]]:
    counts = {"ingest": "packed", "prepare": "decoded", "features": "extracted"}
    return [{"stage": stage, "seconds": 10.0, **({counts[stage]: 100} if stage in counts else {})} for stage in CHAIN]


def test_nothing_runs_when_nothing_changed() -> None:
    steps = make_plan(graph(), SAME, [])
    assert verdicts(steps) == ["-"] * 5
    assert [step.seconds for step in steps] == [0.0] * 5
    assert plan_text(steps, SAME, Workspace.at(Path("/"))).endswith("Nothing to do.")


def test_new_images_run_everything_for_the_new_ones_only() -> None:
    source = SourceNews("here", total=110, new=10, gone=0, rearranged=True, unversioned=0)
    steps = make_plan(graph(), source, history())
    assert verdicts(steps) == ["runs"] * 5
    assert steps[0].why == "10 new"
    assert [(step.new, step.at_most) for step in steps[:3]] == [(10, False)] * 3
    assert [step.seconds for step in steps] == pytest.approx([1.0, 1.0, 1.0, 10.0, 10.0])
    assert [step.disk_mb for step in steps] == pytest.approx([5.0, 5.0, 5.0, 50.0, 50.0])


def test_images_that_are_gone_run_everything_but_compute_no_image() -> None:
    steps = make_plan(graph(), SourceNews("here", 90, 0, 10, True, 0), history())
    assert verdicts(steps) == ["runs"] * 5
    assert [step.new for step in steps[:3]] == [0, 0, 0]


def test_changed_setting_runs_its_stage_and_what_follows() -> None:
    steps = make_plan(graph(train=("changed: train.seed",)), SAME, history())
    assert verdicts(steps) == ["-", "-", "-", "runs", "runs"]
    assert steps[3].why == "changed: train.seed"
    assert steps[4].why == "reads the output of train@x"


def test_changed_code_may_concern_every_image() -> None:
    steps = make_plan(graph(prepare=("changed: tasks/images",)), SAME, history())
    assert (steps[1].new, steps[1].at_most) == (100, True)
    assert (steps[2].verdict, steps[2].new) == ("runs", 0)


def test_plan_for_a_source_without_versions_is_uncertain() -> None:
    steps = make_plan(graph(), SourceNews("here", 100, 0, 0, False, unversioned=100), history())
    assert verdicts(steps) == ["checks", "may run", "may run", "may run", "may run"]
    text = plan_text(steps, SourceNews("here", 100, 0, 0, False, 100), Workspace.at(Path("/"))).replace("\u00a0", " ")
    assert "if all stages run that may run" in text


def test_other_labels_of_the_same_images_run_everything_but_compute_no_image() -> None:
    steps = make_plan(graph(), SourceNews("here", 100, 0, 0, True, 0), history())
    assert verdicts(steps) == ["runs"] * 5
    assert steps[0].why == "labels, splits, groups or excluded files changed"
    assert [step.new for step in steps[:3]] == [0, 0, 0]


def test_source_that_was_not_listed_leaves_the_images_unknown() -> None:
    steps = make_plan(graph(), None, history())
    assert verdicts(steps) == ["checks", "may run", "may run", "may run", "may run"]
    assert [step.new for step in steps[:3]] == [None] * 3
    assert [step.seconds for step in steps[:3]] == [None] * 3
    assert "time unknown, disk unknown" in plan_text(steps, None, Workspace.at(Path("/")))


def test_first_run_without_history_knows_the_images_but_no_time() -> None:
    never = [
        StageChanges(one.stage, one.after, one.always, True, ("it has never run",), None, False) for one in graph()
    ]
    steps = make_plan(never, SourceNews("here", 100, 100, 0, True, 0), [])
    assert verdicts(steps) == ["runs"] * 5
    assert [step.new for step in steps[:3]] == [100] * 3
    assert [(step.seconds, step.disk_mb) for step in steps] == [(None, None)] * 5
