"""What a stage needs of other stages, what it has made, and where it is: in the workspace, the cache or the remote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.runs.dvc_state.changes import can_be_had, has_to_run
from tasks.runs.dvc_state.dependencies import find_dependencies
from tasks.runs.dvc_state.repository import find_stage, open_repository
from tasks.workspace import Workspace


@dataclass(frozen=True)
class StageNeeds:
    """What a stage needs before it can run in a deployed run's own folder.

    Attributes:
        has_to_run: it has to run, as far as can be told.
        undecided: that can be told only when what is missing is there: several stages fill a folder that it reads.
        cached: what it reads of other stages, or keeps from run to run, that isn't in the workspace, but in the cache.
        remote: the same, for what isn't in the cache either.
        partial: outputs of other stages of which it reads, and lacks, only a part.
    """

    has_to_run: bool
    undecided: bool
    cached: list[str]
    remote: list[str]
    partial: list[str]


def read_needs(workspace: Workspace, name: str) -> StageNeeds:
    """Whether the stage `name` has to run in a deployed run's own folder, and what is to be brought for it."""
    with open_repository(workspace) as repository:
        stage = find_stage(repository, name)
        single, gathered = find_dependencies(repository, stage)
        kept = [out for out in stage.outs if out.persist and out.hash_info and not out.exists]
        lacking = [one for one in [*single, *gathered] if one.is_lacking()]
        wanted = {one.path: one.out for one in lacking}
        wanted |= {out.def_path: out for out in kept if can_be_had(repository, out)}
        return StageNeeds(
            has_to_run=has_to_run(repository, stage),
            undecided=any(not one.out.exists for one in gathered),
            cached=[path for path, out in wanted.items() if not out.changed_cache()],
            remote=[path for path, out in wanted.items() if out.changed_cache()],
            partial=[one.out.def_path for one in lacking if one.is_part],
        )


def list_outputs(workspace: Workspace, name: str) -> list[str]:
    """What a stage has written and keeps, as far as dvc.lock names it and the cache holds it."""
    with open_repository(workspace) as repository:
        outs = find_stage(repository, name).outs
        return [out.def_path for out in outs if out.use_cache and out.hash_info and not out.changed_cache()]


def list_inputs(workspace: Workspace, name: str) -> list[str]:
    """What a stage reads of other stages, and what it kept the last time, as far as the cache holds it."""
    with open_repository(workspace) as repository:
        stage = find_stage(repository, name)
        single, gathered = find_dependencies(repository, stage)
        wanted = [one.out for one in [*single, *gathered]]
        wanted += [out for out in stage.outs if out.persist and out.hash_info]
        return list(dict.fromkeys(out.def_path for out in wanted if not out.changed_cache()))


def fetch_output(workspace: Workspace, path: str, folder: Path) -> bool:
    """Write a file of a stage's output, as dvc.lock knows it, into `folder`, from DVC's cache or remote.

    Args:
        workspace: with dvc.lock; the output itself needn't be there, nor need the folder be DVC's.
        path: of the file, relative to the workspace.
        folder: where it goes, under its own name.

    Returns:
        Whether it could be had.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(workspace.folder)) as repository:
            repository.dvcfs.get_file(f"/{path}", str(folder / Path(path).name))
    except (OSError, NotDvcRepoError):
        return False
    return True
