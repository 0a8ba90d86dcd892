"""The deployment `watch`: it compares with the version in production, and an alarm is an event that people can use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import watch_flow
from flows.alerts import ALERTS, IMAGES_CHANGED
from flows.start import CLONE_VARIABLE
from tasks.errors import RunError, SettingsError
from tasks.files import write_json
from tasks.watching import reference
from tasks.workspace import EXPORT, METRICS, PREPARED
from tests.conftest import changing, fill_source, new_workspace, save_image
from tests.tasks.exporting import save_export
from tests.tasks.runs.promoting import promoter
from tests.tasks.runs.repository import commit, dvc, git, init_dvc
from tests.tasks.steps import run_prepare, settings_for

Sent = SimpleNamespace
Fill = Callable[[str, int], str]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning"),  # DVC's own
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with one version, which is not in production yet."""
    folder = tmp_path_factory.mktemp("watched")
    clone = new_workspace(folder)
    run_prepare(settings_for(changing(clone), fill_source(folder / "source", 20)), clone)
    save_export(clone / EXPORT, ("ant", "bee"))
    git(clone, "init", "-q", "-b", "main")
    init_dvc(clone)
    outs = "".join(f"    - {path}: {{persist: true}}\n" for path in (EXPORT, PREPARED))
    artifacts = f"artifacts:\n  champion: {{path: {EXPORT}, type: model}}\n"
    (clone / "dvc.yaml").write_text(f"stages:\n  export:\n    cmd: 'true'\n    outs:\n{outs}{artifacts}")
    (clone / ".gitignore").write_text(".rootstock\n/data\n/models\n")
    metrics = {"champion": "feature_extraction", "strategies": {"feature_extraction": {"test": {"accuracy": 1.0}}}}
    write_json(clone / METRICS, metrics)
    dvc(clone, "repro", "-q")
    commit(clone, "The version")
    return clone


@pytest.fixture
def sent(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What the flow sends to Prefect, without a server."""
    found = Sent(artifacts=[], events=[], runs=[])
    monkeypatch.setenv(CLONE_VARIABLE, str(clone))
    monkeypatch.chdir(clone)
    monkeypatch.setattr(reference, "COPIED", 2)
    monkeypatch.setattr(watch_flow, "flow_run", SimpleNamespace(name="owl", id="1"))
    monkeypatch.setattr(watch_flow, "get_run_logger", lambda: logging.getLogger("watch"))
    monkeypatch.setattr(watch_flow, "create_markdown_artifact", lambda text, **_: found.artifacts.append(text))
    monkeypatch.setattr(watch_flow, "emit_event", lambda name, _, payload: found.events.append((name, payload)))
    monkeypatch.setattr(watch_flow, "run_deployment", lambda name, **_: found.runs.append(name))
    return found


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    def fill(label: str, first: int) -> str:
        for number in range(first, first + 12):
            save_image(tmp_path / f"new/{number}.png", label, number)
        return str(tmp_path / "new")

    return fill


def run(source: str, *, retrain: bool = False) -> Any:
    return watch_flow.watch.fn(source, retrain)


def test_without_production_or_source_the_error_says_what_to_do(sent: Sent, fill: Fill) -> None:
    with pytest.raises(SettingsError, match="parameter `source`"):
        run("")
    with pytest.raises(RunError, match="No version is in production"):
        run(fill("cat", 0))


@pytest.fixture
def production(clone: Path) -> None:
    change = promoter(clone)
    if change.read().production is None:
        version = change.register(git(clone, "rev-parse", "HEAD"), "a test")
        assert version
        assert version.version
        change.promote(version.version, "a test")


@pytest.mark.usefixtures("production")
def test_other_images_are_an_event_that_an_alert_waits_for(sent: Sent, fill: Fill) -> None:
    run(fill("cat", 0), retrain=True)
    assert [name for name, _ in sent.events] == [IMAGES_CHANGED]
    assert sent.events[0][1]["text"].startswith("ALARM: 12 images of ")
    assert any(IMAGES_CHANGED in alert.expect for alert in ALERTS)
    assert sent.runs == ["pipeline/nightly"]
    assert "data:image/jpeg" in sent.artifacts[0]


@pytest.mark.usefixtures("production")
def test_images_like_the_test_images_are_no_event_and_start_nothing(sent: Sent, fill: Fill) -> None:
    fill("ant", 100)
    run(fill("bee", 200), retrain=True)
    assert len(sent.artifacts) == 1
    assert (sent.events, sent.runs) == ([], [])
