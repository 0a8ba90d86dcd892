"""Program `plan`: prints what the next run would do, why, and what it would cost. Changes nothing in the workspace.

Usage: python -m tasks.plan. The source is listed only if this needs no download and takes seconds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tasks import ingest, prepare
from tasks.images.manifest import Discovered, previous_discovered
from tasks.images.sources import SourceListing, SourcePolicy, discover
from tasks.images.sources.policy import ListingStopped
from tasks.params import load_settings
from tasks.program import run_program
from tasks.reports.text import visible, without_credentials
from tasks.runs.costs import read_experience
from tasks.runs.dvc_state.changes import read_changes
from tasks.runs.dvc_state.outputs import fetch_output
from tasks.runs.planning import SourceNews, Step, make_plan, plan_text
from tasks.settings import Settings
from tasks.workspace import RAW, Workspace

LISTING_LIMIT_S = 10.0
LISTER = "listing"


@dataclass(frozen=True)
class Plan:
    """The plan of the next run.

    Attributes:
        text: in Markdown.
        source_is_known: the source was listed, and the stage `ingest` would change nothing.
        steps: its stages.
    """

    text: str
    source_is_known: bool
    steps: list[Step]


def run(settings: Settings, workspace: Workspace) -> Plan:
    """The plan of the next run in a workspace.

    Args:
        settings: of the workspace.
        workspace: folder with dvc.yaml.

    Raises:
        SourceError: the source is missing, empty, not understood, or holds fewer than two classes.
        DataError: a class has too few images.
    """
    listing = _start_listing(settings, workspace)
    changes = read_changes(workspace)
    source = _news(settings, workspace, listing())
    steps = make_plan(changes, source, read_experience(workspace))
    sure = any(step.stage == "ingest" and step.verdict == "-" for step in steps)
    return Plan(plan_text(steps, source, workspace), sure, steps)


def read_news(settings: Settings, workspace: Workspace) -> SourceNews | None:
    """The differences between the source and the packed images; None if the listing takes long."""
    return _news(settings, workspace, _start_listing(settings, workspace)())


def check_listing(settings: Settings, workspace: Workspace) -> None:
    """Check what a listing of the source can tell. If the listing takes long, the source passes.

    Raises:
        SourceError: see `run`.
        DataError: see `run`.
    """
    _start_listing(settings, workspace)()


def _news(settings: Settings, workspace: Workspace, listing: SourceListing | None) -> SourceNews | None:
    if listing is None:
        return None
    packed = _packed(workspace)
    before = {row.path: row.version for row in packed if not row.excluded}
    here = {image.path for image in listing.images}
    known = before.keys() & here
    changed = sum(
        image.path in known and image.version is not None and image.version != before[image.path]
        for image in listing.images
    )
    total = sum(_class_sizes(listing, settings.source.limit_per_class).values())
    return SourceNews(
        name=visible(without_credentials(settings.source.uri), 120),
        total=total,
        new=max(0, total - len(known)) + changed,
        gone=len(before.keys() - here),
        rearranged=not ingest.is_listing_unchanged(listing, settings.source.limit_per_class, packed),
        unversioned=sum(image.version is None and image.path in known for image in listing.images),
    )


def _packed(workspace: Workspace) -> list[Discovered]:
    """The manifest of the last run. In the folder of a deployed run, it is only in DVC's cache."""
    raw = workspace.raw
    if raw.is_dir():
        return previous_discovered(raw)
    with workspace.temporary_folder() as temporary:
        fetch_output(workspace, f"{RAW}/manifest.parquet", temporary)
        return previous_discovered(temporary)


def _start_listing(settings: Settings, workspace: Workspace) -> Callable[[], SourceListing | None]:
    """List the source in the background. The returned function waits for it; it returns None if that takes long.

    Then the listing ends, too: nothing lists, unpacks or downloads beside `ingest`.
    """
    source = settings.source
    if source.uri.startswith("tfds:"):
        return lambda: None  # the listing may need a download
    found: list[SourceListing | BaseException] = []

    def look() -> None:
        try:
            found.append(discover(source.uri, policy))
        except ListingStopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            found.append(error)

    def answer() -> SourceListing | None:
        thread.join(max(0.0, deadline - time.monotonic()))
        outcome = found[0] if found else None
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not None:
            prepare.check_sizes(_class_sizes(outcome, source.limit_per_class), settings.prepare, "images")
        return outcome

    deadline = time.monotonic() + LISTING_LIMIT_S
    policy = replace(
        SourcePolicy.of(settings, workspace), is_wanted=lambda: time.monotonic() < deadline, may_download=False
    )
    thread = threading.Thread(target=look, name=LISTER, daemon=True)
    thread.start()
    return answer


def _class_sizes(listing: SourceListing, limit: int | None) -> Counter[str]:
    """Images of each class within the limit."""
    counts = Counter(image.label for image in listing.images)
    return counts if limit is None else Counter({label: min(count, limit) for label, count in counts.items()})


def main() -> int:
    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        print(run(load_settings(workspace.folder), workspace).text, flush=True)

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
