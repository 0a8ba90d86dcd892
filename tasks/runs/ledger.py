"""What DVC knows of a workspace: which stages would run, what they need, and the entries of dvc.lock.

In a run's own folder (tasks/runs/worktrees.py) outputs are missing until a stage needs them. There, missing counts as
unchanged as long as dvc.lock names the output and it can be had: from the cache, or from a remote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import RunError
from tasks.files import write_bytes

LOCK_FILE = "dvc.lock"
_ATTEMPTS = ".rootstock/attempts"

Entry = dict[str, Any]


@dataclass(frozen=True)
class Outlook:
    """What would happen to a stage now.

    Attributes:
        would_run: DVC says that it has to run.
        undecided: DVC can say it only when what is missing is there: several stages fill a folder that it reads.
        cached: what it reads of other stages, or keeps from run to run, that isn't in the workspace, but in the cache.
        remote: the same, for what isn't in the cache either.
        parted: outputs of other stages of which it reads, and lacks, only a part.
    """

    would_run: bool
    undecided: bool
    cached: list[str]
    remote: list[str]
    parted: list[str]


def outlook(workspace: Path, name: str) -> Outlook:
    """See `Outlook`.

    Args:
        workspace: a run's own folder.
        name: a stage of its dvc.yaml.
    """
    with _repository(workspace) as repository:
        stage = _find(repository, name)
        read, gathered = _read_by(repository, stage)
        kept = [out for out in stage.outs if out.persist and out.hash_info and not out.exists]
        lacking = [one for one in [*read, *gathered] if one.is_lacking()]
        wanted = {one.path: one.out for one in lacking}
        wanted |= {out.def_path: out for out in kept if _can_be_had(repository, out)}
        return Outlook(
            would_run=_would_run(repository, stage),
            undecided=any(not one.out.exists for one in gathered),
            cached=[path for path, out in wanted.items() if not out.changed_cache()],
            remote=[path for path, out in wanted.items() if out.changed_cache()],
            parted=[one.out.def_path for one in lacking if one.is_part],
        )


def drop_damaged(workspace: Path, name: str) -> list[str]:
    """Remove from the cache what a stage would be given and isn't the bytes of its hash; gives the outputs' paths.

    DVC itself believes what is read-only in its cache, as all of it is, and would go on with wrong bytes.
    """
    with _repository(workspace) as repository:
        stage = _find(repository, name)
        read, gathered = _read_by(repository, stage)
        wanted = [(one.path, one.out, one.dep if one.is_part else one.out) for one in [*read, *gathered]]
        wanted += [(out.def_path, out, out) for out in stage.outs if out.persist and out.hash_info]
        lacking = {path: (out, part) for path, out, part in wanted if not part.exists and not out.changed_cache()}
        return [path for path, (out, part) in lacking.items() if _drop_damaged(out, part.fs_path)]


def is_up_to_date(workspace: Path) -> bool:
    """Whether no stage of a run's own folder would run, those aside whose source lies outside: only running tells."""
    if (workspace / _ATTEMPTS).exists():
        return False  # made elsewhere: what gathers it hasn't seen it
    with _repository(workspace) as repository:
        stages = [stage for stage in repository.index.graph if not stage.always_changed]
        return not any(_would_run(repository, stage) for stage in stages)


def outputs(workspace: Path, name: str) -> list[str]:
    """What a stage has written and keeps, as far as dvc.lock names it."""
    with _repository(workspace) as repository:
        stage = _find(repository, name)
        return [out.def_path for out in stage.outs if out.use_cache and out.hash_info and not out.changed_cache()]


def inputs(workspace: Path, name: str) -> list[str]:
    """What a stage reads of other stages, as far as it is in the cache, and what it kept the last time."""
    with _repository(workspace) as repository:
        stage = _find(repository, name)
        read, gathered = _read_by(repository, stage)
        wanted = [one.out for one in [*read, *gathered]] + [o for o in stage.outs if o.persist and o.hash_info]
        return list(dict.fromkeys(out.def_path for out in wanted if not out.changed_cache()))


def read_entry(workspace: Path, stage: str) -> Entry:
    """A stage's entry in dvc.lock, as plain values; read as DVC reads it: `1e-05` is a number, to PyYAML it isn't.

    Raises:
        RunError: there is none.
    """
    from dvc.utils.serialize import load_yaml

    path = workspace / LOCK_FILE
    stages = (load_yaml(str(path)) if path.exists() else {}).get("stages", {})
    if stage not in stages:
        raise RunError(f"{path} has no entry for {stage}: the stage hasn't run there.")
    return dict(stages[stage])


def begin_attempt(workspace: Path, stage: str, token: str) -> None:
    """From now on, only the result that carries this token is taken for the stage."""
    write_bytes(workspace / _ATTEMPTS / stage, token.encode())


