"""The decoder: its rules to the pixel, and a reason code for everything that it refuses."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps, TiffImagePlugin
from PIL.GifImagePlugin import GifImageFile
from PIL.MpoImagePlugin import MpoImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from sklearn.datasets import load_sample_image

from tasks.images.decoding import PERMISSIVE, ImageFacts, ImagePolicy, decode, judge, recipe
from tasks.images.gif import has_frames
from tasks.images.reason_codes import RefusalCode, Refused
from tests.conftest import PROJECT
from tests.tasks.images.encoding import FORMATS, chunk, encode, noise, png

STRICT = ImagePolicy(min_side_px=8, max_pixels=10_000, max_aspect_ratio=20, min_content_fraction=0.001)
GREY = (128, 128, 128)
SIZE = 224


def photograph() -> Image.Image:
    """640x427 pixels of a camera, from scikit-learn."""
    return Image.fromarray(load_sample_image("china.jpg"))


def code_of(data: bytes, policy: ImagePolicy = PERMISSIVE) -> RefusalCode | None:
    try:
        decode(data, policy)
    except Refused as refused:
        assert refused.detail  # noqa: PT017 - not what is tested
        return refused.code
    return None


def test_decode_gives_224_pixels_square_of_rgb_bytes() -> None:
    pixels, facts = decode(encode(noise(96, 64)))
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (facts.width_px, facts.height_px, facts.format, facts.notes) == (96, 64, "PNG", "")
    assert 7 < facts.entropy_bits < 8


# --- what the pixels are


def test_image_of_the_right_size_keeps_every_pixel() -> None:
    image = noise(SIZE, SIZE)
    assert np.array_equal(decode(encode(image))[0], np.asarray(image))


def triangle(size: int) -> np.ndarray:
    """The stated rule as a matrix (224, size): a triangle as wide as the scale, half-pixel centres, sum 1."""
    scale = max(size / SIZE, 1.0)
    centres = (np.arange(SIZE)[:, None] + 0.5) * size / SIZE - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(size)[None] - centres) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_stretch_is_the_stated_rule(width_px: int, height_px: int) -> None:
    image = noise(width_px, height_px)
    values = np.asarray(image, dtype=np.float64)
    expected = np.einsum("ah,hwc,bw->abc", triangle(height_px), values, triangle(width_px), optimize=True)
    pixels, _ = decode(encode(image, "BMP"))
    assert np.abs(pixels - expected).max() <= 1.01  # two passes, each rounded to whole levels


def halves(left: object, right: object, mode: str) -> Image.Image:
    image = Image.new(mode, (SIZE, SIZE), left)  # type: ignore[arg-type]
    image.paste(right, (SIZE // 2, 0, SIZE, SIZE))  # type: ignore[arg-type]
    return image


def palette(transparent: int | None = None) -> bytes:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.paste(1, (SIZE // 2, 0, SIZE, SIZE))
    image.putpalette([10, 20, 30, 200, 100, 50])
    return encode(image, **({} if transparent is None else {"transparency": transparent}))


def sixteen_bits(kind: str) -> bytes:
    values = np.full((SIZE, SIZE), 0x12FF, np.uint16)
    values[:, SIZE // 2 :] = 0xFE01
    if kind == "big-endian TIFF":
        return encode(Image.frombytes("I;16B", (SIZE, SIZE), values.astype(">u2").tobytes()), "TIFF")
    return encode(Image.fromarray(values), kind)


def sixteen_bit_rgb() -> bytes:
    row = b"\0" + bytes.fromhex("12ff 34ff 56ff") * (SIZE // 2) + bytes.fromhex("fe01 0001 8001") * (SIZE // 2)
    return png(SIZE, SIZE, 16, 2, row * SIZE)


GOLDEN = {
    "RGB": (lambda: encode(halves((1, 2, 3), (250, 128, 0), "RGB")), (1, 2, 3), (250, 128, 0)),
    "grey": (lambda: encode(halves(7, 200, "L")), (7, 7, 7), (200, 200, 200)),
    "1 bit": (lambda: encode(halves(0, 1, "1")), (0, 0, 0), (255, 255, 255)),
    "palette": (palette, (10, 20, 30), (200, 100, 50)),
    "palette with a transparent colour": (lambda: palette(1), (10, 20, 30), GREY),
    "alpha": (lambda: encode(halves((255, 0, 0, 0), (255, 0, 0, 51), "RGBA")), GREY, (153, 102, 102)),
    "grey with alpha": (lambda: encode(halves((0, 255), (0, 0), "LA")), (0, 0, 0), GREY),
    "GIF with transparency": (lambda: encode(Image.new("P", (SIZE, SIZE)), "GIF", transparency=0), GREY, GREY),
    "RGB with a transparent colour": (
        lambda: encode(halves((9, 9, 9), (1, 2, 3), "RGB"), transparency=(1, 2, 3)),
        (9, 9, 9),
        GREY,
    ),
    "16-bit grey PNG": (lambda: sixteen_bits("PNG"), (0x12, 0x12, 0x12), (0xFE, 0xFE, 0xFE)),
    "16-bit grey TIFF": (lambda: sixteen_bits("TIFF"), (0x12, 0x12, 0x12), (0xFE, 0xFE, 0xFE)),
    "16-bit grey big-endian TIFF": (lambda: sixteen_bits("big-endian TIFF"), (0x12,) * 3, (0xFE,) * 3),
    "16-bit RGB": (sixteen_bit_rgb, (0x12, 0x34, 0x56), (0xFE, 0, 0x80)),
    "CMYK TIFF": (lambda: encode(halves((255, 0, 0, 0), (0, 0, 0, 0), "CMYK"), "TIFF"), (0, 255, 255), (255, 255, 255)),
    "CMYK black": (lambda: encode(halves((0, 0, 0, 255), (0, 255, 255, 0), "CMYK"), "TIFF"), (0, 0, 0), (255, 0, 0)),
    "YCbCr TIFF": (lambda: encode(halves((76, 85, 255), (255, 128, 128), "YCbCr"), "TIFF"), (254, 0, 0), (255,) * 3),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_colours_become_rgb_by_the_stated_rule(name: str) -> None:
    make, left, right = GOLDEN[name]
    pixels, _ = decode(make(), background_rgb=GREY)
    assert tuple(pixels[100, 50].tolist()) == tuple(left)
    assert tuple(pixels[100, 170].tolist()) == tuple(right)


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_jpeg_in_every_colour_space_keeps_its_colours(mode: str) -> None:
    image = halves((200, 30, 30), (30, 30, 200), "RGB").convert(mode)
    pixels, _ = decode(encode(image, "JPEG", quality=100))
    for column, place in ((50, (50, 100)), (170, (170, 100))):
        expected = np.array(image.convert("RGB").getpixel(place))
        assert np.abs(pixels[100, column].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (60, 40), (250, 0, 0))  # red, with a green and a blue corner
    upright.paste((0, 250, 0), (0, 0, 20, 20))
    upright.paste((0, 0, 250), (40, 0, 60, 20))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera that was held so stores it
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, facts = decode(encode(stored, kind, exif=exif, **({"quality": 95} if kind != "TIFF" else {})))
    seen = [int(pixels[row, column].argmax()) for row, column in ((30, 30), (30, 200), (200, 30), (200, 200))]
    assert seen == [1, 2, 0, 0]
    assert facts.notes == ("" if orientation == 1 else "exif_oriented")


def test_jpeg_as_ycck_keeps_its_colours() -> None:
    # What Pillow stores as CMYK are the values from 255 downwards; this mark makes luma and chroma of the first three.
    data = encode(Image.new("CMYK", (SIZE, SIZE), (255 - 76, 255 - 85, 255 - 255, 0)), "JPEG", quality=100)
    mark = data.index(b"Adobe") + 11
    assert data[mark] == 0
    pixels, _ = decode(data[:mark] + b"\x02" + data[mark + 1 :])
    assert np.abs(pixels[100, 100].astype(int) - (1, 255, 255)).max() <= 2


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + os.urandom(300)])
def test_metadata_that_can_not_be_read_does_not_cost_the_image(exif: bytes) -> None:
    plain, _ = decode(encode(noise(), "JPEG"))
    pixels, facts = decode(encode(noise(), "JPEG", exif=exif, icc_profile=b"no profile at all"))
    assert np.array_equal(pixels, plain)
    assert facts.notes == ""


def test_exif_that_points_at_itself_ends() -> None:
    loop = b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0" + b"\x69\x87\x04\0\x01\0\0\0\x08\0\0\0" + b"\x08\0\0\0"
    assert code_of(encode(noise(), "JPEG", exif=loop)) is None


def refuse_to_seek(*_: object) -> None:
    raise AssertionError("another frame was looked for")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_of_several_is_taken_and_flagged_without_going_to_another(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Image.new("RGB", (SIZE, SIZE), (200, 0, 0)), Image.new("RGB", (SIZE, SIZE), (0, 0, 200))
    several, one = encode(first, kind, save_all=True, append_images=[second]), encode(first, kind)
    for plugin in (Image.Image, GifImageFile, MpoImageFile, PngImageFile, TiffImageFile, WebPImageFile):
        monkeypatch.setattr(plugin, "seek", refuse_to_seek)
    pixels, facts = decode(several)
    assert np.abs(pixels[100, 100].astype(int) - (200, 0, 0)).max() <= 3
    assert facts.notes == "first_frame_of_several"
    assert decode(one)[1].notes == ""


def test_gif_of_several_frames_is_known_at_any_palette_and_with_comments() -> None:
    frames = [noise(20, 10, seed) for seed in range(3)]
    local = [frame.quantize(2 << seed) for seed, frame in enumerate(frames)]
    for images in (frames, [frame.convert("L") for frame in frames], local):
        several = encode(images[0], "GIF", save_all=True, append_images=images[1:], comment=b"x" * 600, duration=9)
        assert has_frames(several)
        assert not has_frames(encode(images[0], "GIF", comment=b",!" * 300))
        begin = next(cut for cut in range(len(several)) if has_frames(several[:cut]))
        assert begin > len(encode(images[0], "GIF")) - 1
        assert all(has_frames(several[:cut]) for cut in range(begin, len(several)))


@given(st.binary(max_size=300))
def test_no_bytes_keep_the_search_for_frames_from_ending(junk: bytes) -> None:
    assert has_frames(b"GIF89a" + junk) in (True, False)


def test_trailing_junk_is_accepted() -> None:
    for kind in ("JPEG", "PNG", "GIF"):
        assert np.array_equal(decode(encode(noise(), kind) + b"junk" * 500)[0], decode(encode(noise(), kind))[0])


@pytest.mark.parametrize(
    ("size", "decoded"),
    [((895, 900), (895, 900)), ((896, 1000), (448, 500)), ((2000, 1792), (500, 448)), ((3584, 4001), (448, 501))],
)
def test_large_jpeg_is_decoded_no_larger_than_needed(
    size: tuple[int, int], decoded: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = encode(photograph().resize(size), "JPEG"), []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *given: (seen.append(self.size), resize(self, *given))[1])
    _, facts = decode(data)
    assert set(seen) == {decoded}
    assert (facts.width_px, facts.height_px) == size


@pytest.mark.parametrize("size", [(1000, 1344), (2000, 1500)])
def test_jpeg_decoded_at_less_looks_as_decoded_in_full(size: tuple[int, int]) -> None:
    image = photograph().resize(size, Image.Resampling.BICUBIC)
    data = encode(image, "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as whole:
        expected = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(decode(data)[0] - expected)
    assert 0 < difference.mean() < 0.6
    assert difference.max() <= 9


def test_entropy_of_a_large_image_is_known_from_a_sample() -> None:
    grey = np.asarray(photograph().convert("L"))
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    exact = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
    assert abs(decode(encode(photograph()))[1].entropy_bits - exact) < 0.05


def test_image_of_one_colour_has_an_entropy_of_zero_without_a_sign() -> None:
    assert str(decode(encode(Image.new("RGB", (30, 30), "white")))[1].entropy_bits) == "0.0"


def paper(noise_levels: float, falloff: float = 0, level: int = 250) -> bytes:
    """A blank sheet as a camera sees it, with noise and darker corners, as JPEG."""
    y, x = np.mgrid[-1:1:240j, -1:1:320j]
    noisy = level - falloff * (x**2 + y**2) / 2 + np.random.default_rng(0).normal(0, noise_levels, y.shape)
    return encode(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=75)


def drawing(width_px: int, mode: str = "1", side_px: int = 90, ink: int = 0) -> bytes:
    """A few strokes on a white page."""
    page = Image.new("L", (90, 90), 255)
    ImageDraw.Draw(page).line([(20, 40), (30, 60), (40, 30), (50, 60), (70, 45)], fill=ink, width=width_px)
    large = Image.new("L", (side_px, side_px), 255)
    large.paste(page, ((side_px - 90) // 2,) * 2)
    return encode(large.convert(mode))


BLANK = {
    "white": encode(Image.new("L", (90, 90), 255)),
    "black": encode(Image.new("RGB", (90, 90))),
    "jpeg with noise": paper(2),
    "much noise": paper(12, level=128),
    "darker corners": paper(2, falloff=12),
}
DRAWN = {
    "thin strokes of 1 bit": drawing(1),
    "thick strokes of 1 bit": drawing(5),
    "a small signature on a page": drawing(4, side_px=400),
    "pencil": drawing(2, "L", ink=170),
    "white on black": encode(ImageOps.invert(Image.open(io.BytesIO(drawing(2, "L"))))),
}


@pytest.mark.parametrize("name", BLANK)
def test_blank_images_are_refused(name: str) -> None:
    assert code_of(BLANK[name], dataclasses.replace(STRICT, max_pixels=10**6)) == RefusalCode.LOW_INFORMATION


@pytest.mark.parametrize("name", DRAWN)
def test_drawings_are_accepted_however_few_tones_they_have(name: str) -> None:
    assert decode(DRAWN[name], dataclasses.replace(STRICT, max_pixels=10**6))[1].entropy_bits < 1


def test_jpeg_without_jfif_header_is_accepted() -> None:
    data = encode(noise(), "JPEG")
    length = int.from_bytes(data[4:6], "big")
    bare = data[:2] + data[4 + length :]
    assert data[6:10] == b"JFIF"
    assert np.array_equal(decode(bare)[0], decode(data)[0])


@pytest.mark.parametrize("odd", [b"\x09\x09\0\0\0\0\0\0\0", b"\x01\x01\x07\xff\xff\xff\xff\0\0", b"\0" * 9])
def test_jpeg_with_an_odd_jfif_header_is_accepted(odd: bytes) -> None:
    data = encode(noise(), "JPEG")
    place = data.index(b"JFIF\0") + 5  # version, unit, density, thumbnail
    assert np.array_equal(decode(data[:place] + odd + data[place + 9 :])[0], decode(data)[0])


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_is_decoded_by_its_content(kind: str) -> None:
    pixels, facts = decode(encode(noise(SIZE, SIZE), kind))
    assert facts.format == kind.split()[0]
    if kind not in ("JPEG", "JPEG progressive", "GIF", "WEBP"):
        assert np.array_equal(pixels, np.asarray(noise(SIZE, SIZE)))


# --- what is refused


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_image_is_refused_as_truncated_wherever_it_is_cut(kind: str) -> None:
    data = encode(noise(), kind)
    for percent in range(5, 100, 5):
        assert code_of(data[: len(data) * percent // 100]) == RefusalCode.TRUNCATED, f"{percent} %"


def test_jpeg_is_truncated_also_without_its_last_byte() -> None:
    data = encode(noise(), "JPEG")
    assert {code_of(data[:end]) for end in range(20, len(data), 7)} == {RefusalCode.TRUNCATED}
    assert code_of(data[:-1]) == RefusalCode.TRUNCATED


def tagged_tiff(tag: int, value: int | bytes) -> bytes:
    """A TIFF file that Pillow decodes, with one more tag."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    return encode(noise(), "TIFF", tiffinfo=tags)


