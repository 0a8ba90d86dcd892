"""A workspace knows all paths, the clone that it belongs to, and decisions that were made once."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.workspace import Workspace
from tests.conftest import PROJECT


def test_workspace_shares_nothing_unless_it_is_a_deployed_runs_own(tmp_path: Path) -> None:
    assert Workspace.at(tmp_path).clone == tmp_path


def test_deployed_runs_folder_shares_the_clones_caches_and_keeps_its_own_state(tmp_path: Path) -> None:
    clone, own = Workspace.at(tmp_path), Workspace.at(tmp_path / ".rootstock/runs/nightly")
    own.belong_to(tmp_path)
    found = Workspace.at(own.folder)
    shared = ("source_cache", "shared_costs", "decisions", "runs", "code", "prefect_home", "server_login")
    shared += ("tidy_claim", "tidy_record", "kept_exports", "served_models", "reference", "watches")
    for name in shared:
        assert getattr(found, name) == getattr(clone, name), name
    paths = {name for name, value in vars(Workspace).items() if isinstance(value, property)}
    for name in paths - {*shared}:
        assert getattr(found, name).is_relative_to(found.folder), name


def test_decision_is_made_once_for_the_same_facts(tmp_path: Path) -> None:
    answers = iter(["ncnn", "tensorflow", "tensorflow"])
    workspace = Workspace.at(tmp_path)
    assert workspace.decide_once("engine", {"cores": 2}, lambda: next(answers)) == "ncnn"
    assert workspace.decide_once("engine", {"cores": 2}, lambda: next(answers)) == "ncnn"
    assert workspace.decide_once("engine", {"cores": 4}, lambda: next(answers)) == "tensorflow"
    workspace.decisions.unlink()
    assert workspace.decide_once("engine", {"cores": 2}, lambda: next(answers)) == "tensorflow"


def test_damaged_decisions_are_made_anew(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    workspace.decide_once("engine", {}, lambda: 1)
    workspace.decisions.write_text("{")
    assert workspace.decide_once("engine", {}, lambda: 2) == 2
    assert workspace.decide_once("engine", {}, lambda: 3) == 2


def test_no_other_module_spells_a_path_of_the_workspace() -> None:
    spelled = re.compile(
        r"""["'](data/(raw|prepared|features)|models/(trained|export)|reports/|\.rootstock)[^ ]*["']"""
    )
    found = {
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for folder in ("tasks", "flows")
        for path in (PROJECT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if spelled.search(line) and path != PROJECT / "tasks/workspace.py" and "/page.css" not in line
    }
    assert found == set()
