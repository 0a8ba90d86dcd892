"""The program `registry`: lists, compares, promotes, rolls back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks import gate
from tasks.registry import main
from tasks.runs import registry as runs_registry
from tasks.runs.registry import add_entry, read_registry
from tests.conftest import PARAMS
from tests.tasks.runs.promoting import PASSED, make_project, make_version, promoter, refused
from tests.tasks.runs.repository import git


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with two registered versions; the first is in production."""
    clone = make_project(tmp_path_factory.mktemp("registry") / "clone", Path("nowhere"))
    (clone / "params.yaml").write_bytes(PARAMS.read_bytes())
    ours = promoter(clone)
    for number, text in enumerate("ab"):
        ours.register(make_version(clone, text, 0.8 + 0.1 * number), "a test")
    ours.promote("v1.0.0", "the first")
    return clone


@pytest.fixture
def say(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the program in the clone; gives its exit code and what it wrote."""
    monkeypatch.chdir(made)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def test_list_shows_metrics_and_verdicts_and_what_is_in_production(say: Any) -> None:
    _, text, _ = say("list")
    heads, _, newest, first = cells(text)
    assert heads[:2] == ["version", "stage"]
    assert newest[:2] == ["v1.1.0", ""]
    assert first[:2] == ["v1.0.0", "production"]
    assert first[3:6] == ["feature_extraction", "0.8000 (0.750 to 0.850)", "\u2013"]
    assert first[7] == "passed the gate"


def test_diff_shows_two_versions_side_by_side(say: Any) -> None:
    expected = ["test accuracy", "0.8000 (0.750 to 0.850)", "0.9000 (0.850 to 0.950)"]
    for arguments in ((), ("v1.0.0", "v1.1.0")):
        _, text, _ = say("diff", *arguments)
        assert cells(text)[0] == ["", "v1.0.0", "v1.1.0"]
        assert cells(text)[2] == expected
        assert "dvc params diff" in text


def test_json_is_for_programs(say: Any) -> None:
    _, text, _ = say("list", "--json")
    assert [one["tag"] for one in json.loads(text)] == ["champion@v1.0.0", "champion@v1.1.0", "champion#production#1"]
    _, text, _ = say("show", "v1.1.0", "--json")
    assert json.loads(text)[0]["about"]["metrics"]["accuracy"] == 0.9


def test_promote_asks_the_gate_and_roll_back_does_not(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = {"now": refused("It is worse.")}
    monkeypatch.setattr(gate, "judge_versions", lambda *_: verdict["now"])
    code, _, errors = say("promote", "v1.1.0", "--why", "better")
    assert code == 2
    assert "RefusedError: The gate refuses v1.1.0; production stays as it is.\n  accuracy: It is worse." in errors
    verdict["now"] = PASSED
    code, text, _ = say("promote", "v1.1.0", "--why", "better")
    assert (code, text.splitlines()[-1]) == (0, "v1.1.0 is in production (number 2).")
    code, text, _ = say("roll-back", "--why", "it calls ants bees")
    assert (code, text.splitlines()[-1]) == (0, "v1.0.0 is in production again (number 3).")
    _, text, _ = say("show", "v1.1.0")
    assert "number 2: v1.1.0 is in production (before: v1.0.0): better" in text
    assert "The gate, against v1.0.0: passed the gate." in text


@pytest.mark.parametrize("arguments", [("promote", "v1.1.0"), ("promote", "v1.1.0", "--why", " "), ("roll-back",)])
def test_change_without_a_reason_is_refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--why" in capsys.readouterr().err


def test_unknown_version_is_named_with_the_known_ones(say: Any) -> None:
    code, _, errors = say("show", "v9.0.0")
    assert (code, errors) == (2, "RunError: The registry has no version v9.0.0. It has: v1.0.0, v1.1.0\n")


@pytest.mark.parametrize(
    "about",
    [
        {"gate": "yes", "metrics": [1], "digests": 7, "model": "x", "champion": {}},
        {"gate": {"passed": True, "checks": [{"check": 1}]}, "metrics": {"accuracy": "high", "accuracy_ci95": [1]}},
        {"champion": "a\u001b[2Jb", "metrics": {"accuracy": 1.0, "accuracy_ci95": None}},
        {"gate": {"passed": 1, "checks": None}, "metrics": {"accuracy": {}}},
    ],
)
def test_tag_that_somebody_else_has_made_up_is_shown_without_harm(
    say: Any, made: Path, about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = git(made, "tag", "--list").split()
    commit = git(made, "rev-parse", "HEAD")
    monkeypatch.setattr(runs_registry.time, "time", lambda: 1e12)  # in a year that Python doesn't know
    about = {**about, "by": "Eve\u001b]0;x\u0007"}
    try:
        for tag in ("champion@v9.0.0", "champion#declined#9"):
            add_entry(made, None, read_registry(made), tag, commit, "\u001b[31mred \u009b2J", about, str)
        for arguments in (("list",), ("show", "v9.0.0"), ("diff", "v1.0.0", "v9.0.0")):
            code, text, error = say(*arguments)
            assert (code, error) == (0, "")
            assert [char for char in text if not char.isprintable() and char != "\n"] == []
    finally:
        git(made, "tag", "--delete", *({*git(made, "tag", "--list").split()} - {*before}))