def canon_raw() -> bytes:
    """A CR2 file: a TIFF file with a mark behind its header, and a preview as its first image."""
    data = encode(noise(), "TIFF")
    order = "<" if data.startswith(b"II") else ">"
    [directory] = struct.unpack_from(f"{order}I", data, 4)
    return data[:4] + struct.pack(f"{order}I", len(data)) + b"CR\x02\0" + data[12:] + data[directory:]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
REFUSED = {
    "0 bytes": (b"", RefusalCode.EMPTY_FILE),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", RefusalCode.NOT_AN_IMAGE),
    "a web page with a mark and spaces": (b"\xef\xbb\xbf\n\n <HTML>", RefusalCode.NOT_AN_IMAGE),
    "an error as JSON": (b'{"error": "not found"}', RefusalCode.NOT_AN_IMAGE),
    "plain text": (b"this is no image", RefusalCode.NOT_AN_IMAGE),
    "zeros": (bytes(1000), RefusalCode.NOT_AN_IMAGE),
    "a packed image": (gzip.compress(b"x" * 100), RefusalCode.NOT_AN_IMAGE),
    "HEIC": (HEIC, RefusalCode.UNSUPPORTED_FORMAT),
    "AVIF": (HEIC.replace(b"heic", b"avif"), RefusalCode.UNSUPPORTED_FORMAT),
    "SVG": (
        b'<?xml version="1.0"?><!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>',
        RefusalCode.UNSUPPORTED_FORMAT,
    ),
    "PSD": (b"8BPS\0\1" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "PDF": (b"%PDF-1.7\n", RefusalCode.UNSUPPORTED_FORMAT),
    "ICO": (b"\0\0\1\0\1\0" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "ICNS": (b"icns" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "JPEG XL": (b"\xff\x0a" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Canon (CR2)": (canon_raw(), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Canon (CR3)": (HEIC.replace(b"heic", b"crx "), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Nikon and Sony": (tagged_tiff(254, 1), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Adobe": (tagged_tiff(50706, b"\1\4\0\0"), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Fujifilm": (b"FUJIFILMCCD-RAW 0201" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Olympus": (b"IIRO\x08\0\0\0" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "RAW of Panasonic": (b"IIU\0\x18\0\0\0" + bytes(50), RefusalCode.UNSUPPORTED_FORMAT),
    "a PNG without sense": (b"\x89PNG\r\n\x1a\n" + b"nonsense" * 9 + b"IEND", RefusalCode.CORRUPT),
    "a JPEG without sense": (b"\xff\xd8\xff\xe0" + b"\0" * 50 + b"\xff\xd9", RefusalCode.CORRUPT),
    "a flipped bit in a PNG": (encode(noise())[:300] + b"?" + encode(noise())[301:], RefusalCode.CORRUPT),
    "32-bit integers": (encode(Image.new("I", (30, 30), 99999), "TIFF"), RefusalCode.UNSUPPORTED_COLOURS),
    "floating point": (encode(Image.new("F", (30, 30), 0.5), "TIFF"), RefusalCode.UNSUPPORTED_COLOURS),
    "LAB": (encode(Image.frombytes("LAB", (9, 9), bytes(243)), "TIFF"), RefusalCode.UNSUPPORTED_COLOURS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_images_get_the_exact_code(name: str) -> None:
    data, code = REFUSED[name]
    assert code_of(data) == code


def test_32_bit_images_are_refused_for_their_colours_before_their_information() -> None:
    assert code_of(encode(Image.new("I", (30, 30), 99999), "TIFF"), STRICT) == RefusalCode.UNSUPPORTED_COLOURS


POLICY = {
    "a side too short": (noise(7, 50), RefusalCode.TOO_SMALL),
    "one pixel": (noise(1, 1), RefusalCode.TOO_SMALL),
    "extreme aspect": (noise(8, 170), RefusalCode.EXTREME_ASPECT),
    "too many pixels": (noise(101, 100), RefusalCode.TOO_MANY_PIXELS),
    "one colour": (Image.new("RGB", (50, 50), (9, 99, 9)), RefusalCode.LOW_INFORMATION),
    "noise that is wholly transparent": (noise(50, 50).convert("RGBA"), RefusalCode.LOW_INFORMATION),
    "at the limits": (noise(8, 160), None),
    "as many pixels as allowed": (noise(100, 100), None),
}


@pytest.mark.parametrize("name", POLICY)
def test_policy_refuses_with_the_exact_code(name: str) -> None:
    image, code = POLICY[name]
    if image.mode == "RGBA":
        image.putalpha(0)
    assert code_of(encode(image), STRICT) == code
    assert code_of(encode(image)) is None


def test_judge_refuses_by_the_facts_as_decode_does() -> None:
    for image, code in POLICY.values():
        _, facts = decode(encode(image))
        if code is None:
            judge(facts, STRICT)
        else:
            with pytest.raises(Refused) as caught:
                judge(facts, STRICT)
            assert caught.value.code == code


def test_facts_hold_no_personal_metadata() -> None:
    exif = Image.Exif()
    exif[0x010F] = "canary camera"
    exif.get_ifd(0x8825)[1] = "N"
    _, facts = decode(encode(noise(), "JPEG", exif=exif, comment=b"canary comment"))
    assert "canary" not in repr(facts)
    of_the_file = {"width_px", "height_px", "format", "entropy_bits", "content_fraction", "notes"}
    of_the_pixels = {"look", "pixels", "scores"}
    assert set(ImageFacts.__dataclass_fields__) == of_the_file | of_the_pixels


BOMB = """
import resource, sys
from tasks.images.reason_codes import Refused
from tasks.images.decoding import PERMISSIVE, decode
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data, PERMISSIVE)
except Refused as refused:
    print(refused.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_pixel_bomb_is_refused_from_the_header_in_little_memory(tmp_path: object) -> None:
    path = f"{tmp_path}/bomb.png"
    side_px = 30_000
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(png(side_px, side_px, 1, 0, bytes((side_px // 8 + 1) * side_px)))
    command = [sys.executable, "-c", BOMB, path]
    output = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    code, kilobytes = output.split()
    assert code == RefusalCode.TOO_MANY_PIXELS
    assert int(kilobytes) < 20_000


def test_metadata_bomb_is_refused_or_ignored_in_little_memory() -> None:
    import zlib

    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    assert code_of(png(8, 8, 8, 0, bytes(72), before=text)) in (None, RefusalCode.CORRUPT)


def mutations(data: bytes, seed: int) -> bytes:
    """The image with some bytes changed, cut out, doubled, or the tail lost."""
    draw = random.Random(seed)
    mutated = bytearray(data)
    for _ in range(draw.randint(1, 12)):
        place, length = draw.randrange(len(mutated)), draw.randint(1, 16)
        kind = draw.randrange(4)
        if kind == 0:
            mutated[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            mutated[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            del mutated[place : place + length]
        else:
            mutated[place:place] = mutated[place : place + length]
        if len(mutated) < 2:
            break
    return bytes(mutated)


def originals() -> Iterator[bytes]:
    image = noise(40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in FORMATS:
        yield encode(image, kind)
    yield encode(image, "JPEG", exif=exif)
    yield encode(image.convert("CMYK"), "JPEG")
    yield encode(image.convert("P"), "PNG", transparency=3)
    yield encode(image.convert("RGBA"), "TIFF", compression="tiff_deflate")
    yield encode(image, "GIF", save_all=True, append_images=[noise(40, 30, seed=1)])
    yield encode(image, "WEBP", lossless=True)


@pytest.mark.slow
def test_mutated_images_are_decoded_or_refused_and_nothing_else() -> None:
    codes = set()
    for number, data in enumerate(originals()):
        for seed in range(720):
            codes.add(code_of(mutations(data, 10_000 * number + seed), PERMISSIVE))
    assert {None, RefusalCode.TRUNCATED, RefusalCode.CORRUPT} <= codes


def test_recipe_changes_with_all_that_pixels_depend_on() -> None:
    assert recipe((1, 2, 3)) != recipe((1, 2, 4))
    assert {"decoder", "pillow", "size_px", "draft_px", "background_rgb"} <= recipe((1, 2, 3)).keys()


def test_decoder_reads_nothing_but_the_bytes_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(), "JPEG")
    decode(data)  # loads Pillow's plugins

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the decoder opened a file")

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    decode(data)
