"""Program `plan`: prints what the next run would do, why, and what it would cost. Changes nothing in the workspace.

Usage: python -m tasks.plan. The source is listed only if this needs no download and takes seconds. If nothing else
changed, images whose bytes alone show a change are read, too, for at most two seconds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks import ingest, prepare
from tasks.errors import RootstockError
from tasks.files import read_json, sha256_hex
from tasks.images.manifest import Discovered, previous_discovered
from tasks.images.packs import verify_pack
from tasks.images.reason_codes import Refused
from tasks.images.sources import SourceImage, SourceListing, SourcePolicy, discover
from tasks.images.sources.policy import ListingStopped
from tasks.images.sources.reading import read_ahead
from tasks.params import load_settings
from tasks.program import run_program
from tasks.reports.comparison_wording import folds_sentence, left_out_sentence
from tasks.reports.headline import are_headlines_of
from tasks.reports.text import visible, without_credentials
from tasks.runs.accuracy_regression import read_metrics
from tasks.runs.costs import read_experience, scale_trainings
from tasks.runs.dvc_state.changes import read_changes
from tasks.runs.dvc_state.outputs import fetch_output
from tasks.runs.planning import SourceNews, Step, make_plan, plan_text
from tasks.settings import Settings
from tasks.workspace import RAW, Workspace

LISTING_LIMIT_S = 10.0
READING_LIMIT_S = 2.0
"""Images whose bytes alone show a change are read for so long at most. Then that is left to the stage `ingest`."""
LISTER = "listing"


@dataclass(frozen=True)
class Listed:
    """A source as it was listed.

    Attributes:
        settings: all settings, with those of the source.
        listing: its listing; None if that would take long.
    """

    settings: Settings
    listing: SourceListing | None


@dataclass(frozen=True)
class Plan:
    """The plan of the next run.

    Attributes:
        text: in Markdown.
        is_whole: all that the stages read and write is here, as dvc.lock names it.
        steps: its stages.
    """

    text: str
    is_whole: bool
    steps: list[Step]

    @property
    def is_empty(self) -> bool:
        """No stage would run."""
        return all(step.verdict == "-" for step in self.steps)


def run(settings: Settings, workspace: Workspace, listed: Listed | None = None) -> Plan:
    """The plan of the next run in a workspace.

    Args:
        settings: of the workspace.
        workspace: folder with dvc.yaml.
        listed: the source, if it was listed just now.

    Raises:
        SourceError: the source is missing, empty, not understood, or holds fewer than two classes.
        DataError: a class has too few images.
    """
    listing = _start_listing(settings, workspace) if listed is None else lambda: listed.listing
    changes = read_changes(workspace)
    # If a stage runs anyway, the stage `ingest` reads the images, and the plan need not.
    source = _news(settings, workspace, listing(), may_read=not any(one.reasons for one in changes))
    history = scale_trainings(read_experience(workspace), settings.as_many_trainings)
    steps = make_plan(changes, source, history)
    budget = left_out_sentence(settings.compare.budget_minutes, settings.compare.left_out)
    folds = folds_sentence(settings.as_many_trainings)
    text = "\n\n".join(filter(None, [plan_text(steps, source, workspace), folds, budget]))
    return Plan(text, all(one.is_whole for one in changes), steps)


def run_if_possible(listed: Listed, workspace: Workspace) -> Plan | None:
    """The plan of the next run; None if DVC can't tell: then the run itself tells what is wrong."""
    try:
        return run(listed.settings, workspace, listed)
    except Exception:  # noqa: BLE001 - DVC has many
        return None


def is_nothing_to_do(plan: Plan, workspace: Workspace) -> bool:
    """Whether a run in a person's folder would change nothing: no stage has to run, and no result is missing.

    The question takes seconds at most, and imports neither Prefect nor TensorFlow. In doubt, the answer is no.
    """
    if workspace.ingest_journal.exists():  # of a run that was killed; `ingest` removes it
        return False
    return plan.is_empty and plan.is_whole and _has_its_metrics(workspace) and _has_whole_packs(workspace)


