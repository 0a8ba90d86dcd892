"""A project whose model is a text, versions of it, and promoters, for the tests of the registry."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.runs.promotions import Promoter, Verdict
from tasks.runs.registry import shared_remote
from tests.tasks.runs.repository import commit, dvc, git, init_dvc

_DVC_YAML = """
stages:
  export:
    cmd: mkdir -p out/model && cp model.txt out/model/model.txt
    deps: [model.txt]
    outs: [out/model]
artifacts:
  champion: {path: out/model, type: model}
"""
PASSED: Verdict = {"passed": True, "checks": [], "classes": ["ant", "bee"]}


def refused(sentence: str = "It is worse.") -> Verdict:
    row = {"check": "accuracy", "candidate": "80 %", "production": "90 %", "limit": "-1.0 points", "passed": False}
    return {"passed": False, "checks": [{**row, "sentence": sentence}], "classes": []}


def make_project(folder: Path, store: Path) -> Path:
    """A clone with a pipeline of one stage, and a folder as DVC's remote; nothing has run."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    init_dvc(folder)
    (folder / ".dvc/config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {store}\n")
    (folder / "dvc.yaml").write_text(_DVC_YAML)
    (folder / ".gitignore").write_text("out\n.rootstock\n")
    commit(folder, "The project")
    return folder


def make_version(clone: Path, text: str, accuracy: float = 0.9) -> str:
    """Make the model from a text, and commit it; gives the commit."""
    (clone / "model.txt").write_text(text)
    dvc(clone, "repro", "-q")
    tested = {"accuracy": accuracy, "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05], "n": 100}
    metrics = {"champion": "feature_extraction", "strategies": {"feature_extraction": {"test": tested}}}
    (clone / "reports").mkdir(exist_ok=True)
    (clone / "reports/metrics.json").write_text(json.dumps(metrics))
    return commit(clone, f"Model {text}")


def promoter(
    clone: Path, judge: Callable[[str, str | None], Verdict] = lambda *_: PASSED, said: list[str] | None = None
) -> Promoter:
    say: Any = print if said is None else said.append
    return Promoter(clone, shared_remote(clone, git(clone, "rev-parse", "HEAD")), "Ada", judge, say)


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Do something in a child process that kills itself before its command number `step`; whether it was killed."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # as in `nights`: what earlier tests left behind must not be collected here
        left = [step]

        def count(event: str, _arguments: object) -> None:
            if event in ("subprocess.Popen", "os.fork"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0
