"""The graph's decoder compared with the training decoder: equal, or refused with the reason."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.images.decoding import PERMISSIVE, decode
from tasks.images.reason_codes import Refused
from tests.tasks.vgg.exports.decoders import (
    BACKGROUND,
    LARGEST_DIFFERENCE,
    check_equal,
    check_refused,
    chunk,
    deep_png,
    encode,
    exif,
    graph,
    image,
    palette,
    tiff,
    with_segments,
    xmp,
)

SIZES = [(224, 224), (1, 1), (3, 500), (500, 3), (223, 225), (333, 500), (500, 333), (448, 448), (97, 61), (2000, 1500)]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_graph_follows_every_size(size: tuple[int, int], form: str) -> None:
    check_equal(encode(image(*size), form))


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
def test_graph_follows_jpeg_codings(quality: int, subsampling: str, progressive: bool) -> None:
    check_equal(encode(image(), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive))


def test_graph_follows_grey_rgb_and_restart_jpeg() -> None:
    check_equal(encode(image(channels=1), "JPEG"))
    check_equal(encode(image(), "JPEG", keep_rgb=True))
    check_equal(encode(image(), "JPEG", restart_marker_rows=1))
    check_equal(encode(image(), "JPEG") + b"trailing junk \xff\xd8\xff")


@pytest.mark.parametrize(
    "size",
    [(895, 1000), (896, 897), (1791, 1792), (1793, 2000), pytest.param((3585, 3584), marks=pytest.mark.slow)],
)
def test_graph_scales_large_jpegs_down_as_training_does(size: tuple[int, int]) -> None:
    check_equal(encode(image(*size), "JPEG"))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_graph_scales_every_coding_down_as_training_does(subsampling: str) -> None:
    check_equal(encode(image(901, 1003), "JPEG", subsampling=subsampling, progressive=True))
    check_equal(encode(image(901, 1003, channels=1), "JPEG"))
    check_equal(with_segments(encode(image(901, 1003), "JPEG", subsampling=subsampling), exif(tiff(6, True))))


PNGS: dict[str, Callable[[], bytes]] = {
    "rgb": lambda: encode(image(), "PNG"),
    "grey": lambda: encode(image(channels=1), "PNG"),
    "rgba": lambda: encode(image(channels=4), "PNG"),
    "grey alpha": lambda: encode(image(channels=4).convert("LA"), "PNG"),
    "palette": palette,
    "palette, one transparent": lambda: palette(transparency=3),
    "palette, alpha each": lambda: palette(transparency=bytes(range(0, 190, 10))),
    "rgb, transparent colour": lambda: encode(Image.new("RGB", (40, 30), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
    "grey, transparent level": lambda: encode(image(channels=1), "PNG", transparency=120),
    "1 bit": lambda: encode(image().convert("1"), "PNG"),
    "2 bit grey": lambda: deep_png(1, 0, 2),
    "4 bit grey": lambda: deep_png(1, 0, 4),
    "16 bit grey": lambda: deep_png(1, 0),
    "16 bit rgb": lambda: deep_png(3, 2),
    "16 bit grey alpha": lambda: deep_png(2, 4),
    "16 bit rgba": lambda: deep_png(4, 6),
    "gamma and profile": lambda: deep_png(3, 2, 8, chunk(b"gAMA", struct.pack(">I", 100000))),
    "animated": lambda: encode(image(), "PNG", save_all=True, append_images=[image().rotate(180)]),
}


@pytest.mark.parametrize("name", PNGS)
def test_graph_follows_png_colour_types(name: str) -> None:
    check_equal(PNGS[name]())


def test_graph_composites_on_the_given_background() -> None:
    import tensorflow as tf

    from tasks.vgg.exports.graph_decoding import decode_one

    content = encode(image(channels=4), "PNG")
    expected = decode(content, background_rgb=(10, 200, 90))[0].astype(int)
    actual = decode_one(tf.constant(content), (10, 200, 90), PERMISSIVE.max_pixels).numpy().astype(int)
    assert np.abs(actual - expected).max() <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_graph_applies_exif_orientation(orientation: int, big: bool) -> None:
    block = tiff(orientation, big)
    check_equal(with_segments(encode(image(), "JPEG"), (0xE2, b"ICC_PROFILE\x00 first"), exif(block)))
    check_equal(encode(image(), "PNG", exif=b"Exif\x00\x00" + block))
    late = encode(image(), "PNG")  # some writers put it behind the pixels
    check_equal(late[:-12] + chunk(b"eXIf", block) + late[-12:])


def test_orientations_of_the_test_images_are_told_apart() -> None:
    turned = [decode(with_segments(encode(image(), "JPEG"), exif(tiff(number, True))))[0] for number in range(1, 9)]
    assert len({pixels.tobytes() for pixels in turned}) == 8


ODD_METADATA = {
    "orientation 0": [exif(tiff(0, True))],
    "orientation 9": [exif(tiff(9, False))],
    "no orientation": [exif(b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")],
    "directory outside": [exif(b"II*\x00\xff\xff\x00\x00")],
    "count too high": [exif(b"MM\x00*\x00\x00\x00\x08\x00\x09" + tiff(6, True)[22:34])],
    "not EXIF": [(0xE1, b"Exit\x00\x00" + tiff(6, True))],
    "xmp alone": [xmp('tiff:Orientation="6"')],
    "xmp element": [xmp("<tiff:Orientation>8</tiff:Orientation>")],
    "xmp after exif": [exif(tiff(3, True)), xmp('tiff:Orientation="6"')],
    "xmp without": [xmp("tiff:Make")],
    "xmp twice": [xmp('tiff:Orientation="6"'), xmp('tiff:Orientation="3"')],
    "comment": [(0xFE, b"\xff\xd8\xff\xe1 looks like a marker"), exif(tiff(5, False))],
}


@pytest.mark.parametrize("name", ODD_METADATA)
def test_graph_reads_metadata_as_training_does(name: str) -> None:
    check_equal(with_segments(encode(image(), "JPEG"), *ODD_METADATA[name]))


def test_graph_reads_xmp_of_png() -> None:
    content = encode(image(), "PNG")
    packet = b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + b'<x tiff:Orientation="6"/>'
    check_equal(content[:33] + chunk(b"iTXt", packet) + content[33:])


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "neither JPEG nor PNG"),
    "text": (lambda: b"<html>", "neither JPEG nor PNG"),
    "gif": (lambda: encode(image(), "GIF"), "neither JPEG nor PNG"),
    "webp": (lambda: encode(image(), "WEBP"), "neither JPEG nor PNG"),
    "bmp": (lambda: encode(image(), "BMP"), "neither JPEG nor PNG"),
    "tiff": (lambda: encode(image(), "TIFF"), "neither JPEG nor PNG"),
    "cmyk": (lambda: encode(image().convert("CMYK"), "JPEG"), "CMYK or YCCK"),
    "jpeg header only": (lambda: b"\xff\xd8\xff", "no frame header"),
    "two exif": (lambda: with_segments(encode(image(), "JPEG"), exif(tiff(6, True)), exif(b"x")), "several EXIF"),
    "long orientation": (lambda: with_segments(encode(image(), "JPEG"), exif(tiff(6, True, kind=4))), "unusual"),
    "two values": (lambda: with_segments(encode(image(), "JPEG"), exif(tiff(6, True, count=2))), "unusual"),
    "garbage exif": (lambda: with_segments(encode(image(), "JPEG"), exif(b"garbage.")), "unusual"),
    "broken tag before": (
        lambda: with_segments(encode(image(), "JPEG"), exif(tiff(6, True, before=(0x010F, 2, 90, 1 << 20)))),
        "unusual",
    ),
    "16 bit transparent": (lambda: deep_png(1, 0, 16, chunk(b"tRNS", b"\x01\x02")), "transparent colour"),
    "2 bit transparent": (lambda: deep_png(1, 0, 2, chunk(b"tRNS", b"\x00\x02")), "transparent colour"),
    "long transparent": (lambda: deep_png(1, 0, 8, chunk(b"tRNS", b"\x00" * 9)), "transparent colour"),
    "raw profile": (lambda: deep_png(3, 2, 8, chunk(b"tEXt", b"Raw profile type exif\x00\nexif\n")), "text chunk"),
    "packed xmp": (lambda: deep_png(3, 2, 8, chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00x")), "text chunk"),
    "bomb": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)),
        "more than 100000000 pixels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_graph_refuses_what_it_cannot_follow(name: str) -> None:
    content, reason = REFUSED[name]
    check_refused(content(), reason)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_graph_accepts_as_many_pixels_as_it_was_built_for(form: str) -> None:
    import tensorflow as tf

    from tasks.vgg.exports.graph_decoding import decode_one

    content = tf.constant(encode(image(30, 20), form))
    assert decode_one(content, BACKGROUND, 600).shape == (224, 224, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 599 pixels"):
        decode_one(content, BACKGROUND, 599)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_graph_refuses_a_cut_image_or_reads_it_as_training_does(form: str, share: float) -> None:
    import tensorflow as tf

    content = encode(image(), form)
    cut = content[: int(len(content) * share)]
    try:
        decode(cut)
    except Refused:
        with pytest.raises(tf.errors.InvalidArgumentError):
            graph()(cut)
        return
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        check_equal(cut)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["JPEG", "PNG"]), st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255)), max_size=3))
def test_graph_agrees_or_refuses_whatever_the_header_says(form: str, changes: list[tuple[int, int]]) -> None:
    """A byte of the header changed at random: the same pixels, or refused by one of them."""
    import tensorflow as tf

    block = tiff(6, True)
    content = bytearray(
        with_segments(encode(image(), "JPEG"), exif(block))
        if form == "JPEG"
        else encode(image(), "PNG", exif=b"Exif\x00\x00" + block)
    )
    for place, value in changes:
        content[place] = value
    try:
        expected = decode(bytes(content))[0].astype(int)
        actual = graph()(bytes(content)).astype(int)
    except (Refused, tf.errors.InvalidArgumentError):
        return
    assert np.abs(expected - actual).max() <= LARGEST_DIFFERENCE


def test_batch_names_the_refused_image() -> None:
    import tensorflow as tf

    from tasks.vgg.exports.graph_decoding import decode_batch

    good = encode(image(), "PNG")
    assert decode_batch(tf.constant([good, good, good]), BACKGROUND, 10_000).shape == (3, 224, 224, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Image 1 of the batch is refused"):
        decode_batch(tf.constant([good, b"GIF89a", good]), BACKGROUND, 10_000)
