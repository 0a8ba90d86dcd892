"""The graph's decoder compared with the training decoder, and the serving signatures; mostly on a tiny network."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.images.decoding import PERMISSIVE, Pixels, decode
from tasks.images.reason_codes import Refused
from tests.conftest import PROJECT

LARGEST_DIFFERENCE = 2
"""Levels of 0 to 255, of any channel of any pixel: a tie in each of the two passes may fall otherwise in float32."""
LARGEST_MEAN_DIFFERENCE = 0.06
BACKGROUND = (255, 255, 255)
SIZES = [(224, 224), (1, 1), (3, 500), (500, 3), (223, 225), (333, 500), (500, 333), (448, 448), (97, 61), (2000, 1500)]


@cache
def graph() -> Callable[[bytes], Pixels]:
    import tensorflow as tf

    from tasks.vgg.exports.graph_decoding import decode_one

    signature = [tf.TensorSpec((), tf.string)]
    run = tf.function(
        lambda contents: decode_one(contents, BACKGROUND, PERMISSIVE.max_pixels),
        input_signature=signature,
        autograph=False,
    )
    return lambda content: run(tf.constant(content)).numpy()


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Any:
    """A smooth image with noise, so that a wrong order of rounding, scale or axis shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = (
        120
        + 60 * np.sin(rows / 7)[..., None]
        + 60 * np.cos(columns / 11)[..., None] * np.arange(1, channels + 1) / channels
    )
    rough = np.random.default_rng(seed).integers(-30, 31, (height, width, channels))
    return (
        (smooth + rough).clip(0, 255).astype(np.uint8).squeeze()
        if channels > 1
        else (smooth + rough).clip(0, 255).astype(np.uint8)[..., 0]
    )


def image(width: int = 97, height: int = 61, channels: int = 3) -> Image.Image:
    array = noise(width, height, channels).reshape((height, width, channels) if channels > 1 else (height, width))
    return Image.fromarray(array)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def check_equal(content: bytes) -> None:
    expected, actual = decode(content)[0].astype(int), graph()(content).astype(int)
    difference = np.abs(expected - actual)
    assert difference.max() <= LARGEST_DIFFERENCE
    assert difference.mean() <= LARGEST_MEAN_DIFFERENCE


def check_refused(content: bytes, reason: str) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=reason) as caught:
        graph()(content)
    assert "Image 0 of the batch is refused" in str(caught.value)
    assert "tasks.predict" in str(caught.value)


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


def palette(**options: Any) -> bytes:
    return encode(image().quantize(19), "PNG", **options)


