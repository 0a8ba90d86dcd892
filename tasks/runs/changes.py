"""What DVC finds changed in a workspace, stage by stage and in words; nothing is run and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StageChanges:
    """One stage of the graph.

    Attributes:
        stage: its name, such as `prepare` or `train@fine_tuning`.
        after: the stages whose outputs it reads.
        always: DVC runs it each time, because what it reads lies outside.
        new: it has never run: dvc.lock doesn't know it.
        reasons: what of its own changed since it ran; outputs of other stages included. Empty: it is up to date.
        output_mb: size of what it wrote the last time, MB; None if dvc.lock doesn't tell.
    """

    stage: str
    after: tuple[str, ...]
    always: bool
    new: bool
    reasons: tuple[str, ...]
    output_mb: float | None


def read_changes(workspace: Path) -> list[StageChanges]:
    """All stages of `workspace`/dvc.yaml, each after those whose outputs it reads.

    Outputs that are missing but that dvc.lock names count as unchanged: DVC fetches them when they are needed.
    """
    from dvc.repo import Repo, lock_repo  # takes a second

    with Repo(str(workspace), _wait_for_lock=True) as repository, lock_repo(repository):
        makers = {out.fs_path: stage.name for stage in repository.index.stages for out in stage.outs}
        found = {stage.name: _look(stage, makers) for stage in repository.index.stages}
    return list(_sorted(found))


def fetch_output(workspace: Path, path: str, folder: Path) -> bool:
    """Write a file of a stage's output, as dvc.lock knows it, into `folder`, from DVC's cache or remote.

    Args:
        workspace: folder with dvc.lock; the output itself needn't be there, nor need it be DVC's.
        path: of the file, relative to the workspace.
        folder: where it goes, under its own name.

    Returns:
        Whether it could be had.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(workspace)) as repository:
            repository.dvcfs.get_file(f"/{path}", str(folder / Path(path).name))
    except (OSError, NotDvcRepoError):
        return False
    return True


def _look(stage: Any, makers: Mapping[str, str]) -> StageChanges:
    made = [out for out in stage.outs if out.use_cache]
    new = bool(made) and not any(out.hash_info for out in made)
    sizes = [out.meta.size for out in made]
    return StageChanges(
        stage=stage.name,
        after=tuple(dict.fromkeys(name for dep in stage.deps for name in _makers_of(dep, makers))),
        always=stage.always_changed,
        new=new,
        reasons=("it has never run",) if new else tuple(dict.fromkeys(_reasons(stage, makers))),
        output_mb=None if None in sizes or new else sum(sizes) / 1e6,
    )


def _makers_of(dep: Any, makers: Mapping[str, str]) -> list[str]:
    """The stages that write what a dependency names, something in it, or the folder that it is in."""
    path = Path(dep.fs_path)
    return [name for out, name in makers.items() if path.is_relative_to(out) or Path(out).is_relative_to(path)]


def _reasons(stage: Any, makers: Mapping[str, str]) -> Iterator[str]:
    if stage.cmd_changed:
        yield "its command changed"
    changed, missing = [], []
    for dep in stage.deps:
        for verdict in dep.status().values():
            if isinstance(verdict, Mapping):
                changed += _changed_settings(dep, verdict)
            elif verdict != "deleted":
                changed.append(dep.def_path)
            elif not (_makers_of(dep, makers) and dep.hash_info):
                missing.append(dep.def_path)
    changed += [out.def_path for out in stage.outs if "modified" in out.status().values()]
    missing += [out.def_path for out in stage.outs if not out.hash_info and not out.exists]
    for word, names in (("changed", changed), ("missing", missing)):
        if names:
            yield f"{word}: {', '.join(dict.fromkeys(names))}"


def _changed_settings(dep: Any, verdict: Mapping[str, str]) -> list[str]:
    before, now = dep.hash_info.value or {}, dep.read_params(flatten=False)
    return [key for name in verdict for key in _changed_keys(name, before, now)]


def _changed_keys(name: str, before: Any, now: Any) -> Iterator[str]:
    """The settings below `name` that differ, such as `train.recipe`."""
    old, new = (_get(values, name) for values in (before, now))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                yield from (f"{name}.{inner}" for inner in _changed_keys(key, old, new))
    else:
        yield name


def _get(values: Mapping[str, Any], name: str) -> Any:
    """Of {"a.b": 1} or {"a": {"b": 1}} the value of `a.b`."""
    if name in values:
        return values[name]
    first, _, rest = name.partition(".")
    return _get(values[first], rest) if rest and isinstance(values.get(first), Mapping) else None


def _sorted(found: Mapping[str, StageChanges]) -> Iterator[StageChanges]:
    """Every stage after those that it reads from; otherwise in the order of dvc.yaml."""
    left = dict(found)
    while left:
        ready = next(name for name, one in left.items() if not left.keys() & set(one.after))
        yield left.pop(ready)
