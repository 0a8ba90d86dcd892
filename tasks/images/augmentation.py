"""Augmentation: augmented versions of a prepared image, the same for the same seed, content and number.

Version 0 is the image itself. The others are flipped by chance, cropped (a part of the area, resized back: C. Szegedy
et al., Going Deeper with Convolutions, 2015) and changed in brightness, contrast and saturation. A view depends only on
its rules, the image's key and its number. So features of views can be kept, and training on them sees the same as
training on images.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.images.shards import Array, Shards
from tasks.parallel import on_all_cores
from tasks.settings import Augmentation

Pixels = npt.NDArray[np.uint8]

PLAIN = 0
MIRRORED = -1
"""The image flipped left to right, for test-time augmentation; training doesn't draw it."""
VERSION = 1
_MAX_STRETCH = 4 / 3
_MEASURED = 64
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Luma of ITU-R BT.601, as in Pillow."""


def view_id(key: str, number: int) -> str:
    """The name of a version's row in a shard; for the unchanged image, it is the key."""
    return key if number == PLAIN else f"{key}.{number}"


def parse_view_id(name: str) -> tuple[str, int]:
    """Split the result of `view_id` into the key and the number."""
    key, _, number = name.partition(".")
    return key, int(number or PLAIN)


def make_view(pixels: Pixels, key: str, number: int, rules: Augmentation) -> Pixels:
    """One augmented version of an image.

    Args:
        pixels: (h, w, 3) RGB.
        key: the example's.
        number: 0 for the image itself, -1 for the mirror image, 1, 2, ... for augmented versions.
        rules: the limits of the changes.

    Returns:
        (h, w, 3) RGB.
    """
    if number == PLAIN:
        return pixels
    if number == MIRRORED:
        return np.ascontiguousarray(pixels[:, ::-1])
    seed = hashlib.sha256(f"{rules.seed}/{key}/{number}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    image = _crop(pixels, rules.min_area, rng)
    if rules.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return _recolour(image, rules.colour, rng) if rules.colour else np.ascontiguousarray(image)


class AugmentedImages:
    """Prepared images, read by view id."""

    def __init__(self, images: Shards, rules: Augmentation) -> None:
        self._images, self._rules = images, rules
        self.shape: tuple[int, ...] = images.shape
        self.dtype: np.dtype[Any] = images.dtype

    def read(self, names: Sequence[str]) -> Array:
        """The views (len(names), 224, 224, 3) uint8 RGB. All cores make them: a single one can't keep a GPU busy."""
        wanted = [parse_view_id(name) for name in names]
        images = self._images.read([key for key, _ in wanted])
        pairs = zip(images, wanted, strict=True)
        return np.stack(on_all_cores(lambda pair: make_view(pair[0], *pair[1], self._rules), pairs))


def measure_views(rules: Augmentation) -> float:
    """Views/s that all cores make from images of 224x224."""
    keys = [str(number) for number in range(_MEASURED)]
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    begun = time.perf_counter()
    on_all_cores(lambda key: make_view(pixels, key, 1, rules), keys)
    return len(keys) / (time.perf_counter() - begun)


def draw_views(size: int, count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The view of each example in an epoch (size,): 0 is the image itself, 1 to `count` its augmented versions."""
    return np.random.default_rng([seed, epoch, count]).integers(0, count + 1, size)


def recipe(rules: Augmentation) -> dict[str, object]:
    """Everything that views depend on besides the image; the number of views is not part of it."""
    return {"version": VERSION, **rules.model_dump(exclude={"count"})}


def _crop(pixels: Pixels, min_area: float, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    area = rng.uniform(min_area, 1.0)
    stretch = math.exp(rng.uniform(-math.log(_MAX_STRETCH), math.log(_MAX_STRETCH)))
    cut_width = min(width, width * math.sqrt(area * stretch))
    cut_height = min(height, height * math.sqrt(area / stretch))
    left, top = rng.uniform(0, width - cut_width), rng.uniform(0, height - cut_height)
    box = (left, top, left + cut_width, top + cut_height)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _recolour(pixels: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    brightness, contrast, saturation = (np.float32(one) for one in rng.uniform(1 - most, 1 + most, 3))
    values = pixels.astype(np.float32)  # changed in place: threads that ask for much memory wait for each other
    values *= brightness
    mean = values.mean()
    values -= mean
    values *= contrast
    values += mean
    grey = (values @ _GREY)[..., np.newaxis]
    values -= grey
    values *= saturation
    values += grey
    np.clip(values, 0, 255, out=values)
    return np.round(values, out=values).astype(np.uint8)
