"""The program `plan` on a real workspace: it compares the source with the packs, and asks DVC about the rest."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import ingest, plan
from tasks.errors import DataError, SourceError
from tasks.images.sources.listing import SourceListing
from tasks.params import load_settings
from tasks.runs.costs import append_history
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.conftest import PROJECT, contents, save_image
from tests.tasks.runs.repository import init_dvc

Change = Callable[..., Settings]


@pytest.fixture
def repository(workspace: Path) -> Path:
    """A workspace that DVC knows, with the code that its stages depend on."""
    (workspace / "tasks").symlink_to(PROJECT / "tasks")
    init_dvc(workspace, in_git=False)
    return workspace


def row(text: str, stage: str) -> list[str]:
    """The cells of a stage's row, no-break spaces as spaces."""
    line = next(line for line in text.replace("\u00a0", " ").splitlines() if line.startswith(f"| {stage} "))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_first_plan_counts_the_source_and_knows_no_time(repository: Path, source: Path, change: Change) -> None:
    text = plan.run(change(f"source.uri={source}"), Workspace.at(repository)).text
    assert text.startswith(f"Source {source}: 24 images, 24 new, 0 gone.")
    assert row(text, "ingest") == ["ingest", "runs", "24", "unknown", "unknown", "it has never run"]
    assert row(text, "features") == ["features", "runs", "24", "unknown", "unknown", "it has never run"]
    assert row(text, "export")[:3] == ["export", "runs", "-"]


def test_limit_of_images_a_class_is_counted(repository: Path, source: Path, change: Change) -> None:
    text = plan.run(change(f"source.uri={source}", "source.limit_per_class=5"), Workspace.at(repository)).text
    assert row(text, "prepare")[2] == "10"


def test_plan_counts_the_folds(repository: Path, source: Path, change: Change) -> None:
    trained = {"stage": "train@feature_extraction", "seconds": 120.0}
    append_history(Workspace.at(repository), [trained, {**trained, "seconds": 240.0, "folds": 2}])
    text = plan.run(change(f"source.uri={source}", "compare.folds=5"), Workspace.at(repository)).text
    assert "10 min" in row(text, "train@feature_extraction")
    assert "without each of 5 folds of train and validation, which takes about 5 times as long" in text


def test_plan_after_ingest_tells_new_gone_and_what_must_be_read_again(
    repository: Path, source: Path, change: Change
) -> None:
    settings = change(f"source.uri={source}")
    ingest.run(settings, Workspace.at(repository))
    save_image(source / "ant" / "900.png", "ant", 900)
    (source / "bee" / "000.jpg").unlink()
    found = plan.read_news(settings, Workspace.at(repository))
    assert found is not None
    assert (found.total, found.new, found.gone, found.unversioned) == (24, 1, 1, 23)


def test_images_that_are_in_the_cache_only_are_known(repository: Path, source: Path, change: Change) -> None:
    settings = change(f"source.uri={source}")
    ingest.run(settings, Workspace.at(repository))
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-q", "-f", "ingest"], cwd=repository, check=True)
    (repository / "data/raw").rename(repository / "away")
    found = plan.read_news(settings, Workspace.at(repository))
    assert found is not None
    assert (found.total, found.new, found.gone) == (24, 0, 0)


@pytest.mark.slow
def test_ingest_is_up_to_date_only_if_it_would_change_nothing(repository: Path, change: Change) -> None:
    settings = change("source.uri=digits", "source.limit_per_class=5")
    assert plan.run(settings, Workspace.at(repository)).steps[0].verdict == "runs"
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "-s", "ingest"], cwd=repository, check=True)
    known = plan.run(settings, Workspace.at(repository))
    assert known.steps[0].verdict == "-"
    assert row(known.text, "ingest")[1] == "-"
    assert plan.run(change("source.limit_per_class=6"), Workspace.at(repository)).steps[0].verdict == "runs"


def test_source_without_versions_is_checked_if_other_stages_run_anyway(
    repository: Path, source: Path, change: Change
) -> None:
    settings = change(f"source.uri={source}")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "-s", "ingest"], cwd=repository, check=True)
    assert plan.run(settings, Workspace.at(repository)).steps[0].verdict == "checks"


def test_label_that_was_changed_in_a_table_is_seen(repository: Path, source: Path, change: Change) -> None:
    table = source.parent / "images.csv"
    lines = [f"{path.relative_to(source.parent)},{path.parent.name}" for path in sorted(source.rglob("*.*"))]
    table.write_text("\n".join(["path,label", *lines]))
    settings = change(f"source.uri={table}")
    ingest.run(settings, Workspace.at(repository))
    found = plan.read_news(settings, Workspace.at(repository))
    assert found is not None
    assert not found.rearranged
    table.write_text("\n".join(["path,label", lines[0].replace(",ant", ",bee"), *lines[1:]]))
    found = plan.read_news(settings, Workspace.at(repository))
    assert found is not None
    assert (found.new, found.gone, found.rearranged) == (0, 0, True)


def test_slow_listing_is_given_up(repository: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LISTING_LIMIT_S", 0.0)
    stuck = threading.Event()

    def wait(*_: object) -> SourceListing:
        stuck.wait(60)
        return SourceListing(())

    monkeypatch.setattr(plan, "discover", wait)
    text = plan.run(change(), Workspace.at(repository)).text
    stuck.set()
    assert text.startswith("The source was not listed.")
    assert row(text, "ingest")[2] == "unknown"


def test_source_that_would_be_downloaded_is_not_listed(repository: Path, change: Change) -> None:
    assert plan.read_news(change("source.uri=tfds:mnist"), Workspace.at(repository)) is None


def test_missing_source_is_reported(repository: Path, change: Change) -> None:
    with pytest.raises(SourceError, match="doesn't exist"):
        plan.run(change("source.uri=/no/such/folder"), Workspace.at(repository))


@pytest.mark.parametrize("limit", ["source.limit_per_class=3", "prepare.min_images_per_class=13"])
def test_class_that_is_too_small_anyway_is_reported(repository: Path, source: Path, change: Change, limit: str) -> None:
    with pytest.raises(DataError, match=r"class 'ant': (3|12) images, prepare\.min_images_per_class is"):
        plan.run(change(f"source.uri={source}", limit), Workspace.at(repository))


def test_plan_changes_nothing(repository: Path, source: Path, change: Change) -> None:
    settings = change(f"source.uri={source}")
    ingest.run(settings, Workspace.at(repository))
    before = contents(repository / "data"), (repository / "params.yaml").read_bytes()
    names = sorted(path.name for path in repository.iterdir())
    plan.run(load_settings(repository), Workspace.at(repository))
    assert (contents(repository / "data"), (repository / "params.yaml").read_bytes()) == before
    assert sorted(path.name for path in repository.iterdir()) == names
