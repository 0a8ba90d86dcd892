"""The inputs and outputs of a stage, and where they are: in the workspace, in the cache or on the remote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.runs.dvc_state.changes import can_be_had, has_to_run
from tasks.runs.dvc_state.dependencies import find_dependencies
from tasks.runs.dvc_state.repository import find_stage, open_repository
from tasks.workspace import Workspace


@dataclass(frozen=True)
class StageNeeds:
    """What a stage needs before it can run in the folder of a deployed run.

    Attributes:
        has_to_run: the stage has to run, as far as is known.
        undecided: `has_to_run` is known only after the missing files are fetched, because several stages fill a folder
            that this stage reads.
        cached: inputs, and outputs that the stage keeps from run to run, that are in the cache but not here.
        remote: the same kinds of files, but neither here nor in the cache.
        partial: outputs of other stages of which the stage reads only a part, and that part is missing.
    """

    has_to_run: bool
    undecided: bool
    cached: list[str]
    remote: list[str]
    partial: list[str]


def read_needs(workspace: Workspace, name: str) -> StageNeeds:
    """Whether the stage `name` has to run in the folder of a deployed run, and which files it needs."""
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


def remove_other_versions(workspace: Workspace) -> None:
    """Remove the outputs whose version isn't the one in dvc.lock; the stages fetch that one if they need it."""
    with open_repository(workspace) as repository:
        for out in (out for stage in repository.index.stages for out in stage.outs if out.use_cache):
            if out.exists and (not out.hash_info or out.changed_checksum()):
                out.remove()


def list_outputs(workspace: Workspace, name: str) -> list[str]:
    """The outputs of a stage that dvc.lock names and the cache holds."""
    with open_repository(workspace) as repository:
        outs = find_stage(repository, name).outs
        return [out.def_path for out in outs if out.use_cache and out.hash_info and not out.changed_cache()]


def list_inputs(workspace: Workspace, name: str) -> list[str]:
    """The outputs of other stages that a stage reads, and those that it keeps itself, if the cache holds them."""
    with open_repository(workspace) as repository:
        stage = find_stage(repository, name)
        single, gathered = find_dependencies(repository, stage)
        wanted = [one.out for one in [*single, *gathered]]
        wanted += [out for out in stage.outs if out.persist and out.hash_info]
        return list(dict.fromkeys(out.def_path for out in wanted if not out.changed_cache()))


def fetch_output(workspace: Workspace, path: str, folder: Path) -> bool:
    """Copy one file of a stage's output, in the version of dvc.lock, from DVC's cache or remote into `folder`.

    Args:
        workspace: with dvc.lock; the output itself may be missing, and so may DVC's own folder.
        path: of the file, relative to the workspace.
        folder: the folder for the copy, which keeps its name.

    Returns:
        Whether the file was found.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(workspace.folder)) as repository:
            repository.dvcfs.get_file(f"/{path}", str(folder / Path(path).name))
    except (OSError, NotDvcRepoError):
        return False
    return True