def _has_its_metrics(workspace: Workspace) -> bool:
    """Whether reports/metrics.json, which is in git, belongs to the results, which are in DVC."""
    metrics = read_metrics(workspace)
    if metrics is None or not workspace.evaluation.exists():
        return metrics is not None
    return are_headlines_of(metrics, read_json(workspace.evaluation))


def _has_whole_packs(workspace: Workspace) -> bool:
    """Whether the packs hold the right bytes, which `ingest` checks in each run; False if the check takes long."""
    deadline = time.monotonic() + READING_LIMIT_S
    return all(time.monotonic() < deadline and verify_pack(pack) for pack in workspace.raw.glob("*.tar"))


def read_news(settings: Settings, workspace: Workspace) -> SourceNews | None:
    """The differences between the source and the packed images; None if the listing takes long."""
    return _news(settings, workspace, _start_listing(settings, workspace)())


def list_source(settings: Settings, workspace: Workspace) -> Listed:
    """List the source and check what the listing can tell. If the listing takes long, the source passes.

    Raises:
        SourceError: see `run`.
        DataError: see `run`.
    """
    return Listed(settings, _start_listing(settings, workspace)())


def _news(
    settings: Settings, workspace: Workspace, listing: SourceListing | None, *, may_read: bool = False
) -> SourceNews | None:
    if listing is None:
        return None
    packed = _packed(workspace)
    before = {row.path: row for row in packed if not row.excluded}
    here = {image.path for image in listing.images}
    known = before.keys() & here
    changed = sum(
        image.path in known and image.version is not None and image.version != before[image.path].version
        for image in listing.images
    )
    unread = [image for image in listing.images if image.version is None and image.path in known]
    if may_read and (other := _count_other_bytes(unread, before, settings.ingest.readers)) is not None:
        changed, unread = changed + other, []
    total = sum(class_sizes(listing, settings.source.limit_per_class).values())
    return SourceNews(
        name=visible(without_credentials(settings.source.uri), 120),
        total=total,
        new=max(0, total - len(known)) + changed,
        gone=len(before.keys() - here),
        rearranged=not ingest.is_listing_unchanged(listing, settings.source.limit_per_class, packed),
        unversioned=len(unread),
    )


def _count_other_bytes(images: Sequence[SourceImage], before: Mapping[str, Discovered], readers: int) -> int | None:
    """How many of the images have other bytes than those that are packed; None if reading them takes long or fails."""
    deadline = time.monotonic() + READING_LIMIT_S
    count = 0
    try:
        for image, data in read_ahead(images, readers):
            if time.monotonic() > deadline:
                return None
            row = before[image.path]
            if isinstance(data, Refused):
                count += (data.code, data.detail) != (row.refused, row.detail)
            else:
                count += sha256_hex(data) != row.key
    except RootstockError:  # `ingest` tells it, or waits
        return None
    return count


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
            prepare.check_sizes(class_sizes(outcome, source.limit_per_class), settings.prepare, "images")
        return outcome

    deadline = time.monotonic() + LISTING_LIMIT_S
    policy = replace(
        SourcePolicy.of(settings, workspace), is_wanted=lambda: time.monotonic() < deadline, may_download=False
    )
    thread = threading.Thread(target=look, name=LISTER, daemon=True)
    thread.start()
    return answer


def class_sizes(listing: SourceListing, limit: int | None) -> Counter[str]:
    """Images of each class within the limit (`source.limit_per_class`)."""
    counts = Counter(image.label for image in listing.images)
    return counts if limit is None else Counter({label: min(count, limit) for label, count in counts.items()})


def main() -> int:
    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        print(run(load_settings(workspace.folder), workspace).text, flush=True)

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
