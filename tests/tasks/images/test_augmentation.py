"""Augmented versions of an image: determined by seed, image and number, within the limits of the settings."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import parallel
from tasks.images import augmentation
from tasks.images.augmentation import MIRRORED, PLAIN, draw_views, make_view, parse_view_id, view_id
from tasks.images.shards import open_shards, write_shard
from tasks.settings import Augmentation

RULES = Augmentation(count=4, seed=0, min_area=0.5, flip=True, colour=0.2)
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)
KEY = "ab" * 32


def test_view_0_is_the_image_and_the_mirror_image_is_exact() -> None:
    assert make_view(PIXELS, KEY, PLAIN, RULES) is PIXELS
    assert np.array_equal(make_view(PIXELS, KEY, MIRRORED, RULES), PIXELS[:, ::-1])


def test_views_depend_on_seed_key_and_number_alone() -> None:
    view = make_view(PIXELS, KEY, 1, RULES)
    assert (view.shape, view.dtype) == (PIXELS.shape, np.uint8)
    assert np.array_equal(view, make_view(PIXELS.copy(), KEY, 1, RULES.model_copy(update={"count": 9})))
    others = [
        make_view(PIXELS, KEY, 2, RULES),
        make_view(PIXELS, "cd" * 32, 1, RULES),
        make_view(PIXELS, KEY, 1, RULES.model_copy(update={"seed": 1})),
    ]
    assert not any(np.array_equal(view, other) for other in others)


def test_views_of_a_batch_are_made_by_all_cores_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3)).astype(np.uint8)
    write_shard(tmp_path, [{"key": str(number)} for number in range(3)], images, "recipe")
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    together = threading.Barrier(2)

    def make(pixels: Any, *named: Any) -> Any:
        together.wait(timeout=30)  # BrokenBarrierError unless two are made at the same time
        return make_view(pixels, *named)

    monkeypatch.setattr(augmentation, "make_view", make)
    names = ["2.1", "0", "1.4", "2.-1"]
    found = augmentation.AugmentedImages(open_shards(tmp_path), RULES).read(names)
    for name, view in zip(names, found, strict=True):
        key, number = parse_view_id(name)
        assert np.array_equal(view, make_view(images[int(key)], key, number, RULES))


@pytest.mark.parametrize("number", range(1, 9))
def test_colours_change_as_the_formulas_say_to_the_last_bit(number: int) -> None:
    """Features of views are kept, so another rounding would need another version."""
    rules = RULES.model_copy(update={"min_area": 1.0, "flip": False})
    plain = make_view(PIXELS, KEY, number, rules.model_copy(update={"colour": 0.0}))
    seed = hashlib.sha256(f"{rules.seed}/{KEY}/{number}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    rng.uniform(size=4)  # where the image is cut
    brightness, contrast, saturation = (np.float32(one) for one in rng.uniform(0.8, 1.2, 3))
    bright = plain.astype(np.float32) * brightness
    high = (bright - bright.mean()) * contrast + bright.mean()
    grey = (high @ np.array([0.299, 0.587, 0.114], np.float32))[..., np.newaxis]
    expected = np.clip((high - grey) * saturation + grey, 0, 255).round().astype(np.uint8)
    assert np.array_equal(make_view(PIXELS, KEY, number, rules), expected)


def test_nothing_changes_where_nothing_may() -> None:
    still = Augmentation(count=1, seed=0, min_area=1.0, flip=False, colour=0.0)
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    for number in range(1, 9):
        view = make_view(smooth, KEY, number, still).astype(int)
        assert abs(view - smooth).max() <= 12  # the stretch alone: up to a quarter of the height is cut off


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_views_are_mirrored_if_they_may_be(flip: bool) -> None:
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (48, 1, 3))
    rules = RULES.model_copy(update={"flip": flip, "colour": 0.0})
    falling = sum(
        bool(view[0, 0, 0] > view[0, -1, 0])
        for view in (make_view(ramp, KEY, number, rules) for number in range(1, 101))
    )
    assert 30 < falling < 70 if flip else falling == 0


def test_ids_come_back() -> None:
    for number in (PLAIN, MIRRORED, 1, 12):
        assert parse_view_id(view_id(KEY, number)) == (KEY, number)
    assert view_id(KEY, PLAIN) == KEY


def test_epochs_draw_all_views_and_each_epoch_others() -> None:
    first, second = (draw_views(1000, 3, 0, epoch) for epoch in range(2))
    assert set(first.tolist()) == {0, 1, 2, 3}
    assert not np.array_equal(first, second)
    assert np.array_equal(first, draw_views(1000, 3, 0, 0))
    assert not draw_views(10, 0, 0, 0).any()
