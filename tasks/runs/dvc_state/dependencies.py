"""Which outputs of other stages a stage reads: a whole output, a part of it, or a folder of several outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Dependency:
    """An output that a stage reads: all of it, or only the part at the dependency's path.

    Attributes:
        dep: DVC's dependency of the stage.
        out: DVC's output of the other stage.
    """

    dep: Any
    out: Any

    @property
    def is_part(self) -> bool:
        return Path(self.out.fs_path) in Path(self.dep.fs_path).parents

    @property
    def path(self) -> str:
        return str(self.dep.def_path if self.is_part else self.out.def_path)

    def hash_info(self) -> Any:
        """The hash in dvc.lock; None if the part doesn't exist, or if the listing of its folder can't be fetched."""
        if not self.is_part:
            return self.out.hash_info
        if self.out.get_dir_cache() is None:  # fetches the listing from the remote if needed, but not the files
            return None
        part = self.out.get_obj(filter_info=self.dep.fs_path)
        return part and part.hash_info

    def is_lacking(self) -> bool:
        """Whether the workspace lacks the version in dvc.lock."""
        if not self.is_part:
            return bool(not self.out.exists or self.out.changed_checksum())
        return bool(not self.dep.exists or self.dep.get_hash() != self.hash_info())


def find_dependencies(repository: Any, stage: Any) -> tuple[list[Dependency], list[Dependency]]:
    """The outputs that a stage reads, whole or in part; and the outputs in folders that it reads."""
    made = [out for other in repository.index.stages for out in other.outs if out.hash_info]
    single, gathered = [], []
    for dep in stage.deps:
        path = Path(dep.fs_path)
        single += [Dependency(dep, out) for out in made if Path(out.fs_path) in (path, *path.parents)]
        gathered += [Dependency(dep, out) for out in made if path in Path(out.fs_path).parents]
    return single, gathered


def find_makers(repository: Any, dep: Any) -> list[str]:
    """The stages that write the path of a dependency, something below it, or a folder above it."""
    path = Path(dep.fs_path)
    return [
        stage.name
        for stage in repository.index.stages
        for out in map(Path, (out.fs_path for out in stage.outs))
        if path.is_relative_to(out) or out.is_relative_to(path)
    ]
