"""A stage's inputs are downloaded, of a folder only the part that it reads; later runs know that it is only a part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.runs.transfers import fetch_inputs
from tasks.runs.worktrees import check_out
from tasks.workspace import Workspace
from tests.tasks.runs.repository import commit, dvc, git, make_parts

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_parts(tmp_path / "clone")
    commit(root, "The project has run")
    return root


def test_part_is_brought_for_its_reader_and_goes_before_the_next_run(root: Path, tmp_path: Path) -> None:
    folder, code = tmp_path / "run", git(root, "rev-parse", "HEAD")
    run = Workspace(folder, root)
    check_out(run, code, print)
    assert not fetch_inputs("use@a", run, limit_s=60, on_line=print)
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().replace("cp out", "cp -p out"))
    assert fetch_inputs("use@a", run, limit_s=60, on_line=print)
    assert [path.name for path in (folder / "out/both").iterdir()] == ["a"]

    check_out(run, code, print)
    assert not (folder / "out/both").exists()


def test_output_of_a_stage_that_ran_in_the_folder_stays(root: Path, tmp_path: Path) -> None:
    folder, code = tmp_path / "run", git(root, "rev-parse", "HEAD")
    run = Workspace(folder, root)
    check_out(run, code, print)
    (folder / "params.yaml").write_text("a: 2\nb: 2\n")
    dvc(folder, "repro", "-s", "both")
    assert fetch_inputs("use@a", run, limit_s=60, on_line=print)
    check_out(run, code, print)
    assert sorted(path.name for path in (folder / "out/both").iterdir()) == ["a", "b"]
