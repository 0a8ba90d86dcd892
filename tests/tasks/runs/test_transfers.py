"""Transfers: of a folder only the part that a stage reads; a remote that doesn't answer is waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.runs import transfers
from tasks.runs.outages import Outages
from tasks.runs.stage_failure import Remedy, StageFailed
from tasks.runs.transfers import TRANSFER_TRIES, fetch_inputs, push
from tasks.runs.worktrees import check_out
from tasks.workspace import Workspace
from tests.tasks.runs.repository import commit, deployed, dvc, git, make_parts, make_repository, working


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_parts(tmp_path / "clone")
    commit(root, "The project has run")
    return root


@pytest.mark.slow
def test_part_is_brought_for_its_reader_and_goes_before_the_next_run(root: Path, tmp_path: Path) -> None:
    folder, code = tmp_path / "run", git(root, "rev-parse", "HEAD")
    run = Workspace(folder, root)
    check_out(run, code, print)
    assert not fetch_inputs("use@a", run, limit_s=60, on_line=print)
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().replace("cp out", "cp -p out"))
    assert fetch_inputs("use@a", run, limit_s=60, on_line=print)
    assert [path.name for path in (folder / "out/both").iterdir()] == ["a"]

    check_out(run, code, print)
    assert not (folder / "out/both").exists()


@pytest.mark.slow
def test_output_of_a_stage_that_ran_in_the_folder_stays(root: Path, tmp_path: Path) -> None:
    folder, code = tmp_path / "run", git(root, "rev-parse", "HEAD")
    run = Workspace(folder, root)
    check_out(run, code, print)
    (folder / "params.yaml").write_text("a: 2\nb: 2\n")
    dvc(folder, "repro", "-s", "both")
    assert fetch_inputs("use@a", run, limit_s=60, on_line=print)
    check_out(run, code, print)
    assert sorted(path.name for path in (folder / "out/both").iterdir()) == ["a", "b"]


NO_ANSWER = 'ERROR: unexpected error - Could not connect to the endpoint URL: "http://store:8333/bucket"'
SLOW_DOWN = "ERROR: failed to transfer '5f' - [Errno 16] busy: An error occurred (SlowDown) when calling PutObject"
DENIED = "ERROR: failed to transfer '5f' - no: An error occurred (AccessDenied) when calling the PutObject operation"


@pytest.mark.parametrize(
    ("lines", "remedy"),
    [
        ([NO_ANSWER], Remedy.WAIT),
        ([SLOW_DOWN, "ERROR: failed to push data to the cloud - 1 files failed to upload"], Remedy.WAIT),
        (["ERROR: unexpected error - Response payload is not completed: <ContentLengthError: 400, ...>"], Remedy.WAIT),
        (["ERROR: unexpected error - Connection was closed before we received a valid response"], Remedy.WAIT),
        (["ERROR: failed to connect to s3 (b/dvc) - Read timeout on endpoint URL: http://store"], Remedy.WAIT),
        ([SLOW_DOWN, DENIED, "ERROR: failed to push data to the cloud - 2 files failed to upload"], Remedy.FIX),
        (["ERROR: unexpected error - Forbidden: An error occurred (403) when calling the HeadObject"], Remedy.FIX),
        (["ERROR: unexpected error - Unable to locate credentials"], Remedy.FIX),
        (["ERROR: failed to push data to the cloud - config file error: no remote specified in /x."], Remedy.FIX),
        (["ERROR: unexpected error - An error occurred (NoSuchBucket) when calling ListObjectsV2"], Remedy.FIX),
        (["ERROR: unexpected error - [Errno 22] Bad Request: (400) when calling the HeadObject"], Remedy.RETRY),
        (["Could not connect, says a line that is no error of DVC's"], Remedy.RETRY),
    ],
)
def test_dvcs_messages_tell_what_helps(
    lines: list[str], remedy: Remedy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stage: str, *_: object, on_line: Callable[[str], None], **__: object) -> None:
        for line in lines:
            on_line(line)
        raise StageFailed(stage, "it crashed", "", "dvc push", Remedy.RETRY)

    monkeypatch.setattr(transfers, "run_dvc", fail)
    with pytest.raises(StageFailed) as told:
        push("fit", Workspace.at(tmp_path), ["out"], limit_s=60, on_line=print)
    assert told.value.remedy is remedy


@pytest.mark.slow
def test_remote_that_answers_again_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real DVC: a server that nobody can connect to, then a folder."""
    root = make_repository(tmp_path / "clone")
    dvc(root, "repro", "-q", "count")
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    dvc(root, "remote", "add", "-q", "-d", "store", "s3://bucket/dvc")
    dvc(root, "remote", "modify", "store", "endpointurl", "http://127.0.0.1:9")
    said: list[str] = []

    def recover(_pause_s: float) -> None:
        dvc(root, "remote", "add", "-q", "-f", "-d", "store", str(tmp_path / "store"))

    def send() -> None:
        push("count", Workspace.at(root), ["out/count"], limit_s=60, on_line=print)

    Outages(recover).outlast(send, 7200, said.append, TRANSFER_TRIES)
    assert len(list((tmp_path / "store/files").rglob("*"))) == 3  # md5, two digits, the file
    (text,) = said
    assert "dvc push: DVC's remote doesn't answer.\nunexpected error - Could not connect to the endpoint" in text


@pytest.mark.slow
@pytest.mark.parametrize("is_pushed", [True, False])
def test_run_heals_what_a_persons_dvc_gc_has_deleted(tmp_path: Path, is_pushed: bool) -> None:
    root = make_repository(tmp_path / "clone")
    if is_pushed:
        dvc(root, "remote", "add", "-d", "store", str(tmp_path / "store"))
        commit(root, "A remote")

    def night() -> list[str]:
        with working(deployed(root, [])) as folder:
            stages = []
            for name in ("count", "double"):
                if fetch_inputs(name, Workspace.at(folder), limit_s=60, on_line=print):
                    dvc(folder, "repro", "--single-item", name)
                    stages.append(name)
            if is_pushed:
                dvc(folder, "push")
        return stages

    assert night() == ["count", "double"]
    lock = git(root, "show", "runs/nightly:dvc.lock")
    dvc(root, "gc", "--workspace", "--force")
    objects = root / ".dvc/cache/files/md5"
    assert not any(path.is_file() for path in objects.rglob("*"))
    assert night() == (["count"] if is_pushed else ["count", "double"])
    assert git(root, "show", "runs/nightly:dvc.lock") == lock
    assert any(path.is_file() for path in objects.rglob("*"))
