"""Prepare: discovered = accepted + quarantined + excluded, only new images are decoded, and no image moves."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tasks import ingest, prepare
from tasks.errors import DataError, IntegrityError
from tasks.files import read_json, sha256_hex, write_json, write_table
from tasks.images.decoding import decode
from tasks.images.manifest import Discovered, read_duplicates, read_examples, read_quarantine
from tasks.images.shards import open_shards, read_header
from tasks.workspace import PREPARED, RAW, REPORTS, SHARDS, Workspace
from tests.conftest import contents, draw_image, fill_source, save_image
from tests.tasks.images.encoding import encode, noise
from tests.tasks.steps import Change, identities, kill_program, run_afresh, run_prepare, settings_for, twins


def counts(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(workspace / PREPARED / "summary.json")
    return found


def splits(workspace: Path) -> dict[str, str]:
    return {example.path: example.split for example in read_examples(workspace / PREPARED)}


def prepared(workspace: Path) -> dict[str, bytes]:
    return contents(workspace / PREPARED)


def codes(workspace: Path) -> dict[str, str]:
    return {row.path: row.code for row in read_quarantine(workspace / PREPARED)}


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


def test_files_that_are_no_images_are_quarantined_and_every_file_is_counted(
    workspace: Path, source: Path, change: Change
) -> None:
    for name in ("ant/notes.txt", "bee/notes.txt", "bee/copy.txt"):
        (source / name).write_bytes(b"the same text in two classes")
    (source / "bee/copy.png").write_bytes((source / "bee/003.png").read_bytes())
    settings = settings_for(change, source, "prepare.max_quarantined_fraction=0.2")
    summary = run_prepare(settings, workspace)
    assert codes(workspace) == dict.fromkeys(("ant/notes.txt", "bee/copy.txt", "bee/notes.txt"), "not_an_image")
    assert (summary.accepted, summary.quarantined, summary.excluded) == (24, 3, 1)
    report = read_json(workspace / "reports/data.json")
    assert report["discovered"] == 28
    assert report["quarantined_by_code"] == {"not_an_image": 3}
    with pytest.raises(DataError, match=r"3 of 27 images were refused \(3 not_an_image\)"):
        run_prepare(settings_for(change, source, "prepare.max_quarantined_fraction=0.1"), workspace)


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


def test_placeholder_under_many_names_is_kept_once_and_listed(workspace: Path, source: Path, change: Change) -> None:
    names = [f"ant/not-found-{number}.jpg" for number in range(5)]
    for name in names:
        (source / name).write_bytes(encode(noise(seed=9), "JPEG"))
    summary = run_prepare(settings_for(change, source), workspace)
    assert (summary.accepted, summary.excluded) == (25, 4)
    found = read_duplicates(workspace / PREPARED)
    assert [(row.path, row.of_path, row.kind) for row in found] == [
        (name, names[0], "same_bytes") for name in names[1:]
    ]


def test_personal_metadata_stays_in_the_packs(
    workspace: Path, source: Path, change: Change, capfd: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x010F], exif.get_ifd(0x8825)[29] = "canary-5e1c", "canary-5e1c"  # the camera; GPS date
    for name in ("ant/own.jpg", "bee/copy.jpg"):  # quarantined, and so shown in the report
        (source / name).write_bytes(encode(noise(seed=7), "JPEG", exif=exif, comment=b"canary-5e1c"))
    (source / "ant/cut.jpg").write_bytes((source / "ant/own.jpg").read_bytes()[:-200])
    run_prepare(settings_for(change, source), workspace)
    assert codes(workspace)["ant/own.jpg"] == "label_conflict"
    written = prepared(workspace) | contents(workspace / "reports")
    assert len(written) > 6
    assert not [name for name, data in written.items() if b"canary-5e1c" in data]
    page = (workspace / "reports/data.html").read_text()
    thumbnails = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    assert thumbnails
    assert not [data for data in thumbnails if b"canary" in base64.b64decode(data)]
    output = capfd.readouterr()
    assert "canary" not in output.out + output.err


def test_unchanged_images_are_not_decoded_again(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before, files = prepared(workspace), identities(workspace / SHARDS, "*")
    summary = run_prepare(wanted, workspace)
    assert (summary.decoded, summary.reused) == (0, 24)
    assert prepared(workspace) == before
    assert identities(workspace / SHARDS, "*") == files


def test_new_images_alone_are_decoded_and_no_other_moves(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before, files = splits(workspace), identities(workspace / SHARDS, "*")
    for number in range(3):
        save_image(source / "ant" / f"new{number}.png", "ant", 100 + number)
    summary = run_prepare(wanted, workspace)
    assert (summary.decoded, summary.reused) == (3, 24)
    assert before.items() <= splits(workspace).items()
    assert files.items() <= identities(workspace / SHARDS, "*").items()


def test_relabelling_and_renaming_decode_nothing(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before = splits(workspace)
    (source / "ant" / "000.jpg").rename(source / "bee" / "was an ant.jpg")
    summary = run_prepare(wanted, workspace)
    assert summary.decoded == 0
    [moved] = [example for example in read_examples(workspace / PREPARED) if "was" in example.path]
    assert (moved.label, moved.split) == ("bee", before["ant/000.jpg"])


def test_removed_images_are_gone_from_the_shards(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    path = source / "bee" / "003.png"
    key, pixels = sha256_hex(path.read_bytes()), decode(path.read_bytes())[0].tobytes()
    path.unlink()
    before = splits(workspace)
    summary = run_prepare(wanted, workspace)
    assert (summary.accepted, summary.decoded) == (23, 0)
    assert splits(workspace) == {name: split for name, split in before.items() if name != "bee/003.png"}
    everything = prepared(workspace).values()
    assert not any(pixels in content or key.encode() in content for content in everything)


def test_refused_images_are_quarantined_with_their_code(workspace: Path, source: Path, change: Change) -> None:
    good = (source / "ant" / "000.jpg").read_bytes()
    (source / "ant" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (source / "bee" / "empty.png").write_bytes(b"")
    (source / "bee" / "page.jpg").write_bytes(b"<html>404</html>")
    summary = run_prepare(settings_for(change, source), workspace)
    assert codes(workspace) == {
        "ant/cut.jpg": "truncated",
        "bee/empty.png": "empty_file",
        "bee/page.jpg": "not_an_image",
    }
    assert (summary.accepted, summary.quarantined) == (24, 3)
    assert counts(workspace)["quarantined_by_code"] == {"truncated": 1, "empty_file": 1, "not_an_image": 1}


def test_same_bytes_under_two_labels_are_both_quarantined(workspace: Path, source: Path, change: Change) -> None:
    shutil.copy(source / "ant" / "000.jpg", source / "bee" / "twin.jpg")
    run_prepare(settings_for(change, source), workspace)
    assert codes(workspace) == {"ant/000.jpg": "label_conflict", "bee/twin.jpg": "label_conflict"}
    assert not {"ant/000.jpg", "bee/twin.jpg"} & splits(workspace).keys()


def test_label_conflicts_of_the_same_bytes_are_shown_in_the_report(
    workspace: Path, source: Path, change: Change
) -> None:
    shutil.copy(source / "ant" / "000.jpg", source / "bee" / "twin.jpg")
    pixels, _ = decode((source / "ant" / "000.jpg").read_bytes())
    run_prepare(settings_for(change, source), workspace)
    page = (workspace / "reports/data.html").read_text()
    rows = re.findall(r'<span class="thumb"><img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(rows) == 2
    for row in rows:
        shown = Image.open(io.BytesIO(base64.b64decode(row)))
        wanted = Image.fromarray(pixels).resize(shown.size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(shown, int) - np.asarray(wanted, int)).mean() < 6
    assert run_prepare(settings_for(change, source), workspace).decoded == 0


def test_duplicates_across_given_splits_stay_in_test_only(workspace: Path, tmp_path: Path, change: Change) -> None:
    source = tmp_path / "source"
    fill_source(source / "train")
    for number, label in enumerate(("ant", "bee")):
        save_image(source / "test" / label / "1.png", label, 50 + number)
        save_image(source / "valid" / label / "1.png", label, 60 + number)
    shutil.copy(source / "test" / "ant" / "1.png", source / "train" / "ant" / "leak.png")
    shutil.copy(source / "test" / "bee" / "1.png", source / "valid" / "bee" / "leak.png")
    shutil.copy(source / "valid" / "ant" / "1.png", source / "train" / "ant" / "leak2.png")
    summary = run_prepare(settings_for(change, source), workspace)
    found = splits(workspace)
    assert {name: split for name, split in found.items() if not name.startswith("train")} == {
        "test/ant/1.png": "test",
        "test/bee/1.png": "test",
        "valid/ant/1.png": "validation",
        "valid/bee/1.png": "validation",
    }
    assert not [name for name in found if "leak" in name]
    assert (summary.excluded, counts(workspace)["excluded"]) == (3, {"duplicate": 3})


def test_validation_is_carved_from_train_where_test_is_given(workspace: Path, tmp_path: Path, change: Change) -> None:
    source = tmp_path / "source"
    fill_source(source / "train")
    fill_source(source / "val", a_class=3)
    for path in (source / "val").rglob("*.*"):
        draw_image(path.parent.name, 100 + int(path.stem)).save(path)
    run_prepare(settings_for(change, source), workspace)
    by_folder: dict[str, set[str]] = {"train": set(), "val": set()}
    for path_, split in splits(workspace).items():
        by_folder[path_.split("/")[0]].add(split)
    assert by_folder == {"train": {"train", "validation"}, "val": {"test"}}


@pytest.mark.parametrize("seed", range(3))
def test_every_class_of_few_images_is_in_every_split(
    workspace: Path, tmp_path: Path, change: Change, seed: int
) -> None:
    source = fill_source(tmp_path / "source", a_class=4, classes=("ant", "bee", "cat"))
    run_prepare(settings_for(change, source, f"prepare.split_seed={seed}"), workspace)
    assert not [label for label, found in counts(workspace)["classes"].items() if not all(found.values())]


def test_class_that_lost_its_only_training_image_is_named_with_the_cure(
    workspace: Path, tmp_path: Path, change: Change
) -> None:
    source = fill_source(tmp_path / "source", a_class=4)
    wanted = settings_for(change, source, "prepare.min_images_per_class=2")
    run_prepare(wanted, workspace)
    before = splits(workspace)
    for path, split in before.items():
        if path.startswith("ant/") and split == "train":
            (source / path).unlink()
    with pytest.raises(DataError, match=r"class 'ant': none of its .* Add images of the class .*split_seed"):
        run_prepare(wanted, workspace)
    save_image(source / "ant/new.png", "ant", 100)
    run_prepare(wanted, workspace)
    after = splits(workspace)
    assert after["ant/new.png"] == "train"
    assert before.items() >= {path: split for path, split in after.items() if path != "ant/new.png"}.items()


def test_too_many_refused_images_stop_the_run(workspace: Path, source: Path, change: Change) -> None:
    for number in range(8):
        (source / "ant" / f"bad{number}.jpg").write_bytes(b"<html>%d" % number)
    with pytest.raises(DataError, match=r"8 of 32 images were refused \(8 not_an_image\)") as caught:
        run_prepare(settings_for(change, source), workspace)
    assert "ant/bad0.jpg: not_an_image" in str(caught.value)
    assert (
        run_prepare(settings_for(change, source, "prepare.max_quarantined_fraction=0.25"), workspace).quarantined == 8
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_class_that_is_too_small_stops_before_anything_is_decoded(
    workspace: Path, source: Path, change: Change, size: int
) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before = prepared(workspace)
    for number in range(size):
        save_image(source / "cat" / f"{number}.png", "cat", number)
    with pytest.raises(DataError, match=f"class 'cat': {size} different images, .*min_images_per_class is 4"):
        run_prepare(wanted, workspace)
    assert prepared(workspace) == before


def test_class_that_refusals_make_too_small_is_named(workspace: Path, source: Path, change: Change) -> None:
    for number in range(3):
        save_image(source / "cat" / f"{number}.png", "cat", number)
    (source / "cat" / "bad.png").write_bytes(b"BM, but cut off")
    before = run_tables(workspace)
    with pytest.raises(DataError, match="class 'cat': 3 accepted"):
        run_prepare(settings_for(change, source), workspace)
    assert run_tables(workspace) == before


def run_tables(workspace: Path) -> dict[str, bytes]:
    folder = workspace / PREPARED
    return {path.name: path.read_bytes() for path in folder.glob("*.*")} if folder.exists() else {}


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


def test_empty_split_is_explained(workspace: Path, source: Path, change: Change) -> None:
    with pytest.raises(DataError, match=r"the test split is empty: raise prepare\.test_fraction"):
        run_prepare(settings_for(change, source, "prepare.test_fraction=0"), workspace)


def test_stricter_policy_refuses_without_decoding_and_a_looser_one_decodes_only_the_refused(
    workspace: Path, source: Path, change: Change
) -> None:
    for number, shade in enumerate((90, 180)):
        Image.new("RGB", (32, 32), (shade, shade, shade)).save(source / "bee" / f"blank{number}.png")
    assert run_prepare(settings_for(change, source), workspace).decoded == 26
    strict = settings_for(change, source, "prepare.min_content_fraction=0.001")
    summary = run_prepare(strict, workspace)
    assert (summary.decoded, summary.accepted, summary.quarantined) == (0, 24, 2)
    assert codes(workspace) == {"bee/blank0.png": "low_information", "bee/blank1.png": "low_information"}
    summary = run_prepare(settings_for(change, source), workspace)
    assert (summary.decoded, summary.accepted) == (2, 26)


def save_drawing(path: Path, number: int) -> None:
    """A 1-bit scan of a few strokes."""
    page = Image.new("1", (200, 100), 1)
    points = np.random.default_rng(number).integers(20, 80, (6, 2)) * (2, 1)
    ImageDraw.Draw(page).line([tuple(point) for point in points.tolist()], fill=0, width=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


LIMITS = ("prepare.min_entropy_bits=1", "prepare.min_content_fraction=0.001")


def test_classes_of_drawings_are_accepted_with_a_note(workspace: Path, source: Path, change: Change) -> None:
    for number in range(8):
        save_drawing(source / "cat" / f"{number}.png", number)
    Image.new("1", (200, 100), 1).save(source / "cat" / "blank.png")
    run_prepare(settings_for(change, source, *LIMITS), workspace)
    assert codes(workspace) == {"cat/blank.png": "low_information"}
    noted = {row.path for row in read_examples(workspace / PREPARED) if "few_tones" in row.notes}
    assert noted == {f"cat/{number}.png" for number in range(8)}


def test_placeholder_in_a_class_of_photographs_is_refused_without_decoding_again(
    workspace: Path, source: Path, change: Change
) -> None:
    save_drawing(source / "ant" / "not found.png", 0)
    run_prepare(settings_for(change, source, *LIMITS), workspace)
    assert codes(workspace) == {"ant/not found.png": "low_information"}
    [row] = read_quarantine(workspace / PREPARED)
    assert row.detail.startswith("a placeholder? Its entropy is 0.")
    assert "1 of the 13 images of its class" in row.detail
    tables = run_tables(workspace)
    assert run_prepare(settings_for(change, source, *LIMITS), workspace).decoded == 0
    assert run_tables(workspace) == tables
    for number in range(3):
        save_drawing(source / "ant" / f"drawing{number}.png", 10 + number)
    run_prepare(settings_for(change, source, *LIMITS), workspace)
    assert codes(workspace) == {}


def test_known_and_new_refusals_are_the_same(workspace: Path, source: Path, change: Change) -> None:
    Image.new("RGB", (32, 32), (9, 9, 9)).save(source / "bee" / "blank.png")
    run_prepare(settings_for(change, source), workspace)
    run_prepare(settings_for(change, source, "prepare.min_content_fraction=0.001"), workspace)
    known = run_tables(workspace)
    shutil.rmtree(workspace / PREPARED)
    prepare.run(settings_for(change, source, "prepare.min_content_fraction=0.001"), Workspace.at(workspace))
    assert run_tables(workspace) == known


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


def test_excluded_entries_are_counted(workspace: Path, source: Path, change: Change) -> None:
    (source / "notes.txt").write_text("x")
    (source / "ant" / ".DS_Store").write_text("x")
    (source / "empty").mkdir()
    summary = run_prepare(settings_for(change, source), workspace)
    assert summary.excluded == 3
    assert counts(workspace)["excluded"] == {"outside_class_folders": 1, "system_file": 1, "empty_folder": 1}


rows = st.builds(
    Discovered,
    st.integers(0, 10_000).map(str),
    st.sampled_from("ab"),
    st.sampled_from(["train", "validation", "test", None]),
    st.sampled_from("12345678"),
    st.none(),
)


@given(st.lists(rows, max_size=30, unique_by=lambda row: row.path))
def test_contents_are_grouped_without_losing_a_row(found: list[Discovered]) -> None:
    contents = prepare.by_content(found)
    chosen, conflicts = contents.chosen, contents.conflicts
    in_conflict = sum(row.key in conflicts for row in found)
    assert len(found) == len(chosen) - len(conflicts) + in_conflict + len(contents.copies)
    assert conflicts == {
        row.key for row in found for other in found if row.key == other.key and row.label != other.label
    }
    assert [row.path for row in chosen.values()] == sorted(row.path for row in chosen.values())
    for key, row in chosen.items():
        ranks = [{"test": 0, "validation": 1}.get(other.split or "", 2) for other in found if other.key == key]
        assert {"test": 0, "validation": 1}.get(row.split or "", 2) == min(ranks)


@pytest.mark.parametrize("seed", range(4))
def test_counts_always_balance(workspace: Path, tmp_path: Path, change: Change, seed: int) -> None:
    draw = np.random.default_rng(seed)
    source = fill_source(tmp_path / "source", a_class=8)
    entries = 16
    for number in range(draw.integers(5, 25)):
        label = ("ant", "bee")[draw.integers(2)]
        path = source / label / f"x{number}"
        kind = draw.integers(5)
        if kind == 0:
            path.write_bytes(b"")
        elif kind == 1:
            path.write_bytes((source / ("ant", "bee")[draw.integers(2)] / "001.png").read_bytes())
        elif kind == 2:
            path.write_bytes((source / label / "002.jpg").read_bytes()[:200])
        elif kind == 3:
            path.with_name(f".hidden{number}").write_bytes(b"x")
        else:
            path.with_suffix("").symlink_to("nowhere")
        entries += 1
    wanted = settings_for(change, source, "prepare.max_quarantined_fraction=1")
    summary = run_prepare(wanted, workspace)
    assert summary.accepted + summary.quarantined + summary.excluded == entries
    found = counts(workspace)
    assert found["discovered"] == entries == found["accepted"] + found["quarantined"] + sum(found["excluded"].values())
    assert len(read_examples(workspace / PREPARED)) == found["accepted"]
    assert Counter(row.code for row in read_quarantine(workspace / PREPARED)) == found["quarantined_by_code"]


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


@pytest.mark.parametrize("name", ["splits.parquet", "summary.json"])
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_lost_memory_of_the_splits_is_reported_and_drawn_again(
    workspace: Path, source: Path, change: Change, capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    settings = settings_for(change, source)
    run_prepare(settings, workspace)
    assert "splits" not in capsys.readouterr().err  # a first run has lost nothing
    before, file = splits(workspace), workspace / PREPARED / name
    file.write_bytes(file.read_bytes()[:-20]) if harm == "cut" else file.unlink()
    run_prepare(settings, workspace)
    assert f"{PREPARED} doesn't say any more which split an image was in" in capsys.readouterr().err
    assert splits(workspace) == before  # as the contents draw them


def save_alike(folder: Path, count: int, seed: int = 0) -> None:
    """Images of one scene that differ in noise only."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = np.asarray(draw_image("ant", seed, 8).resize((64, 64), Image.Resampling.BICUBIC), float)
    for number in range(count):
        pixels = scene + np.random.default_rng([seed, number]).normal(0, 2, scene.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"alike{seed}-{number:02}.png")


