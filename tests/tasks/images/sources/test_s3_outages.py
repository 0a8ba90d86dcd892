"""A run whose source in S3 doesn't answer for a while: it waits, and ends as an undisturbed one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.settings_changes import apply_changes
from tasks import ingest, prepare
from tasks.errors import SourceError, TransientError
from tasks.files import sha256_hex
from tasks.images.manifest import read_discovered
from tasks.images.sources import discover
from tasks.params import load_settings
from tasks.plan import read_news
from tasks.runs.outages import FIRST_PAUSE_S, Outages
from tasks.runs.run_context import RunContext
from tasks.runs.stage_failure import StageFailed
from tasks.runs.supervisor import run_dvc
from tasks.workspace import RAW, Workspace
from tests.conftest import PROJECT, contents, fill_source
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import Bucket, flip, unavailable
from tests.tasks.runs.repository import init_dvc
from tests.tasks.steps import Change, settings_for

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "trouble",
    [
        {"path": "/p/bee/", "status": 503, "code": "SlowDown"},
        {"path": "/p/bee/", "drop_after": 0},
        {"path": "list-type=2", "status": 500},
        None,
    ],
)
def test_outage_that_passes_ends_with_the_same_bytes(
    bucket: Bucket,
    workspace: Path,
    change: Change,
    tmp_path: Path,
    account: pytest.MonkeyPatch,
    trouble: dict[str, Any] | None,
) -> None:
    for name, data in contents(fill_source(tmp_path / "source", 4)).items():
        bucket.put(f"p/{name}", body=data)
    settings, here, said = settings_for(change, bucket.uri("p")), Workspace.at(workspace), list[str]()
    if trouble:
        bucket.proxy.add(**trouble)
    else:
        account.setenv("AWS_ENDPOINT_URL", NOWHERE)

    def recover(_pause_s: float) -> None:
        bucket.proxy.clear()
        account.setenv("AWS_ENDPOINT_URL", bucket.proxy.endpoint)

    Outages(recover).outlast(lambda: ingest.run(settings, here), 7200, said.append)
    assert len(said) == 1
    disturbed = contents(here.raw)
    shutil.rmtree(here.raw)
    ingest.run(settings, here)
    assert contents(here.raw) == disturbed


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("name", ["p", "p/images.csv"])
def test_object_that_changes_vanishes_or_is_damaged_costs_only_itself_and_is_read_the_next_night(
    name: str, bucket: Bucket, workspace: Path, change: Change, tmp_path: Path
) -> None:
    images = contents(fill_source(tmp_path / "source"))
    for path, data in images.items():
        bucket.put(f"p/{path}", body=data)
    bucket.proxy.add(method="GET", path="/p/bee/001.png", change=flip)
    table = "\n".join(["path,label", *(f"{path},{path[:3]}" for path in images)])
    bucket.put("p/images.csv", body=table.encode())
    settings, here = settings_for(change, bucket.uri(name)), Workspace.at(workspace)
    new = (tmp_path / "source/bee/000.jpg").read_bytes() + b"more"

    def remove() -> None:
        bucket.client.delete_object(Bucket=bucket.name, Key="p/ant/001.png")

    bucket.proxy.add(method="GET", path="/p/ant/001.png", before=remove)
    bucket.proxy.add(method="GET", path="/p/bee/000.jpg", before=lambda: bucket.put("p/bee/000.jpg", body=new))
    summary = ingest.run(settings, here)
    assert (summary.discovered - summary.excluded, summary.refused, summary.packed) == (24, 3, 21)
    found = {row.path.rpartition("p/")[2]: row for row in read_discovered(here.raw) if row.refused}
    assert {path: (row.refused, row.version) for path, row in found.items()} == {
        "ant/001.png": ("gone", None),
        "bee/000.jpg": ("changed_while_read", None),
        "bee/001.png": ("damaged_at_source", None),
    }
    assert "there is no such object" in str(found["ant/001.png"].detail)
    assert prepare.run(settings, here).quarantined == 3

    bucket.proxy.clear()
    bucket.put("p/ant/001.png", body=images["ant/001.png"])
    news = read_news(settings, here)
    assert news
    assert news.new == 3
    again = ingest.run(settings, here)
    assert (again.refused, again.packed, again.reused) == (0, 3, 21)
    keys = {row.key for row in read_discovered(here.raw) if row.key}
    assert keys == {sha256_hex(data) for data in {**images, "bee/000.jpg": new}.values()}


@pytest.mark.parametrize("name", ["p/images.csv", "p/images.zip"])
def test_table_or_archive_that_changes_while_it_is_read_is_read_again(name: str, bucket: Bucket) -> None:
    bucket.put(name, body=b"path,label\n")
    bucket.proxy.add(method="GET", path=name, times=1, before=lambda: bucket.put(name, body=b"path,label\nx,y\n"))
    assert f"{name} can't be read: it changed while it was read" in unavailable(discover, bucket.uri(name), policy())


@pytest.mark.usefixtures("no_pauses")
def test_person_at_a_prompt_is_told_at_once_and_a_run_leaves_the_waiting_to_ingest(
    workspace: Path, account: pytest.MonkeyPatch
) -> None:
    account.setenv("AWS_ENDPOINT_URL", NOWHERE)
    context, changes = RunContext(Workspace.at(workspace)), {"source": {"uri": "s3://bucket/p"}}
    with pytest.raises(TransientError, match=r"127.0.0.1:9 can't be reached. Check AWS_ENDPOINT_URL"):
        apply_changes(context, changes, on_listed=print)
    assert load_settings(workspace).source.uri == "digits"
    assert apply_changes(context, changes).source.uri == "s3://bucket/p"
    account.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SourceError, match="there are no credentials"):
        apply_changes(context, changes)


@pytest.mark.slow
def test_outage_that_does_not_pass_ends_the_stage_with_its_own_code(
    workspace: Path, change: Change, account: pytest.MonkeyPatch
) -> None:
    settings_for(change, "s3://bucket/p")
    init_dvc(workspace, in_git=False)
    command = f"env PYTHONPATH={PROJECT} python -m tasks.ingest"
    (workspace / "dvc.yaml").write_text(f"stages:\n  ingest:\n    cmd: {command}\n    outs: [{RAW}]\n")
    account.setenv("AWS_ENDPOINT_URL", NOWHERE)

    def run() -> None:
        run_dvc("ingest", ["repro", "ingest"], Workspace.at(workspace), limit_s=60, on_line=print)

    pauses: list[float] = []
    with pytest.raises(StageFailed, match=r"127.0.0.1:9 can't be reached. Check AWS_ENDPOINT_URL") as told:
        Outages(pauses.append).outlast(run, FIRST_PAUSE_S / 2, print)
    assert (told.value.exit_code, pauses) == (75, [FIRST_PAUSE_S / 2])
    assert "run.outage_limit_s allows no more" in told.value.reason
