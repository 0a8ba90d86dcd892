"""Fresh copies of the project for measurements, and images if none are given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def make_workspace(folder: Path) -> Path:
    """A copy of the project with an empty DVC cache, as after a clone."""
    folder.mkdir(parents=True)
    for name in ("flows", "tasks"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(PROJECT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(PROJECT / ".dvc" / name, folder / ".dvc" / name)
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([*git, "add", "."], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=Start"], cwd=folder, check=True)
    return folder


def run(workspace: Path, *arguments: str, **environment: str) -> str:
    """Run `python -m ARGUMENTS` in the workspace; returns its standard output."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=workspace,
        env={**os.environ, "PATH": paths, "DO_NOT_TRACK": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return process.stdout


def write_digits(folder: Path, per_class: int = 20) -> Path:
    """Some of the built-in digits as train/<class>/ and val/<class>/, two to one."""
    from tasks.images.sources import digits

    counts: dict[str, int] = {}
    for item in digits.list_digits().images:
        number = counts[item.label] = counts.get(item.label, 0) + 1
        if number <= per_class:
            split = "val" if number % 3 == 0 else "train"
            file = folder / split / item.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(item.read())
    return folder
