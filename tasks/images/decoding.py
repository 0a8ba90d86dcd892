"""The only decoder: encoded bytes -> 224x224x3 uint8 RGB, the same for training and prediction.

The rules, in order:
- The format is read from the bytes; file names don't matter. Allowed: JPEG, PNG, GIF, WebP, BMP, TIFF (first frame).
  RAW files are refused, including RAW files in TIFF format that begin with a preview.
- Limits are checked in the header, before any pixel is decoded.
- A JPEG with both sides of 896 pixels or more is decoded at 1/2, 1/4 or 1/8, the smallest scale that leaves 448
  (DRAFT_PX).
- EXIF orientation is applied. Colour profiles are ignored.
- 16 bits a sample keep their high byte; an image of which this would keep almost nothing is refused (`bit_depth`).
- Grey, palette, CMYK and YCbCr become RGB; alpha is composited on a fixed background.
- The whole image is stretched to 224x224 by antialiased bilinear interpolation (a triangle as wide as the scale,
  half-pixel centres, as in Pillow and in tf.image.resize(antialias=True)); nothing is cropped.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.images.bit_depth import check_colours, high_bytes
from tasks.images.formats import is_cut, is_raw
from tasks.images.gif import has_frames
from tasks.images.image_size import IMAGE_SIZE_PX
from tasks.images.reason_codes import RefusalCode, Refused
from tasks.images.signatures import HEAD_BYTES, judge_head

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # JPEG includes MPO
DRAFT_PX = 2 * IMAGE_SIZE_PX
"""A JPEG is decoded at the smallest scale of 1, 1/2, 1/4, 1/8 that leaves both sides this long: it is cheaper to drop
high frequencies than to compute them. Then it is resized with antialiasing, as every image. docs/speed.md says how
exact this is."""

FACTS_VERSION = 4
"""Part of the recipe of every store of facts. Raise it when a fact or a refusal changes and the pixels don't."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_VERSION = 2
_SAMPLE_PX = 256
_CONTENT_PX = 4
_CONTENT_LEVELS = 16

_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)

Image.MAX_IMAGE_PIXELS = None  # this module checks its own limit in the header; Pillow would first warn and then refuse


@dataclass(frozen=True)
class ImageFacts:
    """The facts about an accepted image: size as stored, px; entropy of the grey image's histogram, bits; content.

    With more than 256 rows or columns, the histogram takes a sample (exact to 0.05 bits on photographs).
    `content_fraction` is from `measure_content`.

    `workers.decode_all(describe=True)` adds `look`, base64 of `hash_and_thumbnail` (shards store this name), `pixels`,
    the digest of the decoded pixels (both from `perceptual_hash`), and `scores` (from `quality`).
    """

    width_px: int
    height_px: int
    format: str
    entropy_bits: float
    content_fraction: float
    notes: str
    look: str = ""
    pixels: str = ""
    scores: dict[str, float] | None = None


@dataclass(frozen=True)
class ImagePolicy:
    """Limits on images that could be decoded, but should not be examples."""

    min_side_px: int
    max_pixels: int
    max_aspect_ratio: float
    min_content_fraction: float


PERMISSIVE = ImagePolicy(min_side_px=1, max_pixels=100_000_000, max_aspect_ratio=1e9, min_content_fraction=0)
"""For prediction: every image that can be decoded is accepted."""

WHITE = (255, 255, 255)


def recipe(background_rgb: tuple[int, int, int]) -> dict[str, Any]:
    """Everything that the pixels of an accepted image depend on; part of every fingerprint."""
    return {
        "decoder": _VERSION,
        "pillow": PIL.__version__,
        "size_px": IMAGE_SIZE_PX,
        "draft_px": DRAFT_PX,
        "background_rgb": list(background_rgb),
    }


