"""The page of all artifacts of Prefect: their keys are those that the code creates."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from handbook.markdown import NOTE, code, table
from handbook.what_runs_again import PROJECT

PAGE = PROJECT / "docs/reference/artifacts.md"
TEXT = """# What does Prefect show of a run?

{note}Artifacts are on the page of a run, under *Artifacts*. `make run` has them, too, on its temporary server.

{artifacts}
`make plan` prints the plan and runs nothing. `make run` ends with the costs. Expected times and sizes come from earlier runs in this clone
(`.rootstock/costs`); without earlier runs the plan says `unknown`. The energy is that of the whole machine, as the processors (Intel's RAPL) and
GPUs (NVIDIA) report it. If they report nothing, the column is missing.
"""
ARTIFACTS = {
    "plan": ("before the work", "which stages will run and why, how many images are new, expected time and disk"),
    "progress-<stage>": ("during the work", "images or steps, rate, time left"),
    "course-<stage>": ("during the work", "loss and accuracy of each epoch"),
    "report": (
        "after the work",
        "the champion's metrics, all strategies compared, the worst mistakes as images, the confusion matrix",
    ),
    "metrics": ("after the work", "accuracy of each strategy, with its interval"),
    "gate": (
        "after the results are kept",
        "whether the model may go into [production](../registry.md), and why",
    ),
    "costs": (
        "after the work, even if it failed",
        "each stage's time, CPU and GPU time, images computed and reused, peak memory, energy",
    ),
    "registry": ("after a run of `registry/champion`", "all versions of the model, and which one is in production"),
    "scores": (
        "after a run of `score/new-images`",
        "how many rows have which label and which error, how many are unsure and [foreign](../foreign.md)",
    ),
    "watch": (
        "after a run of `watch/watch`",
        "whether [new images](../watching.md) look like the test images, the most foreign ones",
    ),
    "weekly-summary": (
        "on Mondays",
        "the nights of seven days: finished, failed and crashed ones, failures that healed, images, accuracy, time, disk",
    ),
}


def page() -> str:
    found = {key for file in _files() for key in keys(file)}
    if found != ARTIFACTS.keys():
        raise ValueError(f"handbook/artifacts_page.py and the code differ in {sorted(found ^ ARTIFACTS.keys())}")
    rows = [(code(key), when, what) for key, (when, what) in ARTIFACTS.items()]
    return TEXT.format(note=NOTE, artifacts=table(("artifact", "when", "what"), rows))


def _files() -> list[Path]:
    return [*(PROJECT / "flows").glob("*.py"), PROJECT / "tasks/progress_artifacts.py"]


def keys(file: Path) -> Iterator[str]:
    """The keys of the artifacts that a module creates."""
    tree = ast.parse(file.read_text())
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name == "_show":
            yield _text(node.args[0])
        elif name.startswith("create_") and name.endswith("_artifact"):
            for key in (one.value for one in node.keywords if one.arg == "key"):
                yield _text(constants.get(key.id, key) if isinstance(key, ast.Name) else key)


def _text(node: ast.expr) -> str:
    """A text in the code; what is put into it is a stage's name."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "<stage>" for one in node.values)
    if not isinstance(node, ast.Constant):
        raise TypeError(f"the key of an artifact must be a text: {ast.unparse(node)}")
    return str(node.value)
