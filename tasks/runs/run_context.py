"""The context of a run: it works in a person's folder, or it is a deployed run in its own folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runs.outages import Outages
from tasks.runs.warm_dvc import WarmDvc
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.head_start import HeadStart

Say = Callable[[str], None]


@dataclass(frozen=True)
class DeployedRun:
    """A run of a deployment.

    Attributes:
        clone: the clone that it belongs to.
        name: name of its deployment; its branch is `runs/<name>`.
        commit: the commit whose code it runs.
        title: title of the run, for the log and the commit.
        say: logs a line for people.
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
    """The folder of a run, and the deployed run.

    Attributes:
        workspace: the folder in which the run works.
        deployed: the deployed run that owns the folder; None in a person's folder.
        outages: what the run has waited for; its stages share the time that it may wait.
        head_start: its stages that began before its flow.
        warm: forks the processes of DVC.
    """

    workspace: Workspace
    deployed: DeployedRun | None = None
    outages: Outages = field(default_factory=Outages)
    head_start: HeadStart | None = None
    warm: WarmDvc | None = None


def safe_name(name: str) -> str:
    """The name for use in a path and in a branch: letters, digits, single dots, dashes, underscores.

    Different names stay different: a name that had to be changed ends in some digits of its digest.
    """
    safe = re.sub(r"\.lock$", "-lock", re.sub(r"[^\w.-]+|\.\.+", "-", name, flags=re.ASCII).strip(".-") or "run")
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
