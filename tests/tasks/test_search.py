"""The search for a head: its result is at least as good, it never reads test, and it writes only if asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks import features, search, train
from tasks.errors import SettingsError
from tasks.files import read_json
from tasks.images.manifest import read_examples, write_examples
from tasks.params import load_settings
from tasks.runs import claims
from tasks.runs.claims import claim_person_folder
from tasks.settings import Settings
from tasks.workspace import SEARCH_PAGE, Workspace
from tests.conftest import contents, fill_source
from tests.tasks.steps import run_prepare, settings_for, use_tiny_extractor

Change = Callable[..., Settings]


@pytest.fixture
def settings(workspace: Path, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> Settings:
    use_tiny_extractor(monkeypatch)
    source = fill_source(tmp_path / "images", 30)
    for number in range(0, 30, 4):  # labels that are wrong, so that there is something to choose
        one = sorted((source / "ant").iterdir())[number % 7]
        shutil.move(one, source / "bee" / f"wrong{number}{one.suffix}")
    wanted = settings_for(change, source, "train.modern.inverse_regularization=[1e-4]")
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    return wanted


def test_search_finds_a_better_head_and_changes_nothing(workspace: Path, settings: Settings) -> None:
    before = contents(workspace)
    now, ranked = search.run(settings, Workspace.at(workspace), minutes=5, trials=12)
    assert [found.log_loss for found in ranked] == sorted(found.log_loss for found in ranked)
    assert ranked[0].log_loss < now.log_loss
    assert now in ranked
    assert {found.candidate.pooling for found in ranked} == {"average_maximum", "bilinear"}
    after = contents(workspace)
    page = after.pop(SEARCH_PAGE).decode()
    assert after == before
    assert page.count("<polyline") + page.count("<path") >= 2
    again, same = search.run(settings, Workspace.at(workspace), minutes=5, trials=12)
    assert (again, same) == (now, ranked)


def test_search_stops_when_time_is_up(workspace: Path, settings: Settings) -> None:
    _, ranked = search.run(settings, Workspace.at(workspace), minutes=0, trials=10_000)
    assert 0 < len(ranked) <= 3  # what params.yaml names, and the one that was under way


@pytest.mark.parametrize("bilinear_up_to", [1000, 0])
def test_what_is_written_is_what_training_then_takes(
    workspace: Path,
    settings: Settings,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bilinear_up_to: int,
) -> None:
    settings = change(f"train.modern.bilinear_up_to={bilinear_up_to}")
    monkeypatch.chdir(workspace)
    assert search.main(["--trials", "12", "--write"]) == 0
    printed = capsys.readouterr().out
    _, ranked = search.run(settings, Workspace.at(workspace), minutes=5, trials=12)
    best = ranked[0].candidate
    assert all(assignment in printed for assignment in best.assignments(settings))
    written = load_settings(workspace)
    train.run(written, Workspace.at(workspace))
    summary = read_json(workspace / "models/trained/feature_extraction/model.json")["summary"]
    assert summary["chosen"]["inverse_regularization"] == pytest.approx(best.inverse_regularization, rel=1e-2)
    assert summary["log_loss_by_pooling"].keys() == {"average_maximum", best.pooling}
    assert ("train also tries average_maximum" in printed) == (best.pooling == "bilinear")


def test_nothing_is_written_while_a_run_works_in_the_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = search.Found(search.Candidate("average_maximum", 1.0), 0.5, 0.9)
    monkeypatch.setattr(search, "run", lambda *_: (found, [found]))
    monkeypatch.chdir(workspace)
    before = (workspace / "params.yaml").read_bytes()
    with ExitStack() as other:
        other.enter_context(claim_person_folder(Workspace.at(workspace), "make run"))

        def end(told: str) -> None:
            assert told.startswith("make run, since ")
            assert (workspace / "params.yaml").read_bytes() == before
            other.close()

        monkeypatch.setattr(claims, "tell", end)
        assert search.main(["--write"]) == 0
    assert (workspace / "params.yaml").read_bytes() != before


def test_candidates_are_measured_as_training_weighs_the_classes(
    workspace: Path, settings: Settings, change: Change
) -> None:
    """One log loss for all: the one that training chooses by."""
    prepared = Workspace.at(workspace).prepared
    examples = read_examples(prepared)
    rare = [one for one in examples if one.label == "bee"][::2]
    write_examples(prepared, [one for one in examples if one not in rare])
    changed = change("train.modern.inverse_regularization=[0.3, 3.0]", "train.class_weight=balanced")
    now, ranked = search.run(changed, Workspace.at(workspace), minutes=5, trials=1)
    assert not any("class_weight" in assignment for assignment in ranked[0].candidate.assignments(changed))
    train.run(changed, Workspace.at(workspace))
    summary = read_json(workspace / "models/trained/feature_extraction/model.json")["summary"]
    assert summary["chosen"]["inverse_regularization"] == now.candidate.inverse_regularization
    assert summary["log_loss_by_pooling"][now.candidate.pooling] == pytest.approx(now.log_loss, abs=1e-3)


def test_too_few_images_are_reported(
    workspace: Path, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_extractor(monkeypatch)
    wanted = settings_for(change, fill_source(tmp_path / "few", 4))
    run_prepare(wanted, workspace)
    features.run(wanted, Workspace.at(workspace))
    with pytest.raises(SettingsError, match="too few images for 5 folds"):
        search.run(wanted, Workspace.at(workspace), minutes=1, trials=1)
