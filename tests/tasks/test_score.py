"""The program `score`: exactly one row for each image, whatever it is and however often the program is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tasks.errors import PredictError, RunError
from tasks.files import read_json
from tasks.predict import predict_files
from tasks.runs.claims import claimed
from tasks.score import SUMMARY, Wanted, score
from tasks.scoring.rows import FORMATS, RowFiles
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.tasks.exporting import CLASSES, encoded, save_export
from tests.tasks.fork_server import ForkServer
from tests.waiting import wait_until

Score = Callable[..., dict[str, Any]]
BAD = {"empty.png": "empty_file", "text.jpg": "not_an_image", "cut.jpg": "truncated", "heic.jpg": "unsupported_format"}


def fill(folder: Path, count: int) -> Path:
    """So many images, numbered, each of another colour; a tenth of them bad."""
    folder.mkdir()
    for number in range(count):
        colour = (number % 256, 255 - number % 256, number // 256)
        data = encoded(colour) if number % 10 else b"<html>"
        (folder / f"{number:05d}.png").write_bytes(data)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_export(tmp_path / "export")


@pytest.fixture
def scoring(model: Path, workspace: Path, change: Callable[..., Settings], tmp_path: Path) -> Score:
    """Scores a source into the folder `out`, four rows a part if nothing else is said."""

    def run(source: Path, **changes: Any) -> dict[str, Any]:
        wanted = replace(Wanted(model, str(source), tmp_path / "out", "jsonl", rows_a_part=4), **changes)
        return score(wanted, change(), Workspace.at(workspace))

    return run


def rows_in(folder: Path, form: str = "jsonl") -> list[dict[str, Any]]:
    files = RowFiles(form, CLASSES)
    return [row for part in sorted(folder.glob(f"part-*.{form}")) for row in files.read(part)]


def test_score_gives_each_file_one_row_with_what_predict_says_or_a_reason(
    scoring: Score, model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    colours = {"a.png": (200, 0, 0), "deep/b.jpg": (0, 200, 0), "z.png": (0, 0, 200), "mixed.png": (99, 100, 0)}
    for name, colour in colours.items():
        (source / name).write_bytes(encoded(colour))
    bad = (b"", b"<html>", encoded((1, 2, 3), "JPEG", (300, 300))[:600], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for name, data in zip(BAD, bad, strict=True):
        (source / name).write_bytes(data)
    (source / ".DS_Store").touch()
    (source / "out.png").symlink_to(tmp_path / "export/export.json")
    summary = scoring(source)
    rows = {row["path"]: row for row in rows_in(tmp_path / "out")}
    assert list(rows) == sorted([*colours, *BAD, "out.png"])
    assert {path: row["error"] for path, row in rows.items() if row["error"]} == {
        **BAD,
        "out.png": "link_out_of_source",
    }
    for path in colours:
        [expected] = predict_files(model, [str(source / path)])
        assert {name: rows[path][name] for name in expected if name != "path"} == {
            name: value for name, value in expected.items() if name != "path"
        }
    assert summary == read_json(tmp_path / "out" / SUMMARY)
    assert (summary["rows"], summary["foreign"], summary["unsure"]) == (9, 1, 2)
    assert summary["labels"] == {"red": 2, "grün": 2}


@pytest.mark.parametrize("form", FORMATS)
def test_score_writes_the_same_rows_in_every_format(scoring: Score, tmp_path: Path, form: str) -> None:
    source = fill(tmp_path / "source", 12)
    (source / "=cmd().png").write_bytes(encoded((200, 0, 0)))
    scoring(source, out=tmp_path / "lines")
    scoring(source, form=form)
    expected, found = rows_in(tmp_path / "lines"), rows_in(tmp_path / "out", form)
    assert expected[-1]["path"] == "=cmd().png"
    for row, other in zip(expected, found, strict=True):
        assert other["path"] == (f"'{row['path']}" if form == "csv" and row["path"][0] == "=" else row["path"])
        for name in ("sha256", "label", "unsure", "foreign", "error", "detail"):
            assert other[name] == row[name]
        for name in ("probability", "foreign_score"):
            assert other[name] == (row[name] if row[name] is None else pytest.approx(row[name], abs=1e-6))


def test_score_keeps_features_and_the_probability_of_each_class(scoring: Score, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(encoded((200, 40, 0)))
    (source / "b.png").write_bytes(b"<html>")
    scoring(source, form="parquet", keep_features=True)
    [part] = (tmp_path / "out").glob("*.parquet")
    scored, refused = pq.read_table(part).to_pylist()
    assert scored["features"][:3] == [200, 40, 0]
    assert len(scored["features"]) == 1024
    assert scored["probability"] == scored["probabilities"]["red"]
    assert scored["probabilities"].keys() == set(CLASSES)
    assert refused["features"] is None
    with pytest.raises(PredictError, match="--format parquet"):
        scoring(source, keep_features=True)


def test_score_writes_only_what_is_missing_damaged_or_changed(scoring: Score, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "source", 16), tmp_path / "out"
    scoring(source)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    first, second, third, fourth = sorted(before)
    (out / second).write_text('{"path": ')
    (source / "00015.png").write_bytes(encoded((7, 7, 7)))
    (source / "00016.png").write_bytes(encoded((8, 8, 8)))
    scoring(source)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert [before[name] == after[name] for name in (first, second, third)] == [True, False, True]
    assert len(after) == 5
    assert fourth not in after
    assert [row["path"] for row in rows_in(out)] == [f"{number:05d}.png" for number in range(17)]


def test_score_of_another_model_replaces_the_rows(scoring: Score, model: Path, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 5)
    scoring(source)
    save_export(model, classes=("rouge", "vert"))
    assert scoring(source)["labels"].keys() <= {"rouge", "vert"}
    assert {row["label"] for row in rows_in(tmp_path / "out")} <= {"rouge", "vert", None}


def test_score_refuses_a_folder_into_which_another_process_scores(scoring: Score, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 2)
    (tmp_path / "out").mkdir()
    with claimed(tmp_path / "out/.claim", "scores"), pytest.raises(RunError, match="Another process"):
        scoring(source)


def test_score_says_that_there_is_nothing_to_score(scoring: Score, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/text.png").write_text("text")
    with pytest.raises(PredictError, match=r"None of the 1 images could be scored.*not_an_image"):
        scoring(tmp_path / "source")


def kill_at_random(server: ForkServer, out: Path, rng: random.Random, kills: list[int]) -> None:
    """Kill the program that the server runs, soon after it has written another part."""
    parts = len(list(out.glob("part-*")))
    children = psutil.Process(server._process.pid).children
    wait_until(lambda: bool(children()), "the program", pause_s=0.01)
    [child] = children()
    while child.is_running() and len(list(out.glob("part-*"))) <= parts:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.03))
    if child.is_running():
        child.kill()
        kills.append(child.pid)


@pytest.mark.slow
def test_case_47_scoring_that_is_killed_ends_with_the_same_files(model: Path, workspace: Path, tmp_path: Path) -> None:
    source, whole, out = fill(tmp_path / "source", 100), tmp_path / "whole", tmp_path / "killed"
    options = ["--model", str(model), "--format", "jsonl", "--rows-a-part", "4", str(source), "--out"]
    rng, kills = random.Random(0), list[int]()
    with ForkServer("tasks.score") as server:  # without ONNX Runtime: its import starts a thread, and forks lack it
        assert server.run(*options, str(whole), cwd=workspace).returncode == 0
        for _ in range(6):
            killer = Thread(target=kill_at_random, args=(server, out, rng, kills))
            killer.start()
            server.run(*options, str(out), cwd=workspace)
            killer.join()
        assert kills
        assert server.run(*options, str(out), cwd=workspace).returncode == 0

    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".jsonl", ".json")}

    assert files(out) == files(whole)
    assert [row["path"] for row in rows_in(out)] == [f"{number:05d}.png" for number in range(100)]
    assert {path.name for path in out.iterdir()} - files(out).keys() == {".claim"}, "nothing else is left"
