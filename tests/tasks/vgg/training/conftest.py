"""A workspace with features of a miniature VGG for all strategies, and processes that train in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import features
from tasks.params import load_settings
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.conftest import changing, fill_source, new_workspace
from tests.tasks.fork_server import ForkServer
from tests.tasks.steps import run_prepare, settings_for
from tests.tasks.vgg.training.miniature import (
    QUICK,
    STRATEGIES,
    Uninterrupted,
    forking_trainings,
    model,
    run_training,
    use_tiny_weights,
)


def _prepare(folder: Path) -> None:
    workspace = new_workspace(folder)
    assignments = (*QUICK, f"strategies=[feature_extraction, {', '.join(STRATEGIES)}]")
    settings = settings_for(changing(workspace), fill_source(folder / "source", 20), *assignments)
    run_prepare(settings, workspace)
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_weights(patch.setattr)
        features.run(settings, Workspace.at(workspace))


@pytest.fixture
def tiny(
    made_once: Callable[[str, Callable[[Path], None]], Path], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Makes the workspace a copy of the prepared one."""
    prepared = made_once("miniature", _prepare) / "workspace"
    use_tiny_weights(monkeypatch.setattr)
    shutil.copytree(prepared, workspace, dirs_exist_ok=True)
    return load_settings(workspace)


@pytest.fixture(scope="module")
def trainings() -> Iterator[ForkServer]:
    """Starts trainings in no time."""
    with forking_trainings() as server:
        yield server


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Gives the model that a process of its own, which nothing interrupts, trains in a copy of the workspace."""
    known: dict[tuple[bytes, str], dict[str, bytes]] = {}

    def train_once(workspace: Path, strategy: str) -> dict[str, bytes]:
        asked = ((workspace / "params.yaml").read_bytes(), strategy)
        if asked not in known:
            whole = tmp_path_factory.mktemp("whole") / "workspace"
            shutil.copytree(workspace, whole)
            ended = run_training(whole, strategy)
            assert ended.returncode == 0, ended.stderr
            assert "Going on" not in ended.stdout
            known[asked] = model(whole, strategy)
        return known[asked]

    return train_once
