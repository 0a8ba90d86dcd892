"""What many tests stand on: a workspace, small pictures of learnable classes, and an environment that leaks nothing."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import prefect.main  # noqa: F401 - its logging closes the handlers there are; absl's would hold what pytest captures
import pytest
from PIL import Image

from tasks.settings import Settings, change_settings, load_settings

PROJECT = Path(__file__).parents[1]
COLOURS = {"ant": (150, 60, 40), "bee": (60, 150, 40), "cat": (40, 60, 150)}


def pytest_configure() -> None:
    """Time is no verdict on a busy machine, and children react to Ctrl-C also where the tests run in the background."""
    hypothesis.settings.register_profile(
        "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("project")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No telemetry, no file of the user's home, no variable of the shell that started the tests."""
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))
    for name in ("ROOTSTOCK_VGG16_WEIGHTS", "ROOTSTOCK_PROGRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with this project's params.yaml and dvc.yaml."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture
def change(workspace: Path) -> Callable[..., Settings]:
    """Writes `block.key=value` settings into the workspace's params.yaml; gives all settings."""

    def changed(*assignments: str) -> Settings:
        return change_settings(workspace, assignments) if assignments else load_settings(workspace)

    return changed


def draw_picture(label: str, number: int, side_px: int = 32) -> Image.Image:
    """Noise around the colour of the class; the same for the same number."""
    rng = np.random.default_rng([number, *label.encode()])
    noise = rng.integers(-40, 41, (side_px, side_px, 3))
    return Image.fromarray((np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8))


def save_picture(path: Path, label: str, number: int, side_px: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_picture(label, number, side_px).save(path)
    return path


def fill_source(root: Path, a_class: int = 12, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """Class folders with PNG and JPEG pictures, `<class>/<number>.png|jpg`."""
    for label in classes:
        for number in range(a_class):
            save_picture(root / label / f"{number:03d}.{'png' if number % 2 else 'jpg'}", label, number)
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """24 pictures in two class folders."""
    return fill_source(tmp_path / "source")


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