def deep_png(channels: int, colour: int, depth: int = 16, chunks: bytes = b"") -> bytes:
    """A PNG of 16 bits, or of fewer than 8, a channel, which Pillow doesn't write."""
    height, width = 50, 64
    values = np.random.default_rng(1).integers(0, 256, (height, width * channels * depth // 8), dtype=np.uint8)
    rows = b"".join(b"\x00" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


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


def tiff(
    orientation: int, big: bool, kind: int = 3, count: int = 1, before: tuple[int, int, int, int] | None = None
) -> bytes:
    """An EXIF block: a tag before, the orientation, a tag behind."""
    order = ">" if big else "<"
    value = struct.pack(f"{order}H2x", orientation) if kind == 3 else struct.pack(f"{order}I", orientation)
    first = before or (0x010F, 2, 4, 0x00414141)
    entries = struct.pack(f"{order}HHII", *first)
    entries += struct.pack(f"{order}HHI", 0x0112, kind, count) + value
    entries += struct.pack(f"{order}HHII", 0x0128, 3, 1, 2 << 16 if big else 2)
    return (b"MM\x00*" if big else b"II*\x00") + struct.pack(f"{order}IH", 8, 3) + entries + b"\x00" * 4


def with_segments(content: bytes, *segments: tuple[int, bytes]) -> bytes:
    """The JPEG with segments put behind its first (JFIF) segment."""
    place = 4 + int.from_bytes(content[4:6], "big")
    new = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return content[:place] + new + content[place:]


def exif(block: bytes) -> tuple[int, bytes]:
    return 0xE1, b"Exif\x00\x00" + block


def xmp(text: str) -> tuple[int, bytes]:
    return 0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x \xff>" + text.encode()


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


def tiny_served(classes: tuple[str, ...] = ("ant", "bee")) -> Any:
    """The serving module around a network that averages colours: its answer can be worked out by hand."""
    import keras

    from tasks.vgg.backbone import preprocess
    from tasks.vgg.exports.serving import Served

    given_ = keras.Input((224, 224, 3))
    average = keras.layers.GlobalAveragePooling2D()(given_)
    dense = keras.layers.Dense(len(classes), activation="softmax")
    network = keras.Model(given_, dense(average))
    dense.set_weights([np.array([[0.02, 0], [0, 0.02], [0, 0]], np.float32), np.zeros(2, np.float32)])
    tensors = [weight.value for weight in network.weights]
    return Served(lambda pixels: network(preprocess(pixels)), tensors, classes, BACKGROUND, PERMISSIVE.max_pixels)


def test_served_labels_images_through_the_one_preprocessing() -> None:
    import tensorflow as tf

    from tasks.vgg.backbone import preprocess
    from tasks.vgg.head import softmax

    blue, green = (encode(Image.new("RGB", (30, 20), colour), "PNG") for colour in ((0, 0, 250), (0, 250, 0)))
    answer = tiny_served(("ant", "Ä<b>")).serving_default(tf.constant([blue, green]))
    assert [label.decode() for label in answer["label"].numpy()] == ["ant", "Ä<b>"]
    colours = np.array([[0, 0, 250], [0, 250, 0]], np.float32)
    expected = softmax(preprocess(colours)[:, :2] * np.float32(0.02))
    np.testing.assert_allclose(answer["probabilities"].numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(answer["probability"].numpy(), answer["probabilities"].numpy().max(axis=1))


def test_request_that_the_docs_show_fits_the_only_input_of_the_signature() -> None:
    """TensorFlow Serving's rule: an instance is the value of the only input, and {"b64": ...} is a string of bytes."""
    import tensorflow as tf

    content = encode(image(), "JPEG")
    [shown] = re.findall(r'curl -d "(.*)" http\S*:predict', (PROJECT / "docs/serving.md").read_text())
    text = shown.replace('\\"', '"').replace("$(base64 -w0 one.jpg)", base64.b64encode(content).decode())
    [instance] = json.loads(text)["instances"]
    served = tiny_served()
    [given], _ = served.serving_default.get_concrete_function().structured_input_signature
    assert (given.name, given.dtype, given.shape.as_list()) == ("images", tf.string, [None])
    sent = served.serving_default(tf.constant([base64.b64decode(instance["b64"])]))
    direct = served.pixels(tf.constant(decode(content)[0][np.newaxis].astype(np.float32)))["probabilities"]
    np.testing.assert_allclose(sent["probabilities"].numpy(), direct.numpy(), atol=1e-3)


def test_saved_model_loads_without_its_random_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    from tasks.vgg.exports.serving import save_served

    save_served(tiny_served(), tmp_path / "a")
    assert not list(tmp_path.rglob("fingerprint.pb"))
    loaded = tf.saved_model.load(str(tmp_path / "a"))
    content = encode(image(), "JPEG")
    answer = loaded.signatures["serving_default"](images=tf.constant([content]))
    pixels = decode(content)[0][np.newaxis].astype(np.float32)
    direct = loaded.signatures["pixels"](pixels=tf.constant(pixels))["probabilities"].numpy()
    np.testing.assert_allclose(answer["probabilities"].numpy(), direct, atol=1e-3)


def test_litert_answers_as_the_graph() -> None:
    import tensorflow as tf

    from tasks.vgg.exports.check_serving import run_litert
    from tasks.vgg.exports.serving import convert_litert

    served = tiny_served()
    pixels = np.stack([decode(encode(image(), "PNG"))[0]] * 3).astype(np.float32)
    expected = served.pixels(tf.constant(pixels))["probabilities"].numpy()
    with pytest.warns(UserWarning, match="tf.lite.Interpreter is deprecated"):
        answered = run_litert(convert_litert(served), pixels, 1)
    np.testing.assert_allclose(answered, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["EagerPyFunc", "ReadFile", "WriteFile"])
def test_saved_model_that_could_do_more_is_refused(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    from tasks.vgg.exports.safe_graphs import check_saved_model

    def run(images: Any) -> Any:
        if name == "EagerPyFunc":
            return tf.py_function(lambda one: one, [images], tf.string)
        if name == "ReadFile":
            return tf.map_fn(tf.io.read_file, images)
        with tf.control_dependencies([tf.io.write_file("written", "x")]):
            return tf.identity(images)

    module = tf.Module()
    module.run = tf.function(run, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    tf.saved_model.save(module, str(tmp_path))
    refusal = check_saved_model((tmp_path / "saved_model.pb").read_bytes())
    assert refusal == f'it has the operation "{name}", which no export has'
