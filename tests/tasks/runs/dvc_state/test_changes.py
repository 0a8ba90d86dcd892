"""Why DVC would run a stage, in a real DVC repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runs.dvc_state.changes import StageChanges, has_to_run, read_changes, would_skip
from tasks.runs.dvc_state.outputs import fetch_output
from tasks.runs.dvc_state.repository import open_repository
from tasks.workspace import Workspace
from tests.tasks.runs.repository import init_dvc

DVC_YAML = """
stages:
  second:
    cmd: cp out/first out/second
    deps: [out/first]
    params: [second]
    outs: [out/second]
  first:
    cmd: cp code out/first
    deps: [code]
    params: [first.size]
    outs: [out/first]
  listing:
    cmd: echo x > out/listing
    always_changed: true
    outs: [out/listing]
"""
MD5_OF_ONE = "f97c5d29941bfb1b2fdab0874906ab82"


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=folder, check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose stages have run."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "out").mkdir()
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("first: {size: 1}\nsecond: {rate: 0.1, epochs: {n: 5}}\n")
    (folder / "code").write_text("one")
    init_dvc(folder, in_git=False)
    assert [(one.new, one.reasons) for one in read_changes(Workspace.at(folder))] == [(True, ("it has never run",))] * 3
    dvc(folder, "repro")
    return folder


def changes(folder: Path) -> dict[str, StageChanges]:
    return {one.stage: one for one in read_changes(Workspace.at(folder))}


def test_stages_come_after_those_that_they_read(made: Path) -> None:
    found = read_changes(Workspace.at(made))
    names = [one.stage for one in found]
    assert names.index("first") < names.index("second")
    assert {one.stage: one.after for one in found}["second"] == ("first",)


def test_stages_that_have_run_have_no_reason_to_run(made: Path) -> None:
    found = changes(made)
    assert [one.reasons for one in found.values()] == [(), (), ()]
    assert [one.new for one in found.values()] == [False] * 3
    assert {name: one.always for name, one in found.items()} == {"first": False, "second": False, "listing": True}
    assert found["first"].output_mb == pytest.approx(3e-6)


def test_changes_are_named(made: Path) -> None:
    before = {name: (made / name).read_text() for name in ("code", "params.yaml", "dvc.yaml")}
    try:
        (made / "code").write_text("two")
        (made / "params.yaml").write_text("first: {size: 2}\nsecond: {rate: 0.1, epochs: {n: 6}, more: 1}\n")
        (made / "dvc.yaml").write_text(DVC_YAML.replace("cp out/first", "cat out/first >"))
        found = changes(made)
    finally:
        for name, text in before.items():
            (made / name).write_text(text)
    assert found["first"].reasons == ("changed: code, first.size",)
    assert found["second"].reasons == ("its command changed", "changed: second.epochs.n, second.more")


def test_outputs_that_the_cache_holds_may_be_missing_but_not_different(made: Path) -> None:
    first = made / "out/first"
    text = first.read_text()
    first.unlink()
    missing = changes(made)
    first.write_text("something else")
    different = changes(made)
    first.write_text(text)
    assert (missing["first"].reasons, missing["second"].reasons) == ((), ())
    assert different["first"].reasons == ("changed: out/first",)


def test_output_that_is_missing_is_fetched_from_the_cache(made: Path, tmp_path: Path) -> None:
    (made / "out/first").rename(made / "away")
    fetched = fetch_output(Workspace.at(made), "out/first", tmp_path)
    (made / "away").rename(made / "out/first")
    assert fetched
    assert (tmp_path / "first").read_text() == "one"


def test_output_that_nobody_has_can_not_be_fetched(made: Path, tmp_path: Path) -> None:
    assert not fetch_output(Workspace.at(made), "out/nothing", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_code_is_named(made: Path) -> None:
    (made / "code").rename(made / "away")
    found = changes(made)
    (made / "away").rename(made / "code")
    assert found["first"].reasons == ("missing: code",)


CHANGES = {
    "nothing": lambda folder: None,
    "code": lambda folder: (folder / "code").write_text("two"),
    "command": lambda folder: edit(folder / "dvc.yaml", "cp code", "cat code >"),
    "a setting": lambda folder: edit(folder / "params.yaml", "n: 5", "n: 6"),
    "a setting that nobody reads": lambda folder: edit(folder / "params.yaml", "size: 1", "size: 1, other: 2"),
    "a new dependency": lambda folder: edit(folder / "dvc.yaml", "deps: [code]", "deps: [code, params.yaml]"),
    "a new setting": lambda folder: edit(folder / "dvc.yaml", "[first.size]", "[first.size, second.rate]"),
    "an output's bytes": lambda folder: (folder / "out/second").write_text("something else"),
    "a missing output": lambda folder: (folder / "out/second").unlink(),
    "a missing input that a stage makes": lambda folder: (folder / "out/first").unlink(),
    "all outputs missing": lambda folder: shutil.rmtree(folder / "out"),
    "an input in the lock": lambda folder: edit(folder / "dvc.lock", MD5_OF_ONE, "a" * 32, count=1),
}


def edit(file: Path, old: str, new: str, count: int = -1) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of pygtrie, below DVC
@pytest.mark.parametrize("change", CHANGES)
def test_what_has_to_run_is_what_dvc_itself_would_run(made: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(made, folder)
    CHANGES[change](folder)
    with open_repository(Workspace.at(folder)) as repository:
        graph = repository.index.graph
        ours = {stage.name: has_to_run(repository, stage) for stage in graph}
        theirs = {stage.name: stage.changed(True, list(graph.successors(stage))) for stage in graph}
    assert ours == theirs


@pytest.mark.parametrize("change", CHANGES)
def test_stage_is_skipped_exactly_if_dvc_itself_would_skip_it(made: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(made, folder)
    CHANGES[change](folder)
    with open_repository(Workspace.at(folder)) as repository:
        theirs = {stage.name: not stage.changed() for stage in repository.index.stages}
    assert {name: would_skip(Workspace.at(folder), name) for name in theirs} == theirs


def test_new_setting_without_a_value_is_a_change(made: Path) -> None:
    params = made / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("n: 5", "n: 5, more: null"))
    found = changes(made)
    params.write_text(before)
    assert found["second"].reasons == ("changed: second.epochs.more",)


def test_output_that_can_not_be_had_any_more_is_named(made: Path) -> None:
    for name in ("out/first", ".dvc/cache"):
        (made / name).rename(made / name.replace("/", "-"))
    found = changes(made)
    for name in ("out/first", ".dvc/cache"):
        (made / name.replace("/", "-")).rename(made / name)
    assert (found["first"].reasons, found["second"].reasons) == (("missing: out/first",), ())
