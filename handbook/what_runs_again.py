"""The table in docs/settings.md of the stages that run again when a setting changes, made from dvc.yaml.

`make reference` writes it; tests/test_docs.py compares it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs/settings.md"
HEAD = "| changed | runs again | then, if an output of those changed |\n| --- | --- | --- |\n"
TABLE = re.compile(rf"{re.escape(HEAD)}(?:\|.*\n)*")


def table() -> str:
    """The table, in Markdown."""
    stages: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    settings: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())
    rows = [row for block, values in settings.items() for row in _rows_of(block, values, stages)]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def first_stages(name: str) -> str:
    """The stages that run again when a setting changes, in Markdown."""
    stages: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    return _first(name.partition(".")[0], tuple(one for one in stages if _reads(stages[one], name)), stages)


def _rows_of(block: str, values: Any, stages: dict[str, Any]) -> list[tuple[str, str, str]]:
    """One row for all settings of a block that make the same stages run; the largest group comes last, as the rest."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in _leaves(block, values):
        groups.setdefault(tuple(stage for stage in stages if _reads(stages[stage], name)), []).append(name)
    *few, most = sorted(groups.items(), key=lambda group: len(group[1]))
    named = [(", ".join(f"`{name}`" for name in names), first) for first, names in few]
    named.append((f"`{block}`, the rest" if few else f"`{block}`", most[0]))
    return [(name, _first(block, first, stages), _later(block, first, stages)) for name, first in named]


def _leaves(name: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [name]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}", inner)]


def _reads(stage: dict[str, Any], name: str) -> bool:
    return any(name == param or name.startswith(f"{param}.") for param in stage["params"])


def _first(block: str, first: tuple[str, ...], stages: dict[str, Any]) -> str:
    shown = [
        _show(name, stage, "an added" if _adds(stage, block) else "every")
        for name, stage in stages.items()
        if name in first or _adds(stage, block)
    ]
    return ", ".join(shown) or "nothing"


def _later(block: str, first: tuple[str, ...], stages: dict[str, Any]) -> str:
    reached = set(first)
    for name, stage in stages.items():  # they are in the order in which they run
        if any(_depends(stage, stages[other]) for other in reached):
            reached.add(name)
    later = [name for name in stages if name in reached and name not in first]
    return ", ".join(
        _show(name, stages[name], "every other" if _adds(stages[name], block) else "every") for name in later
    )


def _adds(stage: dict[str, Any], block: str) -> bool:
    """Whether the stage exists once for each value of this setting."""
    return f"${{{block}}}" in stage.get("matrix", {}).values()


def _show(name: str, stage: dict[str, Any], which: str) -> str:
    return " ".join([f"`{name}`", *(f"of {which} {one}" for one in stage.get("matrix", {}))])


def _depends(stage: dict[str, Any], other: dict[str, Any]) -> bool:
    outs = [out if isinstance(out, str) else next(iter(out)) for out in other["outs"]]
    return any(
        f"{dep}/".startswith(f"{out}/") or f"{out}/".startswith(f"{dep}/") for dep in stage["deps"] for out in outs
    )


def page() -> str:
    """The page with the table as it should be."""
    return TABLE.sub(lambda _: table(), PAGE.read_text())
