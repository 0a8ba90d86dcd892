"""The held-out images, and variants of one, that every exported format must agree on; what the trained model says.

The reference is the training side: `tasks.images.decoding.decode`, features by ncnn in float32, the head in NumPy. So
the reference and the exported models share no code that computes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.errors import IntegrityError
from tasks.files import sha256_hex
from tasks.images.decoding import PERMISSIVE, ImagePolicy, Pixels, decode
from tasks.images.manifest import Example
from tasks.images.packs import PackEntry, index_packs, read_image
from tasks.images.reason_codes import Refused
from tasks.vgg.engines import Engine, Extract
from tasks.vgg.exports.kept import Kept
from tasks.vgg.head import Floats, pool
from tasks.vgg.inference import latest
from tasks.vgg.trained_model import Trained
from tasks.vgg.weights import Weights, digest

_BATCH = 8
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Images:
    """Images that every format must agree on.

    Attributes:
        names: of the images, for errors: mostly paths of the source.
        contents: their bytes.
        pixels: (n, 224, 224, 3), uint8 RGB, by the training decoder.
        real: how many are held-out images. They come first; the others are variants, for those who decode.
    """

    names: tuple[str, ...]
    contents: tuple[bytes, ...]
    pixels: Pixels
    real: int


@dataclass(frozen=True)
class Checks(Images):
    """What the trained model predicts for them.

    Attributes:
        probabilities: (n, classes), float32.
        classes: names, in the order of the probabilities.
        tolerance: largest difference of a probability that passes.
        features: (n, 1024), float32, pooled as by `average_maximum`; for `tasks.vgg.foreign`.
    """

    probabilities: Floats
    classes: tuple[str, ...]
    tolerance: float
    features: Floats


def read_images(chosen: Sequence[Example], raw: Path, background_rgb: tuple[int, int, int], max_pixels: int) -> Images:
    """Read held-out images, and add variants of the first.

    Args:
        chosen: see `choose`.
        raw: the folder of the packs.
        background_rgb: what shows through transparent pixels.
        max_pixels: of an image that training accepts.

    Raises:
        IntegrityError: there are no images, or one is in no pack.
    """
    if not chosen:
        raise IntegrityError("There are no held-out images to check the export with. Run: dvc repro")
    packed = index_packs(raw)
    images = [(example.path, read_image(_place(packed, raw, example), example.key)) for example in chosen]
    images += [(f"{chosen[0].path} ({name})", content) for name, content in variants(images[0][1])]
    policy = replace(PERMISSIVE, max_pixels=max_pixels)
    pixels = np.stack([_decode(name, content, policy, background_rgb) for name, content in images])
    names, contents = zip(*images, strict=True)
    return Images(names, contents, pixels, len(chosen))


def predict_images(images: Images, trained: Trained, weights: Weights, tolerance: float, kept: Kept) -> Checks:
    """Predict the images by the trained model.

    Args:
        images: from `read_images`.
        trained: the champion.
        weights: of the backbone.
        tolerance: see `Checks`.
        kept: where the outputs of a frozen backbone are kept for the next head.
    """
    pixels = images.pixels
    views = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])] if trained.test_time_augmentation else [pixels]
    extract = partial(latest.network, trained.backbone, Engine("ncnn", "float32"), weights)
    outputs = _compute(extract(), views) if trained.backbone else _reuse(extract, weights, views, kept)
    sides = np.stack([trained.head.probabilities(one) for one in outputs])
    probabilities = sides.mean(axis=0, dtype=np.float32)
    features = pool(outputs[0], "average_maximum")
    return Checks(
        **vars(images), probabilities=probabilities, classes=trained.classes, tolerance=tolerance, features=features
    )


def _reuse(extract: Callable[[], Extract], weights: Weights, views: Sequence[Pixels], kept: Kept) -> list[Floats]:
    """`_compute`, or what it gave an earlier run for the same weights and pixels."""
    facts = {"weights": digest(weights), "pixels": [sha256_hex(view.tobytes()) for view in views]}
    files = kept.find("reference", facts)
    if files is None:
        outputs = _compute(extract(), views)
        kept.add("reference", facts, {f"{number}.npy": _to_bytes(values) for number, values in enumerate(outputs)})
        return outputs
    return [np.load(io.BytesIO(content), allow_pickle=False) for _, content in sorted(files.items())]


def _compute(extract: Extract, views: Sequence[Pixels]) -> list[Floats]:
    """The backbone's outputs (n, h, w, c) for each view of the images; rows first, as files keep them."""
    batches = ([extract(view[at : at + _BATCH])[0] for at in range(0, len(view), _BATCH)] for view in views)
    return [np.ascontiguousarray(np.concatenate(some)) for some in batches]


def _to_bytes(values: Floats) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def choose(examples: Sequence[Example], count: int) -> list[Example]:
    """Up to `count` examples, each class in turn, in the order of their content's hash."""
    ranked: list[tuple[int, str, Example]] = []
    seen: dict[str, int] = {}
    for example in sorted(examples, key=lambda one: one.key):
        rank = seen[example.label] = seen.get(example.label, -1) + 1
        ranked.append((rank, example.key, example))
    return [example for *_, example in sorted(ranked, key=lambda one: one[:2])[:count]]


def variants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The image as JPEG and PNG, upright and turned by EXIF: (what it is, bytes)."""
    with Image.open(io.BytesIO(content)) as image:
        rgb = image.convert("RGB")
    for name, form, orientation in (
        ("as JPEG", "JPEG", 1),
        ("as JPEG, EXIF orientation 6", "JPEG", 6),
        ("as JPEG, EXIF orientation 5", "JPEG", 5),
        ("as PNG", "PNG", 1),
        ("as PNG, EXIF orientation 8", "PNG", 8),
    ):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        buffer = io.BytesIO()
        rgb.save(buffer, form, exif=exif) if orientation > 1 else rgb.save(buffer, form)
        yield name, buffer.getvalue()


def _decode(name: str, content: bytes, policy: ImagePolicy, background_rgb: tuple[int, int, int]) -> Pixels:
    try:
        return decode(content, policy, background_rgb)[0]
    except Refused as refused:
        raise IntegrityError(f"{name} was accepted before and is refused now ({refused}). Run: dvc repro") from None


def _place(packed: Mapping[str, PackEntry], raw: Path, example: Example) -> PackEntry:
    if example.key in packed:
        return packed[example.key]
    raise IntegrityError(f"{example.path} is in no pack of {raw}. Run: dvc repro --force --single-item ingest")
