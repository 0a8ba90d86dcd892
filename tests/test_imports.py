"""Imports go one way: flows, stages, programs, rooms, ground; and each library is imported where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import PROJECT

ROOMS = ("images", "vgg", "reports", "scoring", "serving", "watching", "runs")
STAGES = ("tasks.stages", "tasks.progress_artifacts")
GROUND = (
    *(
        f"tasks.{name}"
        for name in ("workspace", "params", "settings", "settings_block", "errors", "files", "parallel", "progress")
    ),
    *(f"tasks.{name}" for name in ("scores", "markdown_tables")),
    "tasks.vgg.strategies",  # a strategy declares its settings, so the settings import it
)
LEVELS = ("flows", "stages", "programs", "rooms", "ground")
"""From the top to the bottom; a module imports from its own level and those below."""
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


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    files = [file for folder in ("flows", "tasks") for file in (PROJECT / folder).rglob("*.py")]
    return {".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(node: ast.AST) -> Iterator[str]:
    """The names that a piece of code imports, inside functions too, but not what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "a relative import"
            assert child.module is not None
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imports(child)


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports(ast.parse(modules()[module].read_text(encoding="utf-8"))))


@cache
def own_imports(module: str) -> frozenset[str]:
    """The modules of the project that a module imports."""
    found = set()
    for name in imported(module):
        parts = name.split(".")
        known = (".".join(parts[:length]) for length in (len(parts), len(parts) - 1))
        found |= {next((one for one in known if one in modules()), module)}
    return frozenset(found - {module})


def is_in(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def room(module: str) -> str | None:
    return next((room for room in ROOMS if is_in(module, f"tasks.{room}")), None)


def level(module: str) -> str:
    if is_in(module, "flows"):
        return "flows"
    if module in STAGES:
        return "stages"
    if module == "tasks" or any(is_in(module, place) for place in GROUND):
        return "ground"
    return "rooms" if room(module) else "programs"


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
