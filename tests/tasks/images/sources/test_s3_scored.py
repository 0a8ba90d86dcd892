"""Scoring a bucket: an object that fails becomes a row with its reason, and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.score import Wanted, score
from tasks.scoring.rows import RowFiles
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.tasks.exporting import CLASSES, encoded, save_export
from tests.tasks.images.sources.storing import Bucket


def test_score_gives_an_object_that_fails_a_row_with_its_reason_and_reads_it_again_next_time(
    bucket: Bucket, workspace: Path, change: Callable[..., Settings], tmp_path: Path
) -> None:
    names = ("changed", "denied", "fine", "gone", "last")
    for number, name in enumerate(names):
        bucket.put(f"new/{name}.png", body=encoded((number, 200, 0)))
    later = encoded((200, 0, 0))
    bucket.proxy.add(path="/new/changed.png", times=1, before=lambda: bucket.put("new/changed.png", body=later))
    bucket.proxy.add(path="/new/denied.png", times=1, status=403, code="AccessDenied")
    bucket.proxy.add(path="/new/gone.png", times=1, status=404, code="NoSuchKey")
    wanted = Wanted(save_export(tmp_path / "export"), bucket.uri("new"), tmp_path / "out", "jsonl")

    def outcomes() -> dict[str, str]:
        score(wanted, change(), Workspace.at(workspace))
        [part] = (tmp_path / "out").glob("part-*.jsonl")
        return {
            row["path"].split(".")[0]: row["error"] or row["label"] for row in RowFiles("jsonl", CLASSES).read(part)
        }

    failed = {"changed": "changed_while_read", "denied": "unreadable", "gone": "gone"}
    assert outcomes() == {**dict.fromkeys(names, "grün"), **failed}
    bucket.proxy.clear()
    bucket.put("new/changed.png", body=encoded((0, 200, 0)))  # as it was: only the rows tell that it is to be read
    assert outcomes() == dict.fromkeys(names, "grün")
