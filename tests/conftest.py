"""What many tests stand on: a workspace, small pictures of learnable classes, and an environment that leaks nothing.

Nothing here depends on what a person may have changed in the clone: tests/settings/params.yaml holds the settings of the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

from tasks.settings import Settings, change_settings, load_settings

PROJECT = Path(__file__).parents[1]
PARAMS = Path(__file__).with_name("settings") / "params.yaml"
_PERSONAL = ("AWS_", "CI", "DVC_", "GIT_", "KERAS_", "PREFECT", "PYTHON", "ROOTSTOCK_", "TFDS_", "XDG_")
"""How variables begin that a person's shell may have and no test may see."""
_BACKGROUND: dict[str, tempfile.TemporaryDirectory[str]] = {}
COLOURS = {"ant": (150, 60, 40), "bee": (60, 150, 40), "cat": (40, 60, 150)}


def pytest_configure() -> None:
    """Time is no verdict on a busy machine, and children react to Ctrl-C also where the tests run in the background."""
    _BACKGROUND["home"] = tempfile.TemporaryDirectory(prefix="rootstock-tests-", ignore_cleanup_errors=True)
    isolate_environment(Path(_BACKGROUND["home"].name))
    import prefect.main  # noqa: F401 - its logging closes the handlers there are; absl's would hold what pytest captures

    hypothesis.settings.register_profile(
        "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("project")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    _BACKGROUND.pop("home").cleanup()


def isolate_environment(home: Path) -> None:
    """No telemetry, no file of the user's home, no variable of the shell that started the tests, here and in children.

    Python caches bytecode also where the shell forbids it: children would compile TensorFlow again each time.
    """
    for name in list(os.environ):
        if name.startswith(_PERSONAL):
            del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": str(home / "aws/config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws/credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc/global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc/system"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc/site"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "KERAS_HOME": str(home / "keras"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with the tests' params.yaml and this project's dvc.yaml."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    for file in (PARAMS, PROJECT / "dvc.yaml"):
        shutil.copy(file, folder)
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
