"""The git commands that runs need. If git fails, they raise RunError with git's message.

They run none of the repository's hooks: `dvc install`, say, adds one to each checkout, which may fail or take long.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import RootstockError, RunError, TransientError
from tasks.runs.outages import tells_of_outage

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
_NOBODY_IS_ASKED = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true"}
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30"
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsync=all",  # a commit survives a power failure
    "advice.pushUpdateRejected=false",  # it is meant for people at a prompt
    "core.filesRefLockTimeout=5000",  # milliseconds; another command of git may be changing the branch
)
_LIMIT_S = 1800.0
_REMOTE = ("fetch", "push", "ls-remote")
_READS = frozenset(
    {
        "cat-file",
        "diff",
        "fetch",
        "for-each-ref",
        "fsck",
        "ls-remote",
        "ls-tree",
        "merge-base",
        "remote",
        "rev-list",
        "rev-parse",
        "show",
        "show-ref",
    }
)
"""Commands that may be repeated, whatever a killed one has done."""
_DAMAGED = re.compile(r"object corrupt or missing: (.*\S)")


def git(folder: Path, *arguments: str) -> str:
    """Run one command in a folder. Returns its output without the last newline.

    Raises:
        RunError: git fails.
        TransientError: a remote doesn't answer.
    """
    return _output(folder, *arguments).decode(errors="replace").removesuffix("\n")


def succeeds(folder: Path, *arguments: str) -> bool:
    """Whether the exit code of a command is 0, and not 1, which is git's "no".

    Raises:
        RunError: it is another one: git can't answer, because the repository is damaged, say.
    """
    result = _start(folder, arguments)
    if result.returncode not in (0, 1):
        raise _failure(folder, arguments, result)
    return result.returncode == 0


def tip(folder: Path, branch: str) -> str | None:
    """The commit at the tip of a branch; None if there is no such branch."""
    reference = f"refs/heads/{branch}"
    return git(folder, "rev-parse", reference) if succeeds(folder, "show-ref", "--verify", "-q", reference) else None


def git_path(folder: Path, name: str) -> Path:
    """Where git keeps one of its files, such as `index` or `refs/heads/main`."""
    return Path(git(folder, "rev-parse", "--path-format=absolute", "--git-path", name))


def is_ancestor(folder: Path, older: str, newer: str) -> bool:
    return succeeds(folder, "merge-base", "--is-ancestor", older, newer)


def read_blob(folder: Path, commit: str, name: str) -> bytes | None:
    """The bytes of a file in a commit; None if the file isn't in it.

    Raises:
        RunError: the commit or the file is damaged.
    """
    return _output(folder, "show", f"{commit}:{name}") if git(folder, "ls-tree", commit, "--", name) else None


def read_blobs(folder: Path, commit: str, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of several files in a commit, by one process; those that it lacks are missing.

    Raises:
        RunError: a file is damaged.
    """
    wanted = "".join(f"{commit}:{name}\n" for name in names)
    result = _start(folder, ("cat-file", "--batch"), wanted.encode())
    if result.returncode:
        raise _failure(folder, ("cat-file", "--batch"), result)
    rest, found = result.stdout, {}
    for name in names:
        head, _, rest = rest.partition(b"\n")
        if not head.endswith(b" missing"):
            size = int(head.rsplit(b" ", 1)[1])
            found[name], rest = rest[:size], rest[size + 1 :]
    return found


def is_sound(folder: Path, commit: str) -> bool:
    """Whether a commit and all of its files can be read."""
    listed = _start(folder, ("ls-tree", "-r", commit))
    if listed.returncode:
        return False
    entries = [line.split()[1:3] for line in listed.stdout.splitlines()]
    files = b"".join(name + b"\n" for kind, name in entries if kind == b"blob")  # others are submodules
    known = _start(folder, ("cat-file", "--batch-check"), files)
    read = _start(folder, ("cat-file", "--batch", "--buffer"), files)
    return not known.returncode and not read.returncode and b" missing\n" not in known.stdout