def test_images_that_look_alike_are_warned_of_in_the_log_and_the_report(
    workspace: Path, source: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    save_alike(source / "cat", 12)
    save_alike(source / "ant", 11, seed=1)
    (source / "ant/alike1-10.png").rename(source / "bee/alike1-10.png")
    run_prepare(settings_for(change, source), workspace)
    log = capsys.readouterr().err
    [apart, together] = [line for line in log.splitlines() if "look alike" in line or "near duplicates" in line]
    assert "12 images look alike, among them 12 of the 12 images of cat (cat/alike0-00.png, " in apart
    assert "11 images are in a set of near duplicates; the largest has 11 (ant/alike1-00.png, " in together
    assert "prepare.near_duplicate_bits=0" in together
    assert "11 accepted images look like an image with another label" in log
    report = read_json(workspace / "reports/data.json")
    assert [f"prepare: {warning}" for warning in report["warnings"]] == [apart, together, log.splitlines()[-1]]
    first = report["duplicates"]["listed"][0]
    assert {first["label"], first["of_label"]} == {"ant", "bee"}
    assert len({split for path, split in splits(workspace).items() if path.startswith("cat/")}) == 3


def test_other_bits_for_near_duplicates_draw_the_splits_again(workspace: Path, source: Path, change: Change) -> None:
    save_alike(source / "ant", 10, seed=1)
    for bits, expected in ((10, 1), (0, 3)):
        run_prepare(settings_for(change, source, f"prepare.near_duplicate_bits={bits}"), workspace)
        assert len({split for path, split in splits(workspace).items() if "alike" in path}) == expected


def test_memory_of_an_older_version_is_kept(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    run_prepare(wanted, workspace)
    before = prepared(workspace)
    moved = {path: {"train": "test", "test": "train"}.get(split, split) for path, split in splits(workspace).items()}
    keys = {example.path: example.key for example in read_examples(workspace / PREPARED)}
    rows = [{"key": keys[path], "split": split} for path, split in moved.items()]
    write_table(
        workspace / PREPARED / "splits.parquet", rows, pa.schema([("key", pa.string()), ("split", pa.string())])
    )
    summary = counts(workspace)
    del summary["near_duplicate_bits"]
    write_json(workspace / PREPARED / "summary.json", summary)
    run_prepare(wanted, workspace)
    assert splits(workspace) == moved
    assert prepared(workspace).keys() == before.keys()
