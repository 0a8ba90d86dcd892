"""Prepare: discovered = accepted + quarantined + excluded, and every refusal has its reason."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tasks import prepare
from tasks.errors import DataError
from tasks.files import read_json
from tasks.images.decoding import decode
from tasks.images.manifest import Discovered, read_duplicates, read_examples, read_quarantine
from tasks.workspace import PREPARED, Workspace
from tests.conftest import contents, fill_source, save_image
from tests.tasks.images.encoding import encode, noise
from tests.tasks.prepared import codes, counts, prepared, run_tables, splits
from tests.tasks.steps import Change, run_prepare, settings_for


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