def merge_entry(workspace: Path, stage: str, entry: Entry, token: str) -> None:
    """Put what an attempt elsewhere returned into dvc.lock, by DVC's own serializer and under DVC's lock.

    Raises:
        RunError: the attempt was given up meanwhile, or the result is of other inputs than those that are here;
            dvc.lock is then as it was.
    """
    from dvc.utils.serialize import modify_yaml

    path = workspace / LOCK_FILE
    with _repository(workspace) as repository:
        current = (workspace / _ATTEMPTS / stage).read_text(encoding="utf-8")
        if token != current:
            raise RunError(
                f"A late result for stage {stage} is refused: it comes from attempt {token}, which was given up; "
                f"the current attempt is {current}."
            )
        before = path.read_bytes()
        with modify_yaml(str(path)) as lock:
            lock["stages"][stage] = json.loads(json.dumps(entry))
        repository._reset()  # it has read the old file
        merged = _find(repository, stage)
        for out in merged.outs:
            if out.exists and out.changed_checksum():
                out.remove()  # the version before
        if _changed(repository, merged):
            write_bytes(path, before)
            raise RunError(
                f"The result for stage {stage} doesn't fit: DVC would run the stage again with it. The worker has "
                "another commit, other settings or other inputs. Deploy again (prefect deploy --all) and run again."
            )


def _find(repository: Any, name: str) -> Any:
    """DVC's own look-up goes by the current folder."""
    stages = {stage.name: stage for stage in repository.index.graph}
    if name not in stages:
        raise RunError(f"{repository.root_dir}/dvc.yaml has no stage {name}. It has: {', '.join(stages)}")
    return stages[name]


def _drop_damaged(out: Any, path: str) -> bool:
    """Remove the objects of an output, or of a part of it, that don't have their hash; tells whether there were any."""
    content = out.get_obj(filter_info=path) if out.is_dir_checksum else out.get_obj()
    names = {content.hash_info.value} if content else set()
    names |= {hash_info.value for _, _, hash_info in content} if content and content.hash_info.isdir else set()
    damaged = [
        file for file in map(Path, map(out.cache.oid_to_path, names)) if file.exists() and not _is_named_well(file)
    ]
    for file in damaged:
        file.unlink()
    return bool(damaged)


def _is_named_well(file: Path) -> bool:
    """Whether a file of the cache is what its name says, which is its MD5."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, _md5).hexdigest() == f"{file.parent.name}{file.name}".removesuffix(".dir")


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _would_run(repository: Any, stage: Any) -> bool:
    return _changed(repository, stage) or not all(_can_be_had(repository, out) for out in stage.outs)


def _changed(repository: Any, stage: Any) -> bool:
    """DVC's own word; what is missing counts as unchanged, unless dvc.lock tells otherwise."""
    if stage.changed(True, list(repository.index.graph.successors(stage))):
        return True
    read, _ = _read_by(repository, stage)
    return any(one.hash_info() != one.dep.hash_info for one in read if one.is_part and not one.dep.exists)


def _can_be_had(repository: Any, out: Any) -> bool:
    """Whether an output is here, in the cache, or perhaps on a remote (asking would cost a connection)."""
    return bool(repository.config["core"].get("remote") or out.exists or not out.changed_cache())


@dataclass(frozen=True)
class _Read:
    """What a stage reads of one output: all of it, or only what lies at the dependency's path."""

    dep: Any
    out: Any

    @property
    def is_part(self) -> bool:
        return Path(self.out.fs_path) in Path(self.dep.fs_path).parents

    @property
    def path(self) -> str:
        return str(self.dep.def_path if self.is_part else self.out.def_path)

    def hash_info(self) -> Any:
        """The hash that dvc.lock gives it; of a part None if it isn't there or its folder's listing can't be had."""
        if not self.is_part:
            return self.out.hash_info
        if self.out.get_dir_cache() is None:  # asks the remote for the listing if need be, not for the files
            return None
        part = self.out.get_obj(filter_info=self.dep.fs_path)
        return part and part.hash_info

    def is_lacking(self) -> bool:
        if not self.is_part:
            return bool(not self.out.exists or self.out.changed_checksum())
        return bool(not self.dep.exists or self.dep.get_hash() != self.hash_info())


def _read_by(repository: Any, stage: Any) -> tuple[list[_Read], list[_Read]]:
    """The outputs that a stage reads, whole or a part of each; and those that it reads as parts of a folder."""
    made = [out for other in repository.index.graph for out in other.outs if out.hash_info]
    single, gathered = [], []
    for dep in stage.deps:
        path = Path(dep.fs_path)
        single += [_Read(dep, out) for out in made if Path(out.fs_path) in (path, *path.parents)]
        gathered += [_Read(dep, out) for out in made if path in Path(out.fs_path).parents]
    return single, gathered


@contextmanager
def _repository(workspace: Path) -> Iterator[Any]:
    """DVC's view of the workspace, locked against every other `dvc`; waits for it."""
    from dvc.repo import Repo, lock_repo  # takes a second

    with Repo(str(workspace), _wait_for_lock=True) as repository, lock_repo(repository):
        yield repository
