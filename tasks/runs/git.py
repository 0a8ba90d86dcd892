"""The git commands that runs need. If git fails, they raise RunError with git's message."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import RunError

NO_COMMIT = "0" * 40
OF_ONE_REPOSITORY = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
"""The variables by which git finds the parts of one repository, as `git rev-parse --local-env-vars` lists them.

Git sets some of them for a hook, and a worker that a hook starts inherits them. GIT_CONFIG_COUNT and
GIT_CONFIG_PARAMETERS, which git lists too, are not here: they hold settings, such as a user's `safe.directory`.
"""
_AUTHOR = {
    "GIT_AUTHOR_NAME": "rootstock",
    "GIT_AUTHOR_EMAIL": "rootstock@localhost",
    "GIT_COMMITTER_NAME": "rootstock",
    "GIT_COMMITTER_EMAIL": "rootstock@localhost",
}


def git(folder: Path, *arguments: str) -> str:
    """Run one command in a folder. Returns its output without the last newline.

    Raises:
        RunError: git fails.
    """
    result = _start(folder, arguments)
    if result.returncode:
        raise RunError(_failure(folder, arguments, result))
    return result.stdout.removesuffix("\n")


def succeeds(folder: Path, *arguments: str) -> bool:
    """Whether the exit code of a command is 0, and not 1.

    Raises:
        RunError: it is another one: git couldn't answer, because an object or the repository is damaged, say.
    """
    result = _start(folder, arguments)
    if result.returncode not in (0, 1):
        raise RunError(_failure(folder, arguments, result))
    return result.returncode == 0


def tip(folder: Path, branch: str) -> str | None:
    """The commit at the tip of a branch; None if there is no such branch."""
    reference = f"refs/heads/{branch}"
    return git(folder, "rev-parse", reference) if succeeds(folder, "show-ref", "--verify", "-q", reference) else None


def is_ancestor(folder: Path, older: str, newer: str) -> bool:
    return succeeds(folder, "merge-base", "--is-ancestor", older, newer)


def read_blob(folder: Path, commit: str, name: str) -> bytes | None:
    """The bytes of a file in a commit; None if the file isn't in it."""
    result = _start(folder, ("show", f"{commit}:{name}"))
    return None if result.returncode else result.stdout.encode()


def need_commit(folder: Path, commit: str) -> None:
    """Fetch a commit from the repository's remotes if it isn't here.

    Raises:
        RunError: no remote has it.
    """
    if succeeds(folder, "cat-file", "-e", f"{commit}^{{commit}}"):
        return
    for remote in git(folder, "remote").split():
        git(folder, "fetch", "--quiet", remote)
    if not succeeds(folder, "cat-file", "-e", f"{commit}^{{commit}}"):
        raise RunError(
            f"Commit {commit} is neither in {folder} nor on its remotes. Push it from the clone where it was made (git "
            "push), then run again."
        )


def git_environment() -> dict[str, str]:
    """This process' environment without the variables that a hook or a shell has set for another repository."""
    return {name: value for name, value in os.environ.items() if name not in OF_ONE_REPOSITORY}


def _start(folder: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {**git_environment(), **_AUTHOR, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
