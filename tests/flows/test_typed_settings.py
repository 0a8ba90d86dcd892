"""Settings that a run changes stay in params.yaml: the run says what differs from the commit, and goes back to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.settings_changes import apply_changes
from flows.typed_settings import TypedSettings, committed_params
from tasks.errors import SettingsError
from tasks.params import change_settings, load_settings, parse_changes
from tasks.runs.costs import append_history
from tasks.runs.run_context import RunContext
from tasks.settings import STRATEGIES
from tasks.workspace import PARAMS, Workspace


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def committed(workspace: Path) -> Path:
    """A workspace in a folder of a git repository, with params.yaml committed."""
    git(workspace.parent, "init", "-q")
    git(workspace.parent, "add", "workspace")
    git(workspace.parent, "commit", "-q", "-m", "settings")
    return workspace


def set_before(workspace: Path, *assignments: str) -> None:
    """As an earlier run, or a person, left the settings."""
    change_settings(workspace, parse_changes(assignments))


def run(workspace: Path, *typed: str, reset: bool = False) -> str:
    """What a run says about its settings. Typed: SOURCE=..., STRATEGY=... or SET=..."""
    given = {name: value for name, _, value in (one.partition("=") for one in typed)}
    chosen = TypedSettings(given.get("SOURCE", ""), given.get("STRATEGY", ""), given.get("SET", ""), reset)
    return chosen.apply(RunContext(Workspace.at(workspace)))


def test_run_with_the_committed_settings_says_nothing(committed: Path) -> None:
    assert run(committed) == ""


def test_run_says_first_which_settings_stay_from_before_and_how_to_go_back(committed: Path) -> None:
    set_before(committed, "source.limit_per_class=50", "train.seed=3")
    kept, changed = run(committed, "SOURCE=digits", "STRATEGY=progressive", "SET=train.seed=4").splitlines()
    assert kept == (
        "Settings from before, not as committed: source.limit_per_class=50. "
        "Without them: make run RESET=1 SOURCE=digits STRATEGY=progressive SET=train.seed=4"
    )
    assert changed == (
        "Changed in params.yaml, also for later runs: strategies=[progressive] train.seed=4. "
        "Back to the committed settings: make run RESET=1"
    )


def test_source_that_was_given_before_is_told(committed: Path, source: Path) -> None:
    set_before(committed, f"source.uri={source}")
    assert run(committed).startswith(f"Settings from before, not as committed: source.uri={source}. Without them: make")


def test_command_that_goes_back_can_be_pasted(committed: Path) -> None:
    set_before(committed, "train.seed=3")
    said = run(committed, "SET=strategies=[progressive] train.recipe=tutorial")
    assert "make run RESET=1 'SET=strategies=[progressive] train.recipe=tutorial'\n" in said


def test_settings_that_are_committed_are_not_told(committed: Path) -> None:
    set_before(committed, "train.seed=3")
    git(committed, "commit", "-q", "-a", "-m", "another seed")
    assert run(committed) == ""


def test_reset_restores_the_file_byte_for_byte_and_says_what_is_dropped(committed: Path) -> None:
    before = (committed / PARAMS).read_bytes()
    set_before(committed, "train.tutorial.unfrozen_learning_rate=0.1", "source.limit_per_class=50")
    said = run(committed, reset=True)
    assert (committed / PARAMS).read_bytes() == before
    assert said == (
        "Back to the committed settings, without: source.limit_per_class=50 train.tutorial.unfrozen_learning_rate=0.1"
    )
    assert run(committed, reset=True) == ""


def test_reset_comes_before_the_changes_of_the_same_run(committed: Path) -> None:
    set_before(committed, "train.seed=3", "source.limit_per_class=50")
    said = run(committed, "SET=train.seed=4", reset=True)
    settings = load_settings(committed)
    assert (settings.train.seed, settings.source.limit_per_class) == (4, None)
    assert said.splitlines()[1] == (
        "Changed in params.yaml, also for later runs: train.seed=4. Back to the committed settings: make run RESET=1"
    )


def test_setting_that_is_typed_again_is_not_told_as_lost_by_the_reset(committed: Path, source: Path) -> None:
    set_before(committed, f"source.uri={source}", "source.limit_per_class=50")
    said = run(committed, f"SOURCE={source}", reset=True)
    assert said.startswith("Back to the committed settings, without: source.limit_per_class=50\n")


def test_reset_repairs_a_file_that_is_not_readable(committed: Path) -> None:
    before = (committed / PARAMS).read_bytes()
    (committed / PARAMS).write_text("source: [unclosed")
    run(committed, reset=True)
    assert (committed / PARAMS).read_bytes() == before


def test_reset_with_a_wrong_change_leaves_the_file_as_it_was(committed: Path) -> None:
    set_before(committed, "train.seed=3")
    before = (committed / PARAMS).read_bytes()
    with pytest.raises(SettingsError, match=r"no setting 'train\.sed'"):
        run(committed, "SET=train.sed=4", reset=True)
    assert (committed / PARAMS).read_bytes() == before


@pytest.mark.parametrize("in_git", [True, False])
def test_source_without_a_commit_to_compare_with_is_told(workspace: Path, source: Path, in_git: bool) -> None:
    if in_git:
        git(workspace, "init", "-q")  # params.yaml is new in it
    set_before(workspace, f"source.uri={source}")
    assert run(workspace) == f"The source is that of params.yaml: {source}"
    assert run(workspace, "SOURCE=digits", "SET=train.seed=4") == ""
    assert committed_params(Workspace.at(workspace)) is None


def test_committed_file_that_is_no_settings_is_not_compared(committed: Path) -> None:
    good = (committed / PARAMS).read_bytes()
    (committed / PARAMS).write_text("an: old file")
    git(committed, "commit", "-q", "-a", "-m", "an old file")
    (committed / PARAMS).write_bytes(good)
    assert run(committed, "SET=train.seed=4") == "The source is that of params.yaml: digits"
    with pytest.raises(SettingsError, match=r"params\.yaml of the last commit"):
        run(committed, reset=True)
    assert load_settings(committed).train.seed == 4


def test_reset_without_a_commit_says_why_it_is_not_possible(workspace: Path) -> None:
    with pytest.raises(SettingsError, match=r"RESET=1 needs a committed params\.yaml.*git add params\.yaml"):
        run(workspace, reset=True)


def test_machine_without_git_runs(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(committed) == "The source is that of params.yaml: digits"


def test_flow_of_a_deployed_run_applies_changes_to_what_it_finds(committed: Path) -> None:
    set_before(committed, "train.seed=3")
    settings = apply_changes(RunContext(Workspace.at(committed)), {"train": {"recipe": "tutorial"}})
    assert (settings.train.seed, settings.train.recipe) == (3, "tutorial")


def test_budget_leaves_strategies_out_and_says_so(committed: Path, source: Path) -> None:
    given = (f"SOURCE={source}", "STRATEGY=all")
    said = run(committed, *given, "SET=compare.budget_minutes=0.01").splitlines()
    kept = load_settings(committed)
    assert kept.strategies == ("feature_extraction",)
    assert [name for name, _ in kept.compare.left_out or ()] == ["head_replacement", "fine_tuning", "progressive"]
    assert said[-1].startswith("Left out, because compare.budget_minutes=0.01 has no time for them: head_replacement (")
    assert "left_out" not in "".join(said[:-1])
    assert run(committed).splitlines()[-1] == said[-1]  # the next run decides nothing
    assert run(committed, "SET=compare.budget_minutes=1000").endswith(
        "All wanted strategies fit into compare.budget_minutes=1000."
    )
    assert load_settings(committed).strategies == STRATEGIES
    run(committed, *given, "SET=compare.budget_minutes=0.01")
    run(committed, "SET=compare.budget_minutes=null")
    assert load_settings(committed).strategies == STRATEGIES
    assert load_settings(committed).compare.left_out is None


def test_budget_leaves_folds_out_and_brings_them_back(committed: Path, source: Path) -> None:
    given = (f"SOURCE={source}", "STRATEGY=feature_extraction,head_replacement")
    said = run(committed, *given, "SET=compare.budget_minutes=0.01 compare.folds=4").splitlines()
    assert "4 folds (" in said[-1]
    assert load_settings(committed).compare.folds is None
    run(committed, "SET=compare.budget_minutes=1000")
    assert load_settings(committed).compare.folds == 4
    assert load_settings(committed).compare.left_out == ()


def test_kill_finds_the_old_budget_with_what_it_left_out_or_the_new_one(
    committed: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(committed, f"SOURCE={source}", "STRATEGY=all", "SET=compare.budget_minutes=0.01")
    written = []
    monkeypatch.setattr("tasks.params.write_bytes", lambda path, content: written.append(path))
    run(committed, "SET=compare.budget_minutes=1000")
    assert [path.name for path in written] == [PARAMS]


def test_flow_does_not_decide_again_what_a_run_has_decided(committed: Path, source: Path) -> None:
    typed = TypedSettings(str(source), "all", "compare.budget_minutes=0.01")
    context, listed = RunContext(Workspace.at(committed)), []
    typed.apply(context, listed.append)
    before = (committed / PARAMS).read_bytes()
    assert [one.settings for one in listed] == [load_settings(committed)]  # what the plan is made of
    faster = [{"stage": f"train@{name}", "seconds": 0.1} for name in STRATEGIES]
    append_history(context.workspace, faster)
    apply_changes(context, typed.decided(load_settings(committed)))
    assert (committed / PARAMS).read_bytes() == before
    typed.apply(context)
    assert load_settings(committed).strategies == STRATEGIES