def is_here(folder: Path, commit: str) -> bool:
    return not _start(folder, ("cat-file", "-e", f"{commit}^{{commit}}")).returncode


def remove_damaged_objects(folder: Path) -> None:
    """Remove the objects that can't be read. git wouldn't fetch them again, because their files are there."""
    said = _start(folder, ("fsck", "--no-dangling", "--no-reflogs")).stderr.decode(errors="surrogateescape")
    for path in _DAMAGED.findall(said):
        (folder / path).unlink(missing_ok=True)


def hash_tag(folder: Path, name: str, commit: str, by: str, at: int, message: str) -> str:
    """Make the object of an annotated tag, on no reference yet. Returns its hash.

    Args:
        folder: of the repository.
        name: of the tag.
        commit: that it tags.
        by: its author's name.
        at: its time, seconds since 1970.
        message: its text.

    Raises:
        RunError: git refuses it.
    """
    author = re.sub(r"[<>\n]", " ", by).strip() or _AUTHOR["GIT_AUTHOR_NAME"]
    tagger = f"{author} <{_AUTHOR['GIT_AUTHOR_EMAIL']}> {at} +0000"
    text = f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\n{message}"
    result = _start(folder, ("mktag",), text.encode())
    if result.returncode:
        raise _failure(folder, ("mktag", name), result)
    return result.stdout.decode().strip()


def need_commit(folder: Path, commit: str) -> None:
    """Fetch a commit from the repository's remotes if it isn't here.

    Raises:
        RunError: no remote has it.
        TransientError: a remote doesn't answer.
    """
    if is_here(folder, commit):
        return
    for remote in git(folder, "remote").split():
        git(folder, "fetch", "--quiet", remote)
    if not is_here(folder, commit):
        raise RunError(
            f"Commit {commit} is neither in {folder} nor on its remotes. Push it from the clone where it was made (git "
            "push), then run again."
        )


def git_environment() -> dict[str, str]:
    """This process' environment without the variables that a hook or a shell has set for another repository."""
    return {name: value for name, value in os.environ.items() if name not in OF_ONE_REPOSITORY}


def _output(folder: Path, *arguments: str) -> bytes:
    result = _start(folder, arguments)
    if result.returncode:
        raise _failure(folder, arguments, result)
    return result.stdout


def _failure(folder: Path, arguments: tuple[str, ...], result: subprocess.CompletedProcess[bytes]) -> RootstockError:
    said = result.stderr.decode(errors="replace").strip() or f"exit code {result.returncode}"
    kind = TransientError if arguments[0] in _REMOTE and tells_of_outage(said) else RunError
    return kind(f"git {' '.join(arguments)} failed in {folder}: {said}")


def _start(folder: Path, arguments: tuple[str, ...], input_bytes: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end. A killed git gives no answer: what only reads is tried once more.

    Raises:
        RunError: git was killed, or took too long.
        TransientError: the same, for a command that talks with a remote.
    """
    result = _run(folder, arguments, input_bytes)
    if result.returncode < 0 and arguments[0] in _READS:
        result = _run(folder, arguments, input_bytes)
    if result.returncode < 0:
        raise _failure(folder, arguments, result)
    return result


def _run(folder: Path, arguments: tuple[str, ...], input_bytes: bytes) -> subprocess.CompletedProcess[bytes]:
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    command = ["git", *settings, *arguments]
    environment = {"GIT_SSH_COMMAND": _SSH, **git_environment(), **_AUTHOR, **_NOBODY_IS_ASKED, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, input=input_bytes, capture_output=True, check=False, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise (TransientError if arguments[0] in _REMOTE else RunError)(
            f"git {' '.join(arguments)} took more than {_LIMIT_S / 60:g} minutes in {folder} and was stopped. "
            "Check the network and the repository's remotes: git remote -v"
        ) from None
