"""What the end of a deployed run decides about its model: production, a question, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import promotion
from tasks import gate
from tasks.params import load_settings
from tasks.runs.registry import read_registry
from tasks.runs.run_context import DeployedRun, RunContext
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.conftest import PARAMS
from tests.tasks.runs.promoting import PASSED, make_project, make_version, refused
from tests.tasks.runs.repository import git


class Night:
    """Nights of a clone, as far as the registry is concerned.

    Attributes:
        passes: whether the gate lets models through.
        shown: the artifacts.
        asked: the versions about which a person was asked.
    """

    def __init__(self, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clone, self.shown, self.asked = clone, list[str](), list[str]()
        self.passes = True
        monkeypatch.chdir(clone)
        monkeypatch.setattr(gate, "judge_versions", lambda *_: PASSED if self.passes else refused())
        monkeypatch.setattr(promotion, "show_gate", self.shown.append)
        monkeypatch.setattr(promotion, "_ask", self._ask)

    def end(self, commit: str, changes: dict[str, Any] | None = None, **gate: Any) -> str | None:
        """End a night whose branch is at a commit; gives what is in production then."""
        git(self.clone, "update-ref", "refs/heads/runs/nightly", commit)
        settings: Settings = load_settings(PARAMS.parent)
        policy = settings.gate.model_copy(update=gate)
        run = DeployedRun(self.clone, "nightly", commit, "amber-fox", str)
        context = RunContext(Workspace.at(self.clone), run)
        promotion.register_result(context, settings.model_copy(update={"gate": policy}), changes or {})
        now = read_registry(self.clone).production
        return now.version if now else None

    def _ask(self, version: Any) -> str:
        self.asked.append(version.version)
        return "It waits."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    clone = make_project(tmp_path_factory.mktemp("nights") / "clone", Path("nowhere"))
    return clone, [make_version(clone, text) for text in "abc"]


@pytest.fixture
def night(made: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    shutil.copytree(made[0], tmp_path / "clone", symlinks=True)
    return Night(tmp_path / "clone", monkeypatch)


@pytest.fixture
def commits(made: tuple[Path, list[str]]) -> list[str]:
    return made[1]


def test_model_that_passes_goes_into_production_and_the_same_one_again_is_nothing_new(
    night: Night, commits: list[str]
) -> None:
    assert night.end(commits[0]) == "v1.0.0"
    assert night.end(commits[0]) == "v1.0.0"
    assert night.end(commits[1]) == "v1.1.0"
    assert len(read_registry(night.clone).entries) == 4
    assert [text.splitlines()[-1] for text in night.shown] == ["It is in production."] * 2


def test_refused_model_is_registered_and_told_of_once(night: Night, commits: list[str]) -> None:
    night.end(commits[0])
    night.passes = False
    assert night.end(commits[1]) == night.end(commits[1]) == "v1.0.0"
    assert len(read_registry(night.clone).versions) == 2
    assert night.shown[1].endswith("Production stays as it is: the gate refuses this version.")
    assert len(night.shown) == 2


def test_model_of_changed_settings_is_a_trial_that_only_people_promote(night: Night, commits: list[str]) -> None:
    assert night.end(commits[0], {"train": {"seed": 1}}) is None
    assert night.end(commits[1], {"gate": {"margin": 0.1}}) == "v1.1.0"
    assert night.end(commits[2], promote=False) == "v1.1.0"
    assert len(read_registry(night.clone).versions) == 3


def test_night_that_was_killed_before_the_promotion_is_made_up_for_by_the_next_one(
    night: Night, commits: list[str]
) -> None:
    night.end(commits[0], promote=False)
    assert night.end(commits[0]) == "v1.0.0"


def test_version_that_was_taken_back_does_not_return_the_next_night(night: Night, commits: list[str]) -> None:
    night.end(commits[0])
    night.end(commits[1])
    promotion.promoter(night.clone, commits[1], "Ada", load_settings(PARAMS.parent), str).roll_back("bad")
    assert night.end(commits[1]) == "v1.0.0"


def test_person_is_asked_until_somebody_has_answered(night: Night, commits: list[str]) -> None:
    assert night.end(commits[0], approval="ask") is None
    night.end(commits[0], approval="ask")
    assert night.asked == ["v1.0.0"] * 2  # the same run of Prefect: its key is the version
    promotion.promoter(night.clone, commits[0], "Ada", load_settings(PARAMS.parent), str).decline("v1.0.0", "no")
    night.end(commits[0], approval="ask")
    assert len(night.asked) == 2


def test_project_that_names_no_model_registers_nothing(night: Night, commits: list[str]) -> None:
    (night.clone / "dvc.yaml").write_text("stages: {}\n")
    assert night.end(commits[0]) is None
    assert read_registry(night.clone).entries == ()