def decode(
    data: bytes, policy: ImagePolicy = PERMISSIVE, background_rgb: tuple[int, int, int] = WHITE
) -> tuple[Pixels, ImageFacts]:
    """Decode one image.

    Returns:
        Pixels (224, 224, 3), uint8, RGB, upright; and the facts about the original.

    Raises:
        Refused: with the reason code and a detail.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this module handles or notes the problems that Pillow warns about
        image = _open(data)
        size_px = image.size
        check_size(*size_px, policy)
        image.draft(None, (DRAFT_PX, DRAFT_PX))  # only JPEG supports it
        turned = image.format == "TIFF" and _orientation(image) != 1  # Pillow turns TIFF files as it loads them
        _load(image, data)
        check_colours(image, data)
        rgb = to_rgb(_upright(image), background_rgb)
        pixels = np.asarray(rgb.resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BILINEAR), dtype=np.uint8)
        facts = _facts(image, data, size_px, rgb, turned, pixels)
        judge(facts, policy)
    return pixels, facts


def check_size(width_px: int, height_px: int, policy: ImagePolicy) -> None:
    """Raise Refused if the size breaks the policy."""
    if width_px * height_px > policy.max_pixels:
        raise Refused(RefusalCode.TOO_MANY_PIXELS, f"{width_px}x{height_px} pixels, more than {policy.max_pixels}")
    if min(width_px, height_px) < policy.min_side_px:
        raise Refused(RefusalCode.TOO_SMALL, f"{width_px}x{height_px} pixels, a side below {policy.min_side_px}")
    ratio = max(width_px, height_px) / min(width_px, height_px)
    if ratio > policy.max_aspect_ratio:
        raise Refused(
            RefusalCode.EXTREME_ASPECT,
            f"{width_px}x{height_px} pixels, aspect ratio {ratio:.1f} above {policy.max_aspect_ratio:g}",
        )


def judge(facts: ImageFacts, policy: ImagePolicy) -> None:
    """Raise Refused if the facts about a decoded image break the policy."""
    check_size(facts.width_px, facts.height_px, policy)
    if facts.content_fraction < policy.min_content_fraction:
        raise Refused(
            RefusalCode.LOW_INFORMATION,
            f"blank: {facts.content_fraction:.2%} of it differs from its background, below "
            f"{policy.min_content_fraction:.2%}",
        )


def measure_content(pixels: Pixels) -> float:
    """The share of an image (224, 224, 3) that differs visibly from its background, rounded to 4 decimals.

    The image is averaged over squares of 4x4 pixels, which suppresses noise and keeps thin strokes. Its background is
    the median of each channel. A square differs if a channel is more than 16 of 255 levels away.

    Measured on simulated images: 0 for blank sheets with JPEG noise, with noise of 12 levels or with corners darker by
    10 levels; 0.008 for a signature or a stamp on a page; 0.04 for a signature of lines of one pixel; 0.07 for a "not
    found" placeholder. Photographs of ants/bees and flowers have 0.13 and more, handwritten digits 0.37.
    """
    side = IMAGE_SIZE_PX // _CONTENT_PX
    sums = pixels.reshape(side, _CONTENT_PX, side, _CONTENT_PX, 3).sum(axis=(1, 3), dtype=np.int32).reshape(-1, 3)
    background = np.sort(sums, axis=0)[len(sums) // 2]
    differs = np.abs(sums - background).max(axis=1) > _CONTENT_LEVELS * _CONTENT_PX**2
    return round(int(np.count_nonzero(differs)) / len(sums), 4)


def to_rgb(image: Image.Image, background_rgb: tuple[int, int, int]) -> Image.Image:
    """Convert to RGB by the rules of this module.

    Raises:
        Refused: the rules don't cover the colour mode (floating point, 32-bit integers, LAB), or the range of a 16-bit
            image (`bit_depth`).
    """
    if image.mode.startswith("I;16"):
        image = high_bytes(image)
    if image.mode not in _MODES:
        raise Refused(RefusalCode.UNSUPPORTED_COLOURS, f"colour mode {image.mode}; convert it to 8-bit RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, (*background_rgb, 255))
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _open(data: bytes) -> Image.Image:
    if not data:
        raise Refused(RefusalCode.EMPTY_FILE, "0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        raw = is_raw(image, data)
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except _BROKEN as error:
        raise Refused(RefusalCode.TRUNCATED if is_cut(data) else RefusalCode.CORRUPT, _words(error)) from None
    if raw:
        raise Refused(RefusalCode.UNSUPPORTED_FORMAT, "RAW of a camera; convert it to JPEG or PNG")
    return image


def _unidentified(data: bytes) -> Refused:
    code = RefusalCode.TRUNCATED if is_cut(data) else RefusalCode.CORRUPT
    return judge_head(data[:HEAD_BYTES]) or Refused(code, "starts as an image, but its header can't be read")


def _load(image: Image.Image, data: bytes) -> None:
    try:
        image.load()
    except MemoryError:
        raise Refused(
            RefusalCode.TOO_MANY_PIXELS, f"{image.width}x{image.height} pixels don't fit into memory"
        ) from None
    except _BROKEN as error:
        words = _words(error)
        hints = ("truncated", "not enough", "unexpected end", "incomplete")
        cut = any(hint in words.lower() for hint in hints) or is_cut(data)
        raise Refused(RefusalCode.TRUNCATED if cut else RefusalCode.CORRUPT, words) from None


def _facts(
    image: Image.Image, data: bytes, size_px: tuple[int, int], rgb: Image.Image, turned: bool, pixels: Pixels
) -> ImageFacts:
    sample = (min(rgb.width, _SAMPLE_PX), min(rgb.height, _SAMPLE_PX))
    grey = rgb.resize(sample, Image.Resampling.NEAREST).convert("L")
    shares = np.asarray(grey.histogram()[:256], dtype=np.float64) / (grey.width * grey.height)
    shares = shares[shares > 0]
    entropy = float((shares * np.log2(1 / shares)).sum())  # 0 for one colour, not -0
    notes = []
    if turned or _orientation(image) != 1:
        notes.append("exif_oriented")
    several = has_frames(data) if image.format == "GIF" else getattr(image, "is_animated", False)
    if several:
        notes.append("first_frame_of_several")
    content = measure_content(pixels)
    return ImageFacts(*size_px, image.format or "", round(entropy, 4), content, ",".join(notes))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except _BROKEN:
        return 1  # unreadable metadata is no reason to refuse the image
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN as error:  # the orientation was read, so the rest of the metadata is at fault
        raise Refused(RefusalCode.CORRUPT, f"orientation can't be applied: {_words(error)}") from None


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
