"""Whether a stage has to run, and why. Only this module decides it. It runs nothing and writes nothing.

A missing file counts as unchanged as long as dvc.lock names it and DVC can restore it: the folder of a deployed run
(tasks/runs/worktrees.py) has no outputs until a stage needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.runs.dvc_state.dependencies import find_dependencies, find_makers
from tasks.runs.dvc_state.repository import find_stage, open_repository
from tasks.workspace import Workspace

_MISSING = ("deleted", "not in cache")


@dataclass(frozen=True)
class StageChanges:
    """One stage of the graph.

    Attributes:
        stage: its name, such as `prepare` or `train@fine_tuning`.
        after: the stages whose outputs it reads.
        always: DVC runs it each time, because its source is outside of the workspace.
        new: it has never run, so dvc.lock has no entry for it.
        reasons: the changes since its last run, in its inputs too. Empty if it is up to date.
        output_mb: size of its last outputs, MB; None if dvc.lock doesn't hold it.
        is_whole: all that it reads and writes is here, as dvc.lock names it. Then `dvc repro` runs it only if `always`.
    """

    stage: str
    after: tuple[str, ...]
    always: bool
    new: bool
    reasons: tuple[str, ...]
    output_mb: float | None
    is_whole: bool


def read_changes(workspace: Workspace) -> list[StageChanges]:
    """All stages of dvc.yaml, each after the stages whose outputs it reads."""
    with open_repository(workspace) as repository:
        found = {stage.name: _describe(repository, stage) for stage in repository.index.stages}
    return list(_sorted(found))


def is_up_to_date(workspace: Workspace) -> bool:
    """Whether no stage has to run. Stages with a source outside of the workspace don't count: only a run can tell."""
    if workspace.attempts.exists():
        return False  # outputs from another machine may not be gathered yet
    with open_repository(workspace) as repository:
        stages = [stage for stage in repository.index.stages if not _is_always_run(stage)]
        return not any(has_to_run(repository, stage) for stage in stages)


def would_skip(workspace: Workspace, name: str) -> bool:
    """Whether `dvc repro --single-item` would run nothing.

    Raises:
        RunError: there is no such stage.
    """
    with open_repository(workspace) as repository:
        stage = find_stage(repository, name)
        return not _is_always_run(stage) and _is_whole(stage)


def has_to_run(repository: Any, stage: Any) -> bool:
    return _is_always_run(stage) or bool(find_reasons(repository, stage))


def find_reasons(repository: Any, stage: Any) -> tuple[str, ...]:
    """Why a stage has to run, in words; includes every reason that DVC itself finds."""
    if _is_new(stage):
        return ("it has never run",)
    changed, missing = [], []
    for dep in stage.deps:
        for verdict in dep.status().values():
            if isinstance(verdict, Mapping):
                changed += _changed_settings(dep, verdict)
            elif verdict != "deleted":
                changed.append(dep.def_path)
            elif not (dep.hash_info and find_makers(repository, dep)):
                missing.append(dep.def_path)
    # Files that are only in dvc.lock here: another run or machine has written them.
    single, _ = find_dependencies(repository, stage)
    changed += [one.dep.def_path for one in single if not one.dep.exists and one.hash_info() != one.dep.hash_info]
    for out in stage.outs:
        if any(verdict not in _MISSING for verdict in out.status().values()):
            changed.append(out.def_path)
        elif not out.exists and not (out.hash_info and can_be_had(repository, out)):
            missing.append(out.def_path)
    named = {"changed": dict.fromkeys(changed), "missing": dict.fromkeys(missing)}
    told = [f"{word}: {', '.join(names)}" for word, names in named.items() if names]
    return (*(["its command changed"] if stage.changed_stage() else []), *told)


def can_be_had(repository: Any, out: Any) -> bool:
    """Whether an output is here, in the cache, or perhaps on a remote (a check would need a connection)."""
    return bool(repository.config["core"].get("remote") or out.exists or not out.changed_cache())


def _describe(repository: Any, stage: Any) -> StageChanges:
    sizes = [out.meta.size for out in stage.outs if out.use_cache]
    makers = dict.fromkeys(name for dep in stage.deps for name in find_makers(repository, dep))
    return StageChanges(
        stage=stage.name,
        after=tuple(makers),
        always=_is_always_run(stage),
        new=_is_new(stage),
        reasons=find_reasons(repository, stage),
        output_mb=None if None in sizes or _is_new(stage) else sum(sizes) / 1e6,
        is_whole=_is_whole(stage),
    )


def _is_whole(stage: Any) -> bool:
    """DVC's own verdict, for which a missing file is a change."""
    return not (stage.changed_stage() or any(one.status() for one in (*stage.deps, *stage.outs)))


def _is_always_run(stage: Any) -> bool:
    return bool(stage.always_changed or stage.is_callback)


def _is_new(stage: Any) -> bool:
    made = [out for out in stage.outs if out.use_cache]
    return bool(made) and not any(out.hash_info for out in made)


def _changed_settings(dep: Any, verdict: Mapping[str, str]) -> list[str]:
    before, now = dep.hash_info.value or {}, dep.read_params(flatten=False)
    return [key for name in verdict for key in _changed_keys(name, _get(before, name), _get(now, name))]


def _changed_keys(name: str, old: Any, new: Any) -> list[str]:
    """The settings below `name` that differ, such as `train.recipe`; `name` itself if it is a single setting."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [name]
    keys = [key for key in {**new, **old} if key not in old or key not in new or old[key] != new[key]]
    return [inner for key in keys for inner in _changed_keys(f"{name}.{key}", old.get(key), new.get(key))]


def _get(values: Mapping[str, Any], name: str) -> Any:
    """The value of `a.b` in {"a.b": 1} or {"a": {"b": 1}}."""
    if name in values:
        return values[name]
    first, _, rest = name.partition(".")
    return _get(values[first], rest) if rest and isinstance(values.get(first), Mapping) else None


def _sorted(found: Mapping[str, StageChanges]) -> Iterator[StageChanges]:
    """The stages in the order of dvc.yaml, but each after the stages whose outputs it reads."""
    left = dict(found)
    while left:
        ready = next(name for name, one in left.items() if not left.keys() & set(one.after))
        yield left.pop(ready)
