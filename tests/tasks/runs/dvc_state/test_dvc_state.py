"""DVC's view of a run's folder: what would run and what it needs; entries from other machines are merged or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tasks.errors import RunError
from tasks.runs.dvc_state.changes import is_up_to_date
from tasks.runs.dvc_state.lock_entries import begin_attempt, merge_lock_entry, read_lock_entry
from tasks.runs.dvc_state.outputs import list_inputs, list_outputs, read_needs
from tasks.workspace import Workspace
from tests.tasks.runs.repository import dvc, make_parts, make_repository

ALL = ("count", "double", "fit@a", "fit@b", "join")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which everything has run."""
    root = make_repository(tmp_path_factory.mktemp("ledger") / "finished")
    dvc(root, "repro")
    return root


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The same with its cache, and no output in place: as a run finds its folder."""
    shutil.copytree(finished, tmp_path / "folder", ignore=shutil.ignore_patterns("out", "tmp"))
    return tmp_path / "folder"


def factor(folder: Path, value: float) -> None:
    (folder / "params.yaml").write_text(f"factor: {value}\n")


def remove_cache(folder: Path) -> None:
    shutil.rmtree(folder / ".dvc/cache")


def test_stage_is_up_to_date_although_its_outputs_are_missing(folder: Path) -> None:
    assert is_up_to_date(Workspace.at(folder))
    assert not any(read_needs(Workspace.at(folder), stage).has_to_run for stage in ALL[1:])


def test_stage_whose_source_lies_outside_would_run_always(folder: Path) -> None:
    assert read_needs(Workspace.at(folder), "count").has_to_run


def test_changed_setting_makes_its_stage_run_with_its_inputs_and_its_last_output(folder: Path) -> None:
    factor(folder, 2)
    assert not is_up_to_date(Workspace.at(folder))
    ahead = read_needs(Workspace.at(folder), "double")
    assert (ahead.has_to_run, sorted(ahead.cached), ahead.remote) == (True, ["out/count", "out/double"], [])
    assert not read_needs(Workspace.at(folder), "fit@a").has_to_run


def test_lost_output_makes_its_stage_run_where_no_remote_can_have_it(folder: Path) -> None:
    remove_cache(folder)
    assert not is_up_to_date(Workspace.at(folder))
    assert read_needs(Workspace.at(folder), "double").has_to_run


def test_lost_output_is_asked_of_the_remote(folder: Path, tmp_path: Path) -> None:
    dvc(folder, "remote", "add", "-d", "store", str(tmp_path / "store"))
    remove_cache(folder)
    assert is_up_to_date(Workspace.at(folder))
    factor(folder, 2)
    assert sorted(read_needs(Workspace.at(folder), "double").remote) == ["out/count", "out/double"]


def test_input_that_differs_from_the_lock_is_brought(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/count").write_text("of another run")
    factor(folder, 2)
    assert "out/count" in read_needs(Workspace.at(folder), "double").cached


def test_stage_that_gathers_is_undecided_until_all_parts_are_there(folder: Path) -> None:
    ahead = read_needs(Workspace.at(folder), "join")
    assert ahead.undecided
    assert sorted(ahead.cached) == ["out/parts/a", "out/parts/b"]
    dvc(folder, "checkout", *ahead.cached)
    assert not read_needs(Workspace.at(folder), "join").undecided
    assert not read_needs(Workspace.at(folder), "join").has_to_run


def test_inputs_and_outputs_are_named(folder: Path) -> None:
    assert list_inputs(Workspace.at(folder), "double") == ["out/count", "out/double"]
    assert list_inputs(Workspace.at(folder), "join") == ["out/parts/a", "out/parts/b"]
    assert list_outputs(Workspace.at(folder), "fit@a") == ["out/parts/a"]


def test_stage_that_never_ran_has_no_entry(folder: Path) -> None:
    (folder / "dvc.lock").unlink()
    with pytest.raises(RunError, match="has no entry for count"):
        read_lock_entry(Workspace.at(folder), "count")


@pytest.fixture
def elsewhere(folder: Path, tmp_path: Path) -> Path:
    """Another folder with the same state, in which `double` has run with another factor."""
    dvc(folder, "remote", "add", "-d", "store", str(tmp_path / "store"))
    shutil.copytree(folder, tmp_path / "elsewhere")
    for place in (folder, tmp_path / "elsewhere"):
        factor(place, 0.00001)
    dvc(tmp_path / "elsewhere", "checkout", "out/count")
    dvc(tmp_path / "elsewhere", "repro", "-s", "double")
    return tmp_path / "elsewhere"


def test_merged_entry_gives_the_lock_of_a_single_machine(folder: Path, elsewhere: Path) -> None:
    begin_attempt(Workspace.at(folder), "double", "1")
    merge_lock_entry(Workspace.at(folder), "double", read_lock_entry(Workspace.at(elsewhere), "double"), "1")
    assert (folder / "dvc.lock").read_bytes() == (elsewhere / "dvc.lock").read_bytes()
    assert not read_needs(Workspace.at(folder), "double").has_to_run
    assert read_needs(Workspace.at(folder), "fit@a").has_to_run


def test_first_entry_of_a_stage_is_written_as_dvc_writes_it(folder: Path, elsewhere: Path) -> None:
    whole = yaml.safe_load((folder / "dvc.lock").read_text())
    for place in (folder, elsewhere):
        (place / "dvc.lock").write_text(
            yaml.safe_dump({"schema": "2.0", "stages": {"count": whole["stages"]["count"]}}, sort_keys=False)
        )
    shutil.rmtree(elsewhere / ".dvc/cache/runs")
    dvc(elsewhere, "repro", "-s", "double")
    begin_attempt(Workspace.at(folder), "double", "1")
    merge_lock_entry(Workspace.at(folder), "double", read_lock_entry(Workspace.at(elsewhere), "double"), "1")
    assert (folder / "dvc.lock").read_bytes() == (elsewhere / "dvc.lock").read_bytes()


def test_late_result_is_refused(folder: Path, elsewhere: Path) -> None:
    before = (folder / "dvc.lock").read_bytes()
    begin_attempt(Workspace.at(folder), "double", "1")
    begin_attempt(Workspace.at(folder), "double", "2")
    with pytest.raises(RunError, match=r"late result .* attempt 1, which was given up; the current attempt is 2"):
        merge_lock_entry(Workspace.at(folder), "double", read_lock_entry(Workspace.at(elsewhere), "double"), "1")
    assert (folder / "dvc.lock").read_bytes() == before


def test_result_of_other_settings_is_refused(folder: Path, elsewhere: Path) -> None:
    factor(folder, 3)
    before = (folder / "dvc.lock").read_bytes()
    begin_attempt(Workspace.at(folder), "double", "1")
    with pytest.raises(RunError, match="doesn't fit"):
        merge_lock_entry(Workspace.at(folder), "double", read_lock_entry(Workspace.at(elsewhere), "double"), "1")
    assert (folder / "dvc.lock").read_bytes() == before


def test_old_output_in_the_folder_does_not_contradict_the_merged_entry(folder: Path, elsewhere: Path) -> None:
    dvc(folder, "checkout", "out/double")
    begin_attempt(Workspace.at(folder), "double", "1")
    merge_lock_entry(Workspace.at(folder), "double", read_lock_entry(Workspace.at(elsewhere), "double"), "1")
    assert not (folder / "out/double").exists()


def test_stage_that_gathers_is_checked_again_after_a_part_was_made_elsewhere(folder: Path) -> None:
    begin_attempt(Workspace.at(folder), "fit@a", "1")
    merge_lock_entry(Workspace.at(folder), "fit@a", read_lock_entry(Workspace.at(folder), "fit@a"), "1")
    assert not is_up_to_date(Workspace.at(folder))


@pytest.fixture(scope="module")
def parts_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose stages read parts of one output; everything has run, and is on a remote too."""
    root = make_parts(tmp_path_factory.mktemp("parts") / "finished")
    dvc(root, "remote", "add", "-d", "store", str(root.parent / "store"))
    dvc(root, "push")
    return root


