"""The files of the version in production, for a server that follows the registry."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tasks.errors import PredictError, RootstockError
from tasks.files import atomic_folder
from tasks.runs.git import git
from tasks.runs.registry import Registry, fetch_registry, read_registry
from tasks.runs.run_context import Say
from tasks.runs.version_folders import version_folder
from tasks.workspace import EXPORT, Workspace

PRODUCTION = "production"
"""Instead of the folder of a model."""
_FETCH_S = 30.0


def model_folder(given: Path, workspace: Workspace, say: Say) -> Callable[[], Path]:
    """Gives the folder of the model that a person has named: the folder itself, or `production`."""
    return ProductionModel(workspace, say).folder if str(given) == PRODUCTION else lambda: given


class ProductionModel:
    """Gives the folder with the export of the version in production: a copy, so that nothing may remove it.

    Args:
        workspace: of a clone.
        say: tells a person a line.
    """

    def __init__(self, workspace: Workspace, say: Say) -> None:
        self._clone, self._served, self._say = workspace.clone, workspace.served_models, say
        self._fetched = float("-inf")

    def folder(self) -> Path:
        """The folder; another one after a promotion or a roll-back. Git's remote is asked twice a minute.

        Raises:
            PredictError: no version is in production.
            RootstockError: the version's files can't be had.
        """
        production = self._registry().production
        if production is None:
            raise PredictError("No version is in production. Promote one: python -m tasks.registry promote VERSION")
        folder = self._served / production.commit
        if not folder.exists():
            with (
                version_folder(self._clone, production.commit, (EXPORT,), self._say) as version,
                atomic_folder(folder) as copy,
            ):
                shutil.copytree(version.export, copy, dirs_exist_ok=True)
            self._remove_old(folder)
        return folder

    def _registry(self) -> Registry:
        if time.monotonic() - self._fetched > _FETCH_S:
            self._fetched = time.monotonic()
            remotes = git(self._clone, "remote").split()
            with contextlib.suppress(RootstockError):  # what is known here counts until the remote answers again
                return fetch_registry(self._clone, remotes[0] if remotes else None, self._say)
        return read_registry(self._clone)

    def _remove_old(self, folder: Path) -> None:
        """Remove all but this folder and the one before it, which may still answer."""
        others = sorted((one for one in self._served.iterdir() if one != folder), key=lambda one: one.stat().st_mtime)
        for old in others[:-1]:
            shutil.rmtree(old, ignore_errors=True)
