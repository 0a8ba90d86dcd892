"""Shared by many tests: a workspace, small images of learnable classes, and an isolated environment.

Nothing here depends on what a person may have changed in the clone: the tests' own settings are in
tests/settings/params.yaml.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

from tasks.params import change_settings, load_settings, parse_changes
from tasks.settings import Settings

PROJECT = Path(__file__).parents[1]
PARAMS = Path(__file__).with_name("settings") / "params.yaml"
LONGEST_FIRST = (
    "flows/test_remote_stages.py",
    "flows/test_deployed.py",
    "flows/test_pipeline.py",
    "flows/test_make_run.py",
    "flows/test_artifacts.py",
    "tasks/vgg/training/test_trainings.py",
    "flows/test_alerts.py",
    "tasks/test_export.py",
    "tasks/test_train.py",
    "tasks/test_features.py",
)
"""Modules that take longest: begun last, one of them would keep a single worker busy at the end."""
_PERSONAL = re.compile(
    "(AWS|CI|DVC|GIT|KERAS|MAKE|PREFECT|PYTHON|RAY|ROOTSTOCK|TFDS|XDG)|"
    "(ALL_PROXY|DATA|DRY|FLAVOUR|FORCE_COLOR|HTTPS?_PROXY|MFLAGS|MODEL|NO_COLOR|POOL|PORT|PYTEST_ADDOPTS|REMOTE|SET|SOURCE|STRATEGY|TESTS|URL)$"
)
"""Variables that a person's shell, or make, may have and no test may see: by their beginnings, then by their names."""
_BACKGROUND: dict[str, tempfile.TemporaryDirectory[str]] = {}
_BEGAN = pytest.StashKey[float]()
COLOURS = {"ant": (150, 60, 40), "bee": (60, 150, 40), "cat": (40, 60, 150)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forbid-skips", action="store_true", help="a test that is skipped fails, with the reason")
    limit = "seconds that a test may take, set-up included, that is neither `slow` nor `browser`"
    parser.addoption("--unmarked-limit", type=float, default=math.inf, help=limit)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"tests/{name}": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[_BEGAN] = _undisturbed_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test fail that takes longer than its markers say, and one that is skipped where nothing may be."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--forbid-skips"):
        report.outcome, report.longrepr = "failed", f"skipped, though --forbid-skips was given: {report.longrepr}"
    took = _undisturbed_seconds() - item.stash[_BEGAN]
    marked = any(item.get_closest_marker(name) for name in ("slow", "browser"))
    if call.when == "call" and report.passed and took > item.config.getoption("--unmarked-limit") and not marked:
        report.outcome = "failed"
        report.longrepr = f"took {took:.1f} s, set-up included: make it faster, or mark it: @pytest.mark.slow"
    return report


def _undisturbed_seconds() -> float:
    """Monotonic seconds, less those in which anything on this machine waited for a core (Linux tells)."""
    waited = re.search(rb"some .*total=(\d+)", _pressure())
    return time.monotonic() - (int(waited[1]) / 1e6 if waited else 0.0)


def _pressure() -> bytes:
    with contextlib.suppress(OSError):
        file = os.open("/proc/pressure/cpu", os.O_RDONLY)  # not `open`, which a test may have replaced
        try:
            return os.read(file, 1000)
        finally:
            os.close(file)
    return b""


def isolate_environment(home: Path) -> None:
    """No telemetry, no file of the user's home, no variable of the shell that started the tests, here and in children.

    Python caches bytecode also where the shell forbids it: children would compile TensorFlow again each time.
    """
    for name in list(os.environ):
        if _PERSONAL.match(name.upper()):
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
        "OPENBLAS_NUM_THREADS": "1",  # on busy cores its threads wait for each other most of the time
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # for `python` in dvc.yaml
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder of a name by a function, once for all processes that run the tests; who changes it, copies it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, function: Callable[[Path], None]) -> Path:
        folder, unfinished = shared / name, shared / f"{name}.unfinished"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                function(unfinished)
                unfinished.rename(folder)
        return folder

    return make


def new_workspace(folder: Path) -> Path:
    """A folder with the tests' params.yaml and this project's dvc.yaml."""
    workspace = folder / "workspace"
    workspace.mkdir(parents=True)
    for file in (PARAMS, PROJECT / "dvc.yaml"):
        shutil.copy(file, workspace)
    return workspace


def changing(workspace: Path) -> Callable[..., Settings]:
    """Writes `block.key=value` settings into the workspace's params.yaml; gives all settings."""

    def change(*assignments: str) -> Settings:
        return change_settings(workspace, parse_changes(assignments)) if assignments else load_settings(workspace)

    return change


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return new_workspace(tmp_path)


@pytest.fixture
def change(workspace: Path) -> Callable[..., Settings]:
    return changing(workspace)


def draw_image(label: str, number: int, side_px: int = 32) -> Image.Image:
    """Noise around the colour of the class; the same for the same number."""
    rng = np.random.default_rng([number, *label.encode()])
    noise = rng.integers(-40, 41, (side_px, side_px, 3))
    return Image.fromarray((np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8))


def save_image(path: Path, label: str, number: int, side_px: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_image(label, number, side_px).save(path)
    return path


def fill_source(root: Path, a_class: int = 12, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """Class folders with PNG and JPEG images, `<class>/<number>.png|jpg`."""
    for label in classes:
        for number in range(a_class):
            save_image(root / label / f"{number:03d}.{'png' if number % 2 else 'jpg'}", label, number)
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """24 images in two class folders."""
    return fill_source(tmp_path / "source")


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
