"""Images of a fixed camera are no copies of each other; copies with another label are refused, and nothing else is."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tasks.files import sha256_hex
from tasks.images.decoding import decode
from tasks.images.duplicate_sets import LARGE
from tasks.images.manifest import Discovered, Memory
from tasks.images.perceptual_hash import are_copies
from tasks.images.selection import Selection, by_content, select
from tasks.images.splits import Rules
from tasks.images.workers import describe_pixels

RULES = Rules(0.2, 0.2, 0)
GIVEN = Rules(0.0, 0.0, 0, frozenset({"train", "validation", "test"}))


def scene(number: int = 0) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (24, 32), dtype=np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def frame(number: int, of: int = 0, spot_px: int = 12) -> Image.Image:
    """An image of a fixed camera: one scene with a thing of some pixels at another place, and noise."""
    image, rng = scene(of), np.random.default_rng([of, number])
    x, y = rng.integers(0, 300), rng.integers(0, 220)
    ImageDraw.Draw(image).ellipse([x, y, x + spot_px, y + spot_px], fill=int(rng.integers(0, 2)) * 255)
    noisy = np.asarray(image, float) + rng.normal(0, 3, (240, 320))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chosen(
    entries: Mapping[str, bytes], rules: Rules = RULES, previous: Memory | None = None, radius: int = 10
) -> Selection:
    """Select among label/name -> bytes, or split/label/name."""
    rows, facts, pixels = [], {}, {}
    for path, data in sorted(entries.items()):
        key, (*split, label, _) = sha256_hex(data), path.split("/")
        rows.append(Discovered(path, label, split[0] if split else None, key, None))
        pixels[key], found = decode(data)
        facts[key] = asdict(describe_pixels(pixels[key], found))
    contents = by_content(rows)
    usable = [key for key in contents.chosen if key not in contents.conflicts]
    return select(
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


def fixed_camera(good: int, bad: int, of: int = 0) -> dict[str, bytes]:
    frames = [encoded(frame(number, of)) for number in range(good + bad)]
    return {f"{'good' if n < good else 'bad'}/{of}-{n:03}.png": data for n, data in enumerate(frames)}


def splits(found: Selection) -> dict[str, str]:
    return {example.path: example.split for example in found.examples}


def refused(found: Selection) -> set[str]:
    return {row.path for row in found.quarantined}


def test_images_of_a_fixed_camera_are_split_like_different_images() -> None:
    found = chosen(fixed_camera(30, 15))
    by_class = {(path.split("/")[0], split) for path, split in splits(found).items()}
    assert by_class == {(label, split) for label in ("good", "bad") for split in ("train", "validation", "test")}
    assert (len(found.examples), found.quarantined, found.mixed) == (45, [], 0)
    [large] = found.large_sets
    assert (large.n, large.of_label, large.class_size, large.apart) == (45, 15, 15, True)
    assert {row.outcome for row in found.duplicates} == {"kept_apart"}


def test_images_of_a_fixed_camera_stay_in_the_splits_that_the_source_gives() -> None:
    entries = {
        f"{('train', 'validation', 'test')[n % 3]}/{path}": data
        for n, (path, data) in enumerate(fixed_camera(20, 20).items())
    }
    found = chosen(entries, GIVEN)
    assert splits(found) == {path: path.split("/")[0] for path in entries}


def test_smaller_set_of_near_duplicates_stays_in_one_split_and_is_reported() -> None:
    entries = {f"good/{n}.png": encoded(scene(n)) for n in range(50, 90)} | fixed_camera(LARGE + 2, 0, of=1)
    found = chosen(entries)
    assert {split for path, split in splits(found).items() if "/1-" in path} in ({"train"}, {"validation"}, {"test"})
    assert [(large.n, large.apart) for large in found.large_sets] == [(LARGE + 2, False)]


def test_images_that_were_apart_stay_apart_when_they_become_few() -> None:
    camera = fixed_camera(24, 0)
    before = chosen(camera | {f"bad/{n}.png": encoded(scene(n)) for n in range(50, 60)})
    assert len(set(splits(before).values())) == 3
    more = {
        f"{label}/{n}.png": encoded(scene(n)) for label, n in zip(["good", "bad"] * 40, range(50, 130), strict=True)
    }
    less = dict(list(camera.items())[:5])
    for entries in (camera | more, less | more):
        after = chosen(entries, previous=before.memory)
        known = {path: split for path, split in splits(before).items() if path in camera and path in entries}
        assert known.items() <= splits(after).items()
        assert after.excluded == {}
        assert chosen(entries, previous=after.memory) == chosen(
            entries, previous=chosen(entries, previous=after.memory).memory
        )


def test_one_wrong_label_in_a_video_refuses_no_other_frame() -> None:
    still = [np.asarray(scene(), float) + np.random.default_rng(n).normal(0, 2, (240, 320)) for n in range(30)]
    entries = {f"good/{n}.png": encoded(Image.fromarray(a.clip(0, 255).astype(np.uint8))) for n, a in enumerate(still)}
    entries["bad/0.png"] = entries.pop("good/0.png")
    found = chosen(entries)
    assert refused(found) == set()
    assert len(found.examples) == 30
    entries["good/same.bmp"] = encoded(Image.open(io.BytesIO(entries["bad/0.png"])), "BMP")
    assert refused(chosen(entries)) == {"good/same.bmp", "bad/0.png"}


def test_only_the_copies_are_refused_and_not_what_else_looks_alike() -> None:
    entries = {f"good/{n}.png": encoded(scene(n)) for n in range(50, 60)}
    entries |= {"good/a.png": encoded(frame(1)), "good/b.png": encoded(frame(2)), "good/c.png": encoded(frame(3))}
    entries["bad/a.jpg"] = encoded(frame(1), "JPEG", quality=80)
    found = chosen(entries)
    assert refused(found) == {"good/a.png", "bad/a.jpg"}
    kept = {split for path, split in splits(found).items() if path in ("good/b.png", "good/c.png")}
    assert len(kept) == 1
    assert found.mixed == 0


def test_near_duplicates_with_a_local_difference_keep_their_two_labels_in_one_split() -> None:
    entries = {f"good/{n}.png": encoded(scene(n)) for n in range(50, 60)}
    found = chosen(entries | {"good/a.png": encoded(frame(1)), "bad/b.png": encoded(frame(2))})
    assert found.quarantined == []
    assert found.mixed == 2
    assert splits(found)["good/a.png"] == splits(found)["bad/b.png"]


def test_with_no_bits_only_equal_pixels_are_duplicates() -> None:
    entries = {**fixed_camera(12, 12), "good/x.jpg": encoded(frame(0), "JPEG", quality=90)}
    entries["bad/same.bmp"] = encoded(frame(20), "BMP")
    found = chosen(entries, radius=0)
    assert [(row.kind, row.outcome) for row in found.duplicates] == [("same_pixels", "left_out")]
    assert (found.large_sets, found.mixed, found.quarantined) == ([], 0, [])


COPIES = {
    "the same": lambda image: image,
    "jpeg": lambda image: Image.open(io.BytesIO(encoded(image, "JPEG", quality=60))),
    "half": lambda image: image.resize((160, 120), Image.Resampling.LANCZOS),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_agree_and_images_with_a_local_difference_do_not(change: str) -> None:
    for number in range(5):
        one, other = (decode(encoded(image))[0] for image in (frame(number), COPIES[change](frame(number))))
        different = decode(encoded(COPIES[change](frame(number + 100))))[0]
        assert are_copies(one, other)
        assert are_copies(other, one)
        assert not are_copies(one, different)


def test_flat_images_are_copies_of_flat_images_only() -> None:
    flat, white = (np.full((224, 224, 3), level, np.uint8) for level in (90, 255))
    assert are_copies(flat, white)
    assert not are_copies(flat, decode(encoded(scene()))[0])
