"""What happens to discovered images: duplicates, near duplicates, groups and labels, on images that are made here."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tasks.files import sha256_hex
from tasks.images.decoding import decode
from tasks.images.manifest import Discovered, Memory
from tasks.images.reason_codes import RefusalCode
from tasks.images.selection import Selection, by_content, select
from tasks.images.splits import Rules
from tasks.images.workers import describe_pixels

RULES = Rules(0.2, 0.2, 0)
GIVEN = Rules(0.0, 0.0, 0, frozenset({"train", "test"}))


def photograph(number: int) -> Image.Image:
    """A smooth random image: images of two numbers don't look alike."""
    noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def encoded(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chosen(
    entries: Mapping[str, tuple[bytes, str, str | None, str | None]],
    rules: Rules = RULES,
    previous: Memory | None = None,
    radius: int = 10,
) -> Selection:
    """Select among path -> (bytes, label, given split, group)."""
    rows, facts, pixels = [], {}, {}
    for path, (data, label, split, group) in sorted(entries.items()):
        key = sha256_hex(data)
        rows.append(Discovered(path, label, split, key, None, None, group))
        pixels[key], found = decode(data)
        facts[key] = asdict(describe_pixels(pixels[key], found))
    contents = by_content(rows)
    usable = [key for key in contents.chosen if key not in contents.conflicts]
    selection = select(
        rows,
        contents,
        usable,
        {},
        facts.__getitem__,
        lambda keys: np.stack([pixels[key] for key in keys]),
        radius,
        rules,
        previous or Memory(),
    )
    assert len(rows) == len(selection.examples) + len(selection.quarantined) + sum(selection.excluded.values())
    return selection


def some(count: int, split: str | None = None, start: int = 0) -> dict[str, tuple[bytes, str, str | None, str | None]]:
    return {
        f"a/{number}.png": (encoded(photograph(number)), "a", split, None) for number in range(start, start + count)
    }


def test_different_images_are_all_examples() -> None:
    found = chosen(some(12))
    assert len(found.examples) == 12
    assert (found.quarantined, found.duplicates, sum(found.excluded.values())) == ([], [], 0)


def test_same_pixels_in_another_format_are_left_out() -> None:
    entries = some(4)
    entries["a/0.bmp"] = (encoded(photograph(0), "BMP"), "a", None, None)
    found = chosen(entries)
    (duplicate,) = found.duplicates
    assert (duplicate.path, duplicate.of_path, duplicate.kind, duplicate.outcome) == (
        "a/0.png",
        "a/0.bmp",
        "same_pixels",
        "left_out",
    )
    assert found.excluded == {"duplicate": 1}


@pytest.mark.parametrize("quality", [60, 90])
def test_near_duplicates_stay_together(quality: int) -> None:
    entries = some(30)
    for number in range(30):
        entries[f"a/{number}.jpg"] = (encoded(photograph(number), "JPEG", quality=quality), "a", None, None)
    found = chosen(entries)
    split_of = {example.path: example.split for example in found.examples}
    assert len(split_of) == 60
    assert {split_of[f"a/{number}.png"] == split_of[f"a/{number}.jpg"] for number in range(30)} == {True}
    assert {(row.kind, row.outcome) for row in found.duplicates} == {("near", "kept_together")}
    assert len(set(split_of.values())) == 3


def test_near_duplicates_over_given_splits_stay_in_test_only() -> None:
    entries = some(6, "train")
    for number in range(3):
        small = photograph(number).resize((160, 120))
        entries[f"test/{number}.jpg"] = (encoded(small, "JPEG", quality=85), "a", "test", None)
    found = chosen(entries, GIVEN)
    leaks = {row.path: row.of_path for row in found.duplicates if row.outcome == "left_out_as_leak"}
    assert leaks == {f"a/{number}.png": f"test/{number}.jpg" for number in range(3)}
    assert found.excluded == {"leak": 3}
    assert sorted(example.path for example in found.examples if example.split == "train") == [
        f"a/{number}.png" for number in (3, 4, 5)
    ]


def test_near_duplicates_under_two_labels_are_both_quarantined() -> None:
    entries = some(5)
    entries["b/0.jpg"] = (encoded(photograph(0), "JPEG", quality=80), "b", None, None)
    found = chosen(entries)
    assert [(row.path, row.code) for row in found.quarantined] == [
        ("a/0.png", RefusalCode.LABEL_CONFLICT),
        ("b/0.jpg", RefusalCode.LABEL_CONFLICT),
    ]
    assert "a copy of b/0.jpg, which has the label b" in found.quarantined[0].detail


def test_group_is_in_one_split_and_no_member_moves_when_it_grows() -> None:
    entries = {
        path: (data, label, split, f"patient {int(path[2:-4]) % 9}")
        for path, (data, label, split, _) in some(36).items()
    }
    few = dict(list(entries.items())[:18])
    before = chosen(few)
    after = chosen(entries, previous=before.memory)
    was = {example.path: example.split for example in before.examples}
    now = {example.path: example.split for example in after.examples}
    assert {path: now[path] for path in was} == was
    splits_of: dict[str | None, set[str]] = {}
    for example in after.examples:
        splits_of.setdefault(example.group, set()).add(example.split)
    assert {len(splits) for splits in splits_of.values()} == {1}


def test_copies_of_bytes_are_listed_with_what_they_copy() -> None:
    entries = some(3)
    entries["a/9.png"] = entries["a/0.png"]
    (duplicate,) = chosen(entries).duplicates
    assert (duplicate.path, duplicate.of_path, duplicate.kind) == ("a/9.png", "a/0.png", "same_bytes")
