"""Prepare: only new images are decoded, the same input writes the same bytes, a killed run converges."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tasks import ingest, prepare
from tasks.errors import DataError, IntegrityError
from tasks.files import read_json, sha256_hex
from tasks.images.decoding import decode
from tasks.images.manifest import read_duplicates, read_examples, read_quarantine
from tasks.images.shards import open_shards, read_header
from tasks.workspace import PREPARED, RAW, REPORTS, SHARDS, Workspace
from tests.conftest import contents, draw_image, fill_source
from tests.tasks.images.encoding import encode, noise
from tests.tasks.prepared import prepared, run_tables
from tests.tasks.steps import Change, identities, kill_program, run_afresh, run_prepare, settings_for, twins


def test_prepare_accepts_and_decodes_every_good_image(workspace: Path, source: Path, change: Change) -> None:
    summary = run_prepare(settings_for(change, source), workspace)
    assert (summary.accepted, summary.decoded, summary.quarantined, summary.excluded) == (24, 24, 0, 0)
    shards = open_shards(workspace / SHARDS)
    for example in read_examples(workspace / PREPARED):
        data = (source / example.path).read_bytes()
        assert example.key == sha256_hex(data)
        assert example.label == Path(example.path).parent.name
        assert np.array_equal(shards.read([example.key])[0], decode(data)[0])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_image_of_several_frames_is_flagged_in_the_manifest_and_the_report(
    kind: str, workspace: Path, source: Path, change: Change
) -> None:
    frames = [noise(seed=seed) for seed in range(2)]
    (source / "ant/several").write_bytes(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    run_prepare(settings_for(change, source), workspace)
    notes = {row.path: row.notes.split(",") for row in read_examples(workspace / PREPARED) if row.notes}
    flagged = [path for path, found in notes.items() if "first_frame_of_several" in found]
    assert flagged == ["ant/several"]
    report = read_json(workspace / "reports/data.json")["notes"]
    [listed] = [note["images"] for note in report if note["note"] == "first_frame_of_several"]
    assert [image["path"] for image in listed] == flagged


def test_names_say_nothing_about_formats(workspace: Path, source: Path, change: Change) -> None:
    named = {
        "gif.jpg": "GIF",
        "png.jpg": "PNG",
        "webp.jpg": "WEBP",
        "CAPITALS.JPG": "JPEG",
        "none": "PNG",
        "x.txt": "BMP",
    }
    for seed, (name, kind) in enumerate(named.items()):
        (source / "ant" / name).write_bytes(encode(noise(seed=seed), kind))
    summary = run_prepare(settings_for(change, source), workspace)
    assert (summary.accepted, summary.quarantined) == (24 + len(named), 0)
    noted = {row.path: row.format for row in read_examples(workspace / PREPARED)}
    assert {name: noted[f"ant/{name}"] for name in named} == named


def test_unchanged_images_are_not_decoded_again(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before, files = prepared(workspace), identities(workspace / SHARDS, "*")
    summary = run_prepare(wanted, workspace)
    assert (summary.decoded, summary.reused) == (0, 24)
    assert prepared(workspace) == before
    assert identities(workspace / SHARDS, "*") == files


def test_failed_run_leaves_the_tables_of_the_last_good_one(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before = run_tables(workspace)
    tables = ("duplicates", "examples", "quarantine", "splits")
    assert before.keys() == {"summary.json", *(f"{name}.parquet" for name in tables)}
    for number in range(20):
        (source / "ant" / f"bad{number}").write_bytes(b"%d" % number)
    with pytest.raises(DataError):
        run_prepare(wanted, workspace)
    assert run_tables(workspace) == before


def test_another_background_decodes_everything_again(workspace: Path, source: Path, change: Change) -> None:
    run_prepare(settings_for(change, source), workspace)
    summary = run_prepare(settings_for(change, source, "prepare.background_rgb=[0, 0, 0]"), workspace)
    assert (summary.decoded, summary.reused) == (24, 0)


def test_transparent_pixels_show_the_background_of_the_settings(workspace: Path, source: Path, change: Change) -> None:
    clear = draw_image("ant", 500).convert("RGBA")
    clear.putalpha(0)
    (source / "ant" / "clear.png").write_bytes(encode(clear))
    run_prepare(settings_for(change, source, "prepare.background_rgb=[7, 8, 9]"), workspace)
    key = sha256_hex(encode(clear))
    assert np.array_equal(np.unique(open_shards(workspace / SHARDS).read([key]).reshape(-1, 3), axis=0), [[7, 8, 9]])


@pytest.mark.parametrize("harm", ["pixels", "header", "lose"])
def test_damaged_shard_is_decoded_again_and_no_other(workspace: Path, source: Path, change: Change, harm: str) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before, files = prepared(workspace), identities(workspace / SHARDS, "*")
    victim = sorted(files)[2]
    rows = len(read_header(victim).rows)
    content = bytearray(victim.read_bytes())
    content[content.index(b"entropy_bits") if harm == "header" else -1] ^= 1
    victim.write_bytes(content)
    if harm == "lose":
        victim.unlink()
    assert prepare.run(wanted, Workspace.at(workspace)).decoded == rows
    assert prepared(workspace) == before
    after = identities(workspace / SHARDS, "*")
    assert {path: after[path] for path in files if path != victim} == {
        path: files[path] for path in files if path != victim
    }


def test_missing_pack_is_an_integrity_error(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    for pack in (workspace / RAW).glob("*.tar"):
        pack.unlink()
    with pytest.raises(IntegrityError, match="24 images are in no pack"):
        prepare.run(wanted, Workspace.at(workspace))


def test_prepare_without_ingest_says_what_to_run(workspace: Path, source: Path, change: Change) -> None:
    with pytest.raises(IntegrityError, match="dvc repro"):
        prepare.run(settings_for(change, source), Workspace.at(workspace))


@pytest.mark.slow
def test_killed_prepare_keeps_its_shards_and_ends_like_an_uninterrupted_one(
    workspace: Path, tmp_path: Path, change: Change
) -> None:
    source = fill_source(tmp_path / "source", a_class=60)
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    workers = kill_program(workspace, "tasks.prepare", f"{SHARDS}/*.safetensors", 3)
    assert workers
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    survivors = identities(workspace / SHARDS, "*.safetensors")
    done = sum(len(read_header(path).rows) for path in survivors)
    assert done == 12
    summary = prepare.run(wanted, Workspace.at(workspace))
    assert (summary.decoded, summary.reused) == (120 - done, done)
    assert survivors.items() <= identities(workspace / SHARDS, "*.safetensors").items()
    after = prepared(workspace)
    shutil.rmtree(workspace / PREPARED)
    prepare.run(wanted, Workspace.at(workspace))
    assert prepared(workspace) == after


@pytest.mark.slow
def test_ingest_and_prepare_give_the_same_bytes_in_every_process(workspace: Path, source: Path, change: Change) -> None:
    shutil.copy(source / "ant" / "000.jpg", source / "bee" / "twin.jpg")
    for label in ("ant", "bee"):
        shutil.copy(source / label / "001.png", source / label / "copy.png")
        (source / label / "no image").write_text(label)
        (source / label / ".hidden").touch()
    settings_for(change, source, "prepare.max_quarantined_fraction=1")
    one, two = twins(workspace)
    for stage in ("tasks.ingest", "tasks.prepare"):
        run_afresh((one, two), stage)
        for folder in (RAW, PREPARED, REPORTS):
            assert contents(one / folder) == contents(two / folder), f"{stage} writes other files to {folder}"
    assert {row.code for row in read_quarantine(one / PREPARED)} == {"label_conflict", "not_an_image"}
    assert len(read_duplicates(one / PREPARED)) == 2


def test_data_report_of_a_rerun_is_the_same_bytes(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    (source / "bee" / "003.png").unlink()
    shutil.copy(source / "ant" / "000.jpg", source / "ant" / "twin.jpg")
    run_prepare(wanted, workspace)
    before = contents(workspace / REPORTS)
    changes = read_json(workspace / REPORTS / "data.json")["changes"]
    assert [sum(splits.values()) for splits in changes["removed"].values()] == [1]
    assert [row["reason"] for row in changes["reasons"]] == ["duplicate"]
    run_prepare(wanted, workspace)
    assert contents(workspace / REPORTS) == before


@pytest.mark.parametrize("killed_before", ["write_data_report", "write_examples", "write_quarantine", "write_memory"])
def test_data_report_converges_after_a_kill(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    shutil.copytree(workspace, workspace.with_name("uninterrupted"))
    (source / "bee" / "003.png").rename(source / "ant" / "relabelled.png")
    (source / "ant" / "empty.png").write_bytes(b"")
    run_prepare(wanted, workspace.with_name("uninterrupted"))

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, killed_before, die)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(wanted, workspace)
    run_prepare(wanted, workspace)
    for folder in (REPORTS, PREPARED):
        assert contents(workspace / folder) == contents(workspace.with_name("uninterrupted") / folder)
