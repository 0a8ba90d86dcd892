"""A small git and DVC repository, and helpers for the tests of runs."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tasks.runs.run_context import DeployedRun
from tasks.runs.worktrees import run_folder
from tests.tasks.fork_server import ForkServer

STAGES = """
stages:
  count:
    cmd: python add.py count
    deps: [add.py]
    always_changed: true
    outs: [out/count: {persist: true}]
  double:
    cmd: python add.py double out/count
    deps: [add.py, out/count]
    params: [factor]
    outs: [out/double: {persist: true}]
  fit:
    foreach: [a, b]
    do:
      cmd: python add.py parts/${item} out/double
      deps: [add.py, out/double]
      outs: ["out/parts/${item}"]
  join:
    cmd: python add.py join out/parts/a out/parts/b
    deps: [add.py, out/parts]
    outs: [out/join]
"""
ADD = """
import sys
from pathlib import Path
output = Path('out') / sys.argv[1]
output.parent.mkdir(parents=True, exist_ok=True)
output.write_text(sys.argv[1] + Path('params.yaml').read_text() + ''.join(Path(n).read_text() for n in sys.argv[2:]))
"""

PARTS = """
stages:
  both:
    cmd: python both.py
    deps: [both.py]
    params: [a, b]
    outs: [out/both: {persist: true}]
  use:
    foreach: [a, b]
    do:
      cmd: cp out/both/${item}/file out/${item}
      deps: ["out/both/${item}"]
      outs: ["out/${item}"]
"""
BOTH = """
from pathlib import Path
for line in Path('params.yaml').read_text().splitlines():
    folder = Path('out/both') / line[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'file').write_text(line)
"""
LOCK = "schema: '2.0'\nstages:\n  count:\n    cmd: python add.py count\n"


def git(folder: Path, *arguments: str) -> str:
    author = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **author, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@cache
def warm_server() -> ForkServer:
    """Runs commands of DVC, and nights, in processes that have imported what they need."""
    server = ForkServer("tests.tasks.runs.nights").__enter__()
    atexit.register(server.__exit__)
    return server


def dvc(folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> str:
    """What DVC says to a command; it must succeed."""
    wide = {**environment, "COLUMNS": "1000"}  # tables aren't wrapped, however long the paths are
    result = warm_server().run(*arguments, cwd=folder, environment=wide)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def init_dvc(folder: Path, in_git: bool = True) -> None:
    dvc(folder, "init", "-q", *([] if in_git else ["--no-scm"]))


def make_repository(folder: Path) -> Path:
    """A clone with the stages above, all in one commit; nothing has run."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    init_dvc(folder)
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "add.py").write_text(ADD)
    (folder / "params.yaml").write_text("factor: 1\n")
    (folder / ".gitignore").write_text("out\n.rootstock\n")
    commit(folder, "The project")
    return folder


def make_parts(folder: Path) -> Path:
    """A repository whose stages read parts of one output; everything has run."""
    root = make_repository(folder)
    for name, text in {"dvc.yaml": PARTS, "both.py": BOTH, "params.yaml": "a: 1\nb: 1\n"}.items():
        (root / name).write_text(text)
    dvc(root, "repro")
    return root


def commit(folder: Path, message: str) -> str:
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def change(folder: Path, name: str, text: str) -> str:
    """Write a file and commit it; gives the commit."""
    (folder / name).write_text(text)
    return commit(folder, f"Change {name}")


def deployed(root: Path, said: list[str] | None = None, title: str = "first") -> DeployedRun:
    """A run of the deployment `nightly`, at the clone's commit."""
    say = print if said is None else said.append
    return DeployedRun(root, "nightly", git(root, "rev-parse", "HEAD"), title, say)


@contextlib.contextmanager
def working(run: DeployedRun) -> Iterator[Path]:
    """The folder of a run that works."""
    with run_folder(run) as context:
        yield context.workspace.folder


def work(run: DeployedRun, lock: str, params: str = "factor: 1\n") -> None:
    with working(run) as folder:
        (folder / "dvc.lock").write_text(lock)
        (folder / "params.yaml").write_text(params)


def history(root: Path) -> list[str]:
    return git(root, "log", "--first-parent", "--format=%s", "runs/nightly").splitlines()
