"""Everything that README and docs name exists: links, files, targets of the Makefile, settings. Tables are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import what_runs_again
from tests.conftest import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
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
    named = re.findall(r"(?:^ {4}|`)make ([a-z]+)\b", page.read_text(), re.MULTILINE)
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


def test_table_of_what_runs_again_is_that_of_dvc_yaml() -> None:
    assert what_runs_again.TABLE.findall(what_runs_again.PAGE.read_text()) == [what_runs_again.table()], "make docs"
