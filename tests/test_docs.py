"""Everything that README and docs name exists: links, files, targets of the Makefile, settings. Tables are true."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from handbook import __main__ as handbook
from handbook.files_page import FILES
from tasks.settings import Settings
from tests.conftest import PROJECT
from tests.tasks.steps import run_prepare

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
SETTINGS: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text()):
        name, _, place = target.partition("#")
        if "://" in name:
            continue
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not place or place in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_project_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:flows|tasks|tests|benchmarks|server|docs)/[\w./]*)`", page.read_text())
    assert [name for name in named if not (PROJECT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_the_makefile_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(?:^ {4}|`)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
    assert set(named) <= TARGETS


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_settings_that_are_named_exist(page: Path) -> None:
    for name in re.findall(rf"\b((?:{'|'.join(SETTINGS)})\.[a-z_]+(?:\.[a-z_]+)*)\b(?!\()", page.read_text()):
        if name.endswith((".md", ".py", ".html", ".yaml", ".json", ".csv", ".parquet", ".utils")):
            continue
        value: Any = SETTINGS
        for key in name.split("."):
            assert key in value, name
            value = value[key]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_that_are_named_exist_and_take_the_options(page: Path) -> None:
    for module, rest in re.findall(r"python -m ((?:flows|tasks|benchmarks)(?:\.\w+)*)([^`\n#]*)", page.read_text()):
        found = importlib.util.find_spec(module)
        assert found is not None, module
        assert found.origin is not None
        main = importlib.util.find_spec(f"{module}.__main__") if found.submodule_search_locations else None
        code = Path(main.origin if main and main.origin else found.origin).read_text()
        assert [option for option in re.findall(r"--[a-z-]+", rest) if f'"{option}"' not in code] == [], module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    for name, function in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert f"def {function}(" in (PROJECT / name).read_text(), function


def test_command_that_lists_packs_lists_all_of_them(tmp_path: Path) -> None:
    (command,) = re.findall(r"`([^`]*tar tf [^`]*)`", (PROJECT / "docs/versions.md").read_text())
    for name in ("one", "two"):
        folder = tmp_path / "data/raw"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        subprocess.run(["tar", "cf", f"{name}.tar", name], cwd=folder, check=True)
    listed = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert listed.split() == ["one", "two"]


def test_files_that_the_readme_of_data_names_are_those_that_are_written(
    workspace: Path, source: Path, change: Callable[..., Settings]
) -> None:
    run_prepare(change(f"source.uri={source}", "prepare.min_entropy_bits=0", "prepare.test_fraction=0.3"), workspace)
    text = (PROJECT / "data/README.md").read_text()
    for folder in ("raw", "prepared"):
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{folder}/`"))
        named = set(re.findall(r"`([\w.*]+/?)`", row.split("|")[3]))
        written = {f"{path.name}/" if path.is_dir() else path.name for path in (workspace / "data" / folder).iterdir()}
        assert {"*.tar" if name.endswith(".tar") else name for name in written} == named
    for file in (file for file in FILES if file.made_by in ("ingest", "prepare")):
        assert fields(workspace / file.path) == set(file.fields), file.path


def fields(path: Path) -> set[str]:
    """The columns of a table, or the keys of a JSON object."""
    return set(pq.read_schema(path).names if path.suffix == ".parquet" else json.loads(path.read_text()))


def test_pages_that_are_made_from_the_code_are_fresh() -> None:
    stale = [str(path) for path, text in handbook.pages().items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run: make reference"
