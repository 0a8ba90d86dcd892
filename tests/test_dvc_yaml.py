"""dvc.yaml agrees with the code: modules, settings, and what each stage's output depends on."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.images.manifest import Example
from tasks.params import check_settings
from tasks.settings import STRATEGIES, Settings
from tasks.vgg import engine_choice
from tasks.vgg.boundaries import Rates, candidates, decide, wanted_rows
from tasks.vgg.engine_choice import training_poolings, training_precision
from tests.conftest import PROJECT

DVC: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
PARAMS: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())

SHAPES_NO_OUTPUT = {
    "tasks",  # the packages' docstrings
    "tasks.errors",
    "tasks.progress",
    "tasks.program",
    "tasks.runs.costs",  # how long it took
    "tasks.params",  # DVC tracks the values themselves
    "tasks.settings",
    "tasks.settings_block",
    "tasks.workspace",  # where things are
}
"""Modules that may change without any stage running again."""


def stages() -> dict[str, dict[str, Any]]:
    return dict(DVC["stages"])


def program_of(stage: dict[str, Any]) -> str:
    found = re.match(r"python -m (\S+)", stage["cmd"])
    assert found, stage["cmd"]
    return found[1]


@cache
def file_of(module: str) -> Path | None:
    base = PROJECT / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of this project that a module imports, anywhere in it but for type checkers."""
    path = file_of(module)
    assert path is not None, module
    found: set[str] = set()
    for node in runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inside if name.startswith("tasks.") and file_of(name)} or {node.module}
    return frozenset(name for name in found if name.split(".")[0] in ("tasks", "flows") and file_of(name))


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


def needed(program: str) -> dict[str, str]:
    """Every module that the output of a program depends on -> the module that imports it."""
    reached = {program: program}
    pending = [program]
    while pending:
        module = pending.pop()
        for name in imports_of(module):
            if name not in reached and name not in SHAPES_NO_OUTPUT:
                reached[name] = module
                pending.append(name)
    return reached


