"""Where a run works, and as what: in a person's folder, or as a deployed run in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.workspace import Workspace

Say = Callable[[str], None]


@dataclass(frozen=True)
class DeployedRun:
    """A run of a deployment.

    Attributes:
        clone: that it belongs to.
        name: of its deployment; its branch is `runs/<name>`.
        commit: the code that it runs.
        title: of the run itself, for the log and the commit.
        say: gets what a person should know, one line each.
    """

    clone: Path
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
        deployed: the run whose own folder it is; None in a person's folder.
    """

    workspace: Workspace
    deployed: DeployedRun | None = None

    def link_source(self, uri: str) -> None:
        """Make a source in the clone, but not in git, reachable under the same relative path in the run's folder."""
        here, there = self.workspace.folder / uri, self.workspace.clone / uri
        if not Path(uri).is_absolute() and there.exists() and not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(there.resolve())


def safe_name(name: str) -> str:
    """A name as part of a path and of a branch: letters, digits, dots, dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip(".-") or "run"