@pytest.fixture
def parts(parts_finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(parts_finished, tmp_path / "folder", ignore=shutil.ignore_patterns("out", "tmp"))
    return tmp_path / "folder"


def make_elsewhere(folder: Path, params: str) -> None:
    """Merge what another machine, with a cache of its own, makes of other settings."""
    (folder / "params.yaml").write_text(params)
    other = folder.parent / "elsewhere"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("cache", "out"))
    dvc(other, "pull", "out/both")
    dvc(other, "repro", "-s", "both")
    dvc(other, "push", "out/both")
    begin_attempt(Workspace.at(folder), "both", "1")
    merge_lock_entry(Workspace.at(folder), "both", read_lock_entry(Workspace.at(other), "both"), "1")


def test_part_made_anew_elsewhere_makes_its_reader_run_and_no_other(parts: Path) -> None:
    make_elsewhere(parts, "a: 1\nb: 2\n")
    assert not (parts / "out/both").exists()
    assert not read_needs(Workspace.at(parts), "use@a").has_to_run
    assert read_needs(Workspace.at(parts), "use@b").has_to_run


def test_only_the_part_that_is_read_is_brought(parts: Path) -> None:
    make_elsewhere(parts, "a: 1\nb: 2\n")
    ahead = read_needs(Workspace.at(parts), "use@b")
    assert ([*ahead.cached, *ahead.remote], ahead.partial) == (["out/both/b"], ["out/both"])
    dvc(parts, "pull", *ahead.remote)
    assert [path.name for path in (parts / "out/both").iterdir()] == ["b"]
    assert not read_needs(Workspace.at(parts), "use@b").remote
    assert read_needs(Workspace.at(parts), "use@b").has_to_run


def test_part_that_differs_from_the_lock_is_brought_and_its_neighbours_stay(parts: Path) -> None:
    (parts / "out/both/a").mkdir(parents=True)
    (parts / "out/both/a/file").write_text("of another run")
    dvc(parts, "checkout", "out/both/b")
    ahead = read_needs(Workspace.at(parts), "use@a")
    assert ahead.cached == ["out/both/a"]
    dvc(parts, "checkout", "--force", *ahead.cached)
    assert [(parts / f"out/both/{name}/file").read_text() for name in "ab"] == ["a: 1", "b: 1"]
    assert not read_needs(Workspace.at(parts), "use@a").cached
