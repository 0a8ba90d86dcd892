"""A deployed run's folder: a git worktree of its own, one commit at the end, nothing of it in a person's working tree.

The branch `runs/<name>` holds one commit for each run that changed something: the code that was deployed, with
`params.yaml`, `dvc.lock` and `reports/metrics.json` as the run left them. Its first parent is the run before, so
`git log --first-parent` is the history; the code's commit is the second parent where it isn't an ancestor already.
A run that doesn't finish leaves its folder; the next of that name goes on in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tasks.errors import RunError
from tasks.files import write_bytes, write_json
from tasks.runs.git import NO_COMMIT, git, is_ancestor, need_commit, read_blob, succeeds, tip
from tasks.runs.materials import remove_parted
from tasks.runs.orphans import stop_orphans
from tasks.workspace import Workspace

RESULTS = ("dvc.lock", "reports/metrics.json")
"""What a run takes over from the run before it; params.yaml comes from the deployed commit."""
_NOTE = ".rootstock/run.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Deployed:
    """What a run is.

    Attributes:
        root: the clone that it belongs to.
        name: of its deployment; its branch is `runs/<name>`.
        commit: the code that it runs.
        title: of the run itself, for the log and the commit.
        say: gets what a person should know, one line each.
    """

    root: Path
    name: str
    commit: str
    title: str
    say: Say

    @property
    def branch(self) -> str:
        return f"runs/{safe_name(self.name)}"


@dataclass(frozen=True)
class RunContext:
    """In which folder a run works, and as what.

    Attributes:
        workspace: its folder.
        deployed: the run whose own folder it is; None where a person's folder is meant.
    """

    workspace: Workspace
    deployed: Deployed | None

    def reach(self, source: str) -> None:
        """Make a source that was given relative to the clone reachable from the run's own folder."""
        if self.deployed is not None:
            link_source(self.deployed.root, self.workspace.folder, source)


@contextlib.contextmanager
def run_folder(run: Deployed) -> Iterator[Path]:
    """A folder for the run, with the results of the run before. What the run made is committed if the block ends well.

    Raises:
        RunError: the commit isn't there, or the branch moved on meanwhile.
    """
    with claimed(run.root, run.name) as folder:
        before = tip(run.root, run.branch)
        results = _results_of(run, before)
        note = _read_note(folder)
        if is_worktree(folder):
            if note.get("before") == before:  # nothing was committed since
                results = {name: _read(folder / name) for name in RESULTS}
            ended = note.get("ended") or "it was killed"
            run.say(f"Resumes the unfinished run {note.get('title')} ({ended}): what it finished is kept.")
        check_out(run.root, folder, run.commit, run.say)
        for name, content in results.items():
            if content is not None:
                write_bytes(folder / name, content)
        with _noted(run, folder, before):
            yield folder
            _commit(run, folder, before)
        remove(run.root, folder)


@contextlib.contextmanager
def claimed(root: Path, name: str) -> Iterator[Path]:
    """The first of the folders `<name>`, `<name>.2`, ... in which no process works; no other gets it inside the block.

    The kernel lets go of the claim however the process ends. A frozen one keeps its own, and so can't harm the next.
    """
    runs = Workspace.at(root).runs
    runs.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = runs / (safe_name(name) + (f".{number}" if number > 1 else ""))
        with folder.with_name(f"{folder.name}.claim").open("a") as claim:
            if _lock(claim):
                yield folder
                return