@pytest.mark.parametrize("name", stages())
def test_stage_runs_a_module_that_exists(name: str) -> None:
    program = program_of(stages()[name])
    path = file_of(program)
    assert path is not None
    assert re.search(r"^def main\(", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", stages())
def test_no_stage_imports_another_stage(name: str) -> None:
    programs = {program_of(stage) for stage in stages().values()}
    assert needed(program_of(stages()[name])).keys() & programs == {program_of(stages()[name])}


@pytest.mark.parametrize("name", stages())
def test_stage_lists_settings_that_exist(name: str) -> None:
    for param in stages()[name].get("params", []):
        value = PARAMS
        for key in param.split("."):
            assert key in value, param
            value = value[key]


@pytest.mark.parametrize("name", stages())
def test_stage_lists_every_block_of_settings_that_it_reads(name: str) -> None:
    stage = stages()[name]
    path = file_of(program_of(stage))
    assert path is not None
    read = set(re.findall(r"\bsettings\.([a-z_]+(?:\.[a-z_]+)?)", path.read_text()))
    read = {setting for setting in read if setting.split(".")[0] in Settings.model_fields}
    assert read
    listed = stage["params"]
    assert [one for one in read if not any(one == param or one.startswith(f"{param}.") for param in listed)] == []


def leaves(values: Any, name: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for key, value in values.items():
        yield from leaves(value, f"{name}{key}.") if isinstance(value, dict) else [f"{name}{key}"]


def changed(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings with another value of one of them."""
    others = copy.deepcopy(values)
    *blocks, key = name.split(".")
    block = others
    for one in blocks:
        block = block[one]
    value = block[key]
    if isinstance(value, bool):
        block[key] = not value
    elif isinstance(value, int):
        block[key] = value - 1 if value > 1 else value + 1
    elif isinstance(value, float):
        block[key] = value * 0.9
    elif isinstance(value, list):
        block[key] = value[1:]
    else:
        [block[key]] = OTHER_CHOICES[name] - {value}
    return others


OTHER_CHOICES = {
    "train.recipe": {"modern", "tutorial"},
    "train.precision": {"auto", "float32"},
    "train.modern.budget_minutes": {None, 1.0},
    "train.class_weight": {"none", "balanced"},
}


@pytest.fixture(autouse=True)
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` be another precision than float32, whatever this machine has."""
    monkeypatch.setattr(engine_choice, "cpu_has", lambda *_: True)


def planned(values: dict[str, Any]) -> Any:
    """All that `features` is asked for: decisions with their reasons, rows, and poolings that int8 must not harm."""
    settings = check_settings(values)
    examples = [Example(split, f"{split}.png", "ant", split, 9, 9, "PNG", "") for split in ("train", "validation")]
    asked = candidates(settings)
    rates = Rates(15.0, 5e8, 15.0 if training_precision(settings.train) == "float32" else 60.0, 700.0)
    decisions = [decide(*name, phases, 900, 300, rates, 1e13, "auto") for name, phases in asked.items()]
    poolings = training_poolings(settings.train, [examples[0]] * PARAMS["train"]["modern"]["bilinear_up_to"])
    return decisions, wanted_rows(examples, settings, asked), poolings


@pytest.mark.parametrize("recipe", ["modern", "tutorial"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_features_runs_again_when_a_setting_changes_what_it_is_asked_for(strategy: str, recipe: str) -> None:
    values = {**PARAMS, "strategies": [strategy], "train": {**PARAMS["train"], "recipe": recipe}}
    names = [name for name in leaves(values) if name.split(".")[0] == "train"]
    read = {name for name in names if planned(changed(values, name)) != planned(values)}
    assert read - set(DVC["stages"]["features"]["params"]) == set()


def test_features_lists_only_settings_of_training_that_change_what_it_is_asked_for() -> None:
    listed = [name for name in DVC["stages"]["features"]["params"] if name.startswith("train.")]
    starts = [
        {**PARAMS, "strategies": [strategy], "train": {**PARAMS["train"], "recipe": recipe}}
        for strategy in STRATEGIES
        for recipe in ("modern", "tutorial")
    ]
    useless = [name for name in listed if all(planned(changed(one, name)) == planned(one) for one in starts)]
    assert useless == []


def test_every_block_of_settings_makes_some_stage_run() -> None:
    listed = {param.split(".")[0] for stage in stages().values() for param in stage.get("params", [])}
    assert listed == set(Settings.model_fields) - {"gate", "run"}  # they shape no output


@pytest.mark.parametrize("name", stages())
def test_stage_depends_on_every_module_that_it_imports(name: str) -> None:
    stage = stages()[name]
    deps = [PROJECT / dep for dep in stage["deps"]]
    missing = {}
    for module, importer in needed(program_of(stage)).items():
        path = file_of(module)
        assert path is not None
        if not any(path == dep or dep in path.parents for dep in deps):
            missing[module] = importer
    assert missing == {}


@pytest.mark.parametrize("name", stages())
def test_stage_depends_on_code_that_exists(name: str) -> None:
    code = [dep for dep in stages()[name]["deps"] if dep.startswith("tasks")]
    assert [dep for dep in code if not (PROJECT / dep).exists()] == []


def test_data_dependencies_are_outputs_of_earlier_stages() -> None:
    made: list[str] = []
    for stage in stages().values():
        for dep in stage["deps"]:
            if not dep.startswith("tasks"):
                assert any(dep == out or out.startswith(f"{dep}/") or dep.startswith(f"{out}/") for out in made), dep
        made += [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]


def test_strategies_are_trained_one_by_one() -> None:
    assert DVC["stages"]["train"]["matrix"] == {"strategy": "${strategies}"}
    assert set(PARAMS["strategies"]) <= set(STRATEGIES)


def test_outputs_that_are_brought_in_line_are_not_deleted_first() -> None:
    for name in ("ingest", "prepare", "features"):
        assert all(options == {"persist": True} for out in stages()[name]["outs"] for options in out.values()), name


def test_evaluation_is_never_restored_from_the_run_cache() -> None:
    """It writes reports/metrics.json, which isn't in the lock: restored, the outputs would come without it."""
    assert {"reports/evaluation.json": {"persist": True}} in stages()["evaluate"]["outs"]


HEAVY = r"\| +(tensorflow|keras|prefect|ray|torch|ncnn|onnx)$"


def imported(err: str) -> set[str]:
    return set(re.findall(HEAVY, err, re.MULTILINE))


@pytest.mark.parametrize("stage", ["ingest", "prepare", "features", "train", "evaluate"])
def test_importing_a_stage_imports_no_heavy_library(stage: str) -> None:
    command = [sys.executable, "-X", "importtime", "-c", f"import tasks.{stage}"]
    err = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stderr
    assert f"tasks.{stage}" in err
    assert imported(err) == set()
