"""Imports go one way: flows, stages, programs, rooms, ground; and each library is imported where it belongs."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from handbook.imports import LEVELS, STAGES, imported, is_in, level, modules, own_imports, room

ALLOWED_ROOMS: dict[str, set[str]] = {
    "images": set(),
    "vgg": {"images"},
    "reports": {"images"},
    "scoring": {"images", "vgg"},
    "serving": {"images", "vgg"},
    "watching": {"images", "vgg", "reports", "scoring"},
    "runs": set(),
}
BORDERS = {
    "prefect": ("flows", *STAGES),
    "dvc": ("tasks.runs.dvc_state",),
}
"""Library -> the modules and packages that may import it."""


def test_there_are_no_circles() -> None:
    try:
        TopologicalSorter({module: own_imports(module) for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_go_down_only() -> None:
    wrong = [
        f"{module} -> {other}"
        for module in modules()
        for other in own_imports(module)
        if LEVELS.index(level(other)) < LEVELS.index(level(module))
    ]
    assert sorted(wrong) == []


def test_rooms_import_only_the_rooms_below_them() -> None:
    wrong = [
        f"{module} -> {other}"
        for module in modules()
        for other in own_imports(module)
        if (here := room(module)) and (there := room(other)) and there != here and there not in ALLOWED_ROOMS[here]
    ]
    assert sorted(wrong) == []


@pytest.mark.parametrize("library", BORDERS)
def test_library_is_imported_at_its_border_only(library: str) -> None:
    users = {module for module in modules() if any(is_in(name, library) for name in imported(module))}
    assert users
    assert sorted(module for module in users if not any(is_in(module, place) for place in BORDERS[library])) == []


def test_flows_alone_import_the_stages() -> None:
    users = [module for module in modules() if "tasks.stages" in own_imports(module)]
    assert users
    assert [module for module in users if not is_in(module, "flows")] == []


def test_every_package_says_in_its_first_line_what_it_is() -> None:
    packages = [file for file in modules().values() if file.name == "__init__.py"]
    said = {file: ast.get_docstring(ast.parse(file.read_text())) or "" for file in packages}
    assert [str(file) for file, text in said.items() if not text.partition("\n")[0].endswith(".")] == []