def check_out(root: Path, folder: Path, commit: str, say: Say) -> None:
    """Make the folder a worktree at the commit, with the clone's cache; what git doesn't know in it stays.

    Only for who has claimed it. Processes that a killed run left in it are stopped first.
    """
    need_commit(root, commit)
    if stopped := stop_orphans(folder):
        say(f"Stopped {stopped} processes that a killed run had left in {folder}.")
    if is_worktree(folder):
        remove_parted(folder)
        for name in RESULTS:  # git would leave those that the commit doesn't hold
            (folder / name).unlink(missing_ok=True)
        Path(git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index.lock")).unlink(missing_ok=True)
        git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    else:
        remove(root, folder)
        git(root, "worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    share_cache(root, folder)
    Workspace.at(folder).belong_to(root)


def share_cache(root: Path, folder: Path) -> None:
    """Let DVC in the folder use the clone's cache, remotes and credentials."""
    from dvc.config import Config

    own = Config(dvc_dir=str(root / ".dvc"))
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(root / ".dvc/config.local", folder / ".dvc/config.local")
    with Config(dvc_dir=str(folder / ".dvc"), validate=False).edit("local") as local:
        local["cache"]["dir"] = own["cache"].get("dir") or str((root / ".dvc/cache").resolve())
        for name, remote in own["remote"].items():
            if Path(remote["url"]).is_absolute():  # a folder, which may have been given relative to the clone
                local["remote"].setdefault(name, {})["url"] = remote["url"]


def link_source(root: Path, folder: Path, uri: str) -> None:
    """Make a source that lies in the clone, but not in git, reachable under the same relative path in the folder."""
    here, there = folder / uri, root / uri
    if not Path(uri).is_absolute() and there.exists() and not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(there.resolve())


def remove(root: Path, folder: Path) -> None:
    """Remove the folder, whatever state it is in."""
    if folder.exists() and not succeeds(root, "worktree", "remove", "--force", str(folder)):
        shutil.rmtree(folder)
    git(root, "worktree", "prune")


def safe_name(name: str) -> str:
    """A name as part of a path and of a branch: letters, digits, dots, dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip(".-") or "run"


def _commit(run: Deployed, folder: Path, before: str | None) -> None:
    """One commit on the run's branch, or none if the run changed nothing.

    The branch is moved only from where it was when the run began: of two runs that overlap, which Prefect's limits
    don't allow, the second is told so.
    """
    git(folder, "add", "--force", "--", *(name for name in ("params.yaml", *RESULTS) if (folder / name).exists()))
    tree = git(folder, "write-tree")
    parents = _parents(run, before)
    if tree == git(folder, "rev-parse", f"{parents[0]}^{{tree}}") and len(parents) == 1:
        run.say(f"Nothing new: {run.branch} stays as it is.")
        return
    flags = [part for parent in parents for part in ("-p", parent)]
    commit = git(folder, "commit-tree", tree, *flags, "-m", f"Run {run.name}: {run.title}\n\nCode: {run.commit}")
    if not succeeds(run.root, "update-ref", f"refs/heads/{run.branch}", commit, before or NO_COMMIT):
        raise RunError(
            f"{run.branch} moved on while this run worked ({before} is no longer its tip), so its result is refused. "
            "What it computed is in DVC's cache: run again."
        )
    run.say(f"Committed {commit[:10]} on {run.branch}.")


def _parents(run: Deployed, before: str | None) -> list[str]:
    if before is None or is_ancestor(run.root, before, run.commit):
        return [run.commit]
    return [before] if is_ancestor(run.root, run.commit, before) else [before, run.commit]


@contextlib.contextmanager
def _noted(run: Deployed, folder: Path, before: str | None) -> Iterator[None]:
    """Keep a note in the folder of who works in it, and of how that ended if it didn't end well."""
    note: dict[str, Any] = {"title": run.title, "before": before, "ended": None}
    write_json(folder / _NOTE, note)
    try:
        yield
    except BaseException as error:
        ended = str(error).splitlines()[0] if isinstance(error, Exception) and str(error) else "it was stopped"
        write_json(folder / _NOTE, {**note, "ended": ended})
        run.say(f"{folder} keeps what is finished; the next run of {run.name} goes on from there.")
        raise


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        note: dict[str, Any] = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it was killed before it wrote one
        return {"title": "before"}
    return note


def _results_of(run: Deployed, before: str | None) -> dict[str, bytes | None]:
    """What the run before left, unless the deployed commit holds it, or something newer, already."""
    if before is None or is_ancestor(run.root, before, run.commit):
        return {}
    return {name: read_blob(run.root, before, name) for name in RESULTS}


def is_worktree(folder: Path) -> bool:
    return (folder / ".git").exists() and (
        succeeds(folder, "rev-parse", "--verify", "-q", "HEAD")
        and Path(git(folder, "rev-parse", "--show-toplevel")) == folder.resolve()
    )


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
