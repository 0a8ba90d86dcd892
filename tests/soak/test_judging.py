"""Each promise of the soak can be broken: what its checks must find."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.soak import balance, judging, leftovers, samples, versions
from tests.soak.processes import role_of
from tests.soak.record import Fault, Night, Sample
from tests.soak.report import report
from tests.soak.versions import Split, Store
from tests.tasks.runs.repository import change, git
from tests.waiting import wait_until

NIGHT = Night("1", "calm-owl", due=1000, began=1001, ended=1050, state="COMPLETED", reason="", taken=995)
FAILED = replace(NIGHT, state="FAILED", reason="RunError: no")
NEAR = Fault(1020, 1020, "kill -9", "engine")
EARLIER = Fault(900, 920, "power failure", "dvc.lock")
BESIDE = Fault(1020, 1020, "commit beside", "clone")


@pytest.mark.parametrize(
    ("night", "fault", "is_lost"),
    [
        (FAILED, EARLIER, True),
        (FAILED, BESIDE, True),
        (replace(FAILED, state="CRASHED"), EARLIER, True),
        (FAILED, NEAR, False),
        (FAILED, replace(EARLIER, ended=990), False),
        (replace(FAILED, due=800), EARLIER, True),
        (NIGHT, EARLIER, False),
        (replace(FAILED, state="LATE", began=None, ended=None), EARLIER, False),
    ],
)
def test_night_that_fails_without_a_fault_is_lost(night: Night, fault: Fault, is_lost: bool) -> None:
    assert bool(judging.lost([night], [fault])) == is_lost


@pytest.mark.parametrize(
    ("night", "found"), [(NIGHT, 0), (FAILED, 0), (replace(FAILED, reason=""), 1), (replace(NIGHT, state="RUNNING"), 1)]
)
def test_night_needs_an_end_and_a_failure_needs_a_reason(night: Night, found: int) -> None:
    assert len(judging.unaccounted([night])) == found


@pytest.mark.parametrize(("quiet", "found"), [([NIGHT, NIGHT], 0), ([NIGHT], 1), ([NIGHT, NIGHT, FAILED], 1)])
def test_quiet_nights_must_all_complete(quiet: list[Night], found: int) -> None:
    assert len(judging.not_quiet(quiet, 2)) == found


def test_alert_about_a_night_that_completed_is_false_and_a_bad_night_needs_one() -> None:
    texts = ["pipeline / calm-owl was lost: no heartbeat", "pipeline / shy-fox is late", "pipeline / red-cat ended"]
    nights = [NIGHT, replace(NIGHT, name="shy-fox"), replace(FAILED, name="red-cat"), replace(FAILED, name="old-dog")]
    assert judging.false_alarms(texts, nights, [NIGHT.ended or 0]) == []
    (found,) = judging.false_alarms(texts, nights, [])
    assert found.startswith("calm-owl completed, but")
    assert [night.name for night in judging.silent(texts, nights)] == ["old-dog"]


def store_of(folder: Path, objects: dict[str, bytes]) -> tuple[Store, str]:
    """A cache with one output that is a folder, and the dvc.lock that names it."""
    names = {name: hashlib.md5(data).hexdigest() for name, data in objects.items()}
    listed = json.dumps([{"md5": digest, "relpath": name} for name, digest in names.items()]).encode()
    top = f"{hashlib.md5(listed).hexdigest()}.dir"
    for digest, data in [(top, listed), *((names[name], data) for name, data in objects.items())]:
        (folder / digest[:2]).mkdir(parents=True, exist_ok=True)
        (folder / digest[:2] / digest[2:]).write_bytes(data)
    lock = f"schema: '2.0'\nstages:\n  prepare:\n    outs:\n    - path: data/prepared\n      md5: {top}\n"
    return Store(folder, lambda _: None), lock


def victim(folder: Path, content: bytes) -> Path:
    return next(path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == content)


def test_whole_version_lacks_nothing(tmp_path: Path) -> None:
    store, lock = store_of(tmp_path, {"a": b"1", "b/c": b"2"})
    assert versions.missing(store, lock) == []
    assert versions.read_file(store, lock, "data/prepared/b/c") == b"2"
    assert not store.damaged


def test_missing_object_is_found_unless_the_remote_has_it(tmp_path: Path) -> None:
    store, lock = store_of(tmp_path, {"a": b"1", "b": b"2"})
    victim(tmp_path, b"2").unlink()
    (lack,) = versions.missing(store, lock)
    assert lack.startswith("data/prepared/b (")
    assert versions.missing(Store(tmp_path, lambda _: b"2"), lock) == []


def test_damaged_object_is_found_in_the_cache_and_on_the_remote(tmp_path: Path) -> None:
    _, lock = store_of(tmp_path, {"a": b"1"})
    victim(tmp_path, b"1").write_bytes(b"x")
    healed, broken = Store(tmp_path, lambda _: b"1"), Store(tmp_path, lambda _: b"y")
    assert versions.missing(healed, lock) == []
    assert healed.damaged
    assert versions.missing(broken, lock)


def test_image_that_changes_its_split_is_found() -> None:
    first = [Split("k1", "ant", "train"), Split("k2", "ant", "test")]
    relabelled = [Split("k1", "bee", "train")]
    back_elsewhere = [Split("k1", "bee", "train"), Split("k2", "ant", "train")]
    assert versions.moved([("v1", first), ("v2", relabelled), ("v3", back_elsewhere)]) == []
    assert len(versions.moved([("v1", first), ("v2", back_elsewhere)])) == 1


def test_version_that_left_the_history_is_found_unless_a_fault_emptied_it() -> None:
    assert versions.forgotten(["a1", "b2"], ["b2", "a1"], []) == []
    assert versions.forgotten(["a1", "b2"], ["b2"], []) == ["a1"]
    assert versions.forgotten(["a1", "b2"], ["b2"], ["a"]) == []


def repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    change(folder, "params.yaml", "factor: 1\n")
    return folder


def test_damaged_repository_is_found(tmp_path: Path) -> None:
    root = repository(tmp_path / "clone")
    assert versions.fsck(root) == []
    blob = git(root, "rev-parse", "HEAD:params.yaml")
    path = root / ".git/objects" / blob[:2] / blob[2:]
    path.chmod(0o600)
    path.write_bytes(b"")
    assert versions.fsck(root)


def tables() -> dict[str, list[dict[str, object]]]:
    manifest = [
        {"path": "ant/1", "label": "ant", "excluded": None, "refused": None},
        {"path": "bee/1", "label": "bee", "excluded": None, "refused": None},
        {"path": "ant/text", "label": "ant", "excluded": None, "refused": "not_an_image"},
        {"path": ".hidden", "label": "", "excluded": "hidden", "refused": None},
    ]
    examples = [{"path": row["path"], "label": row["label"]} for row in manifest[:2]]
    return {"manifest": manifest, "examples": examples, "quarantine": [{"path": "ant/text"}], "duplicates": []}


LABELS = {"ant/1": "ant", "bee/1": "bee"}


def test_balanced_counts_and_right_labels_are_fine() -> None:
    assert balance.unbalanced(tables(), LABELS, junk=2) == []


@pytest.mark.parametrize("table", ["manifest", "examples", "quarantine"])
def test_row_that_is_missing_in_a_table_is_found(table: str) -> None:
    found = tables()
    del found[table][0]
    assert balance.unbalanced(found, LABELS, junk=2)


def test_wrong_label_and_image_that_is_not_at_the_source_are_found() -> None:
    assert balance.unbalanced(tables(), {**LABELS, "bee/1": "ant"}, junk=2)
    assert balance.unbalanced(tables(), {"ant/1": "ant", "bee/2": "bee"}, junk=2)


def test_tables_are_read_from_a_version(tmp_path: Path) -> None:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"key": "k", "label": "ant", "split": "test"}]), file)
    store, lock = store_of(tmp_path, {"examples.parquet": file.getvalue()})
    assert versions.splits(store, lock) == [Split("k", "ant", "test")]
    assert len(balance.tables(store, lock)["examples"]) == 1


def test_worktree_lock_and_unfinished_files_that_are_left_are_found(tmp_path: Path) -> None:
    root, temporary = repository(tmp_path / "clone"), tmp_path / "temporary"
    temporary.mkdir()
    assert leftovers.files(root, temporary) == []
    git(root, "worktree", "add", "-q", "--detach", str(root / ".rootstock/runs/nightly"))
    (root / ".git/refs/heads/main.lock").touch()
    (root / ".git/objects/tmp_obj_x").touch()
    (root / "data").mkdir()
    (root / "data/.pack.1.partial").touch()
    (temporary / "rootstock-x").mkdir()
    kinds = ["worktree", "git's record", "lock", "unfinished object", "unfinished file", "temporary file"]
    found = leftovers.files(root, temporary)
    assert [any(line.startswith(kind) for line in found) for kind in kinds] == [True] * len(kinds)


def test_notes_of_dvc_that_each_night_leaves_are_found(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"repo/{number}").mkdir(parents=True)
    assert len(leftovers.notes_of_dvc(tmp_path)) == 1
    assert leftovers.notes_of_dvc(tmp_path / "other") == []


def test_process_that_is_left_is_found(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, env={**os.environ, "ROOTSTOCK_SOAK": str(tmp_path)}) as process:
        try:
            wait_until(lambda: bool(leftovers.processes(tmp_path, [])), "the process")
            assert leftovers.processes(tmp_path, [process.pid]) == []
            assert leftovers.processes(tmp_path / "other", []) == []
        finally:
            process.kill()


def growing(last_mb: float) -> list[Sample]:
    values = [200.0] * 6 + [last_mb] * 3
    return [Sample(number, value, None, 100.0, 100.0) for number, value in enumerate(values)]


@pytest.mark.parametrize(("last_mb", "has_grown"), [(200, False), (245, False), (260, True)])
def test_memory_that_grows_is_found(last_mb: float, has_grown: bool) -> None:
    assert bool(samples.grown(growing(last_mb))) == has_grown


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("/venv/bin/python -I /x/process_guard.py 5 1 1 /venv/bin/python -m dvc repro", "guard"),
        ("/venv/bin/python -m dvc --wait-for-lock repro --single-item ingest", "dvc"),
        ("/bin/sh -c python -m tasks.ingest", "shell"),
        ("python -m tasks.ingest", "stage"),
        ("python late_stages.py train feature_extraction", "late stage"),
        ("git checkout --quiet", "git"),
        ("/venv/bin/python -m prefect.engine", "engine"),
        ("/venv/bin/python -m prefect worker start --pool local", "worker"),
    ],
)
def test_process_is_known_by_its_command(command: str, role: str) -> None:
    assert role_of(command.split()) == role


def test_report_tells_verdict_and_figures() -> None:
    problems = {"no night is lost": ["calm-owl ended as FAILED"], "git finds nothing broken": []}
    text = report(judging.Soak(7, "abc", 120.0, [NIGHT, FAILED], [NIGHT], [NEAR], growing(200), problems))
    assert "Broken promises: no night is lost." in text
    assert "1 completed, 1 failed" in text
    kept = report(judging.Soak(7, "abc", 120.0, [NIGHT], [NIGHT], [NEAR], [], {"git finds nothing broken": []}))
    assert "Every promise was kept." in kept
