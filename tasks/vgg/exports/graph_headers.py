"""Reads an image's header with TensorFlow operations: its orientation, and whether the graph can decode it exactly.

`tasks.images.decoding` (Pillow) is the reference. `ImageHeader.refusal` says why these rules can't match it exactly;
nothing is guessed. Layouts: ITU-T T.81 B.1 (JPEG), W3C PNG third edition, Exif 2.3 and TIFF 6 (orientation).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

PADDING = 64
"""Zero bytes that `to_bytes` appends, so that reading past the end of a truncated file returns zeros."""

_XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\x00"
_XMP_OF_PNG = b"XML:com.adobe.xmp\x00"
_AWKWARD_KEYWORDS = (b"exif\x00", b"xmp\x00", b"Raw profile type exif\x00")
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8)
"""Bytes of one value by TIFF type, 0 for unknown types (BYTE, ASCII, SHORT, LONG, RATIONAL, ...)."""


class ImageHeader(NamedTuple):
    """Scalars. `refusal` (string) is empty if the graph can decode the image; `orientation` (int64) is 1 to 8."""

    refusal: Any
    orientation: Any


class _Orientation(NamedTuple):
    """Scalars: whether EXIF holds the tag, whether its value is uncertain (bool), its value (int64, 1 to 8)."""

    found: Any
    unsure: Any
    value: Any


def to_bytes(contents: Any) -> Any:
    """Encoded image (string scalar) -> its bytes and `PADDING` zeros (m,), uint8."""
    return tf.concat([tf.io.decode_raw(contents, tf.uint8), tf.zeros(PADDING, tf.uint8)], 0)


def starts_with(data: Any, prefix: bytes, at: Any = 0) -> Any:
    """Whether these bytes are at a position (bool scalar)."""
    return tf.reduce_all(data[at : at + len(prefix)] == tf.constant(list(prefix), tf.uint8))


def read_header(data: Any, max_pixels: int) -> ImageHeader:
    """What the graph needs to know before it decodes.

    Args:
        data: from `to_bytes`.
        max_pixels: an image with more is refused.
    """
    is_jpeg, is_png = starts_with(data, b"\xff\xd8\xff"), starts_with(data, b"\x89PNG\r\n\x1a\n")
    header = tf.cond(is_jpeg, lambda: _read_jpeg(data, max_pixels), lambda: _read_png(data, max_pixels))
    known = tf.logical_or(is_jpeg, is_png)
    refusal = _first((tf.logical_not(known), "it is neither JPEG nor PNG"), otherwise=header.refusal)
    return ImageHeader(refusal, tf.where(known, header.orientation, 1))


def _read_jpeg(data: Any, max_pixels: int) -> ImageHeader:
    """Walk the marker segments up to the scan."""
    size, zero = _size(data), tf.constant(0, tf.int64)

    def more(position: Any, *_: Any) -> Any:
        stop = (data[position] == 0xFF) & ((data[position + 1] == 0xDA) | (data[position + 1] == 0xD9))
        return (position < size) & tf.logical_not(stop)

    def step(position: Any, frame: Any, exif: Any, exif_count: Any, xmp: Any) -> tuple[Any, ...]:
        marker = _number(data, position + 1, 1)
        in_marker = data[position] == 0xFF
        # fill bytes, stuffed zeros, TEM, RST0-7 and SOI have no length
        bare = (marker == 0) | (marker == 1) | ((marker >= 0xD0) & (marker <= 0xD8))
        segment = in_marker & tf.logical_not(bare) & (marker != 0xFF)
        is_frame = (
            segment & (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC)
        )
        is_exif = segment & (marker == 0xE1) & starts_with(data, b"Exif\x00\x00", position + 4)
        is_xmp = segment & (marker == 0xE1) & starts_with(data, _XMP_OF_JPEG, position + 4)
        length = tf.maximum(_number(data, position + 2, 2), 2)
        advance = tf.where(segment, 2 + length, tf.where(in_marker & bare, tf.constant(2, tf.int64), 1))
        return (
            position + advance,
            tf.where(is_frame, position, frame),
            tf.where(is_exif, _span(position + 10, length - 8), exif),
            exif_count + tf.cast(is_exif, tf.int64),
            tf.where(is_xmp, _span(position + 33, length - 31), xmp),
        )

    _, frame, exif, exif_count, xmp = tf.while_loop(more, step, (zero, zero, _span(0, 0), zero, _span(0, 0)))
    components = _number(data, frame + 9, 1)
    pixels = _number(data, frame + 5, 2) * _number(data, frame + 7, 2)
    orientation = _orientation(data, exif, xmp)
    refusal = _first(
        ((components != 1) & (components != 3), "it is a JPEG in CMYK or YCCK colours, or has no frame header"),
        (exif_count > 1, "it has several EXIF segments"),
        *_common(pixels, max_pixels, orientation),
    )
    return ImageHeader(refusal, orientation.value)


def _read_png(data: Any, max_pixels: int) -> ImageHeader:
    """Walk the chunks to the end: EXIF and texts may follow the pixels."""
    size, start = _size(data), tf.constant(8, tf.int64)

    def more(position: Any, *_: Any) -> Any:
        return (position + 8 <= size) & tf.logical_not(starts_with(data, b"IEND", position + 4))

    def step(position: Any, exif: Any, xmp: Any, transparency: Any, awkward: Any) -> tuple[Any, ...]:
        length, kind = _number(data, position, 4), data[position + 4 : position + 8]
        text, body = starts_with(kind[1:], b"TXt") | starts_with(kind[1:], b"EXt"), position + 8
        named_xmp = text & starts_with(data, _XMP_OF_PNG, body)
        plain_xmp = named_xmp & (kind[0] == ord("i")) & (data[body + len(_XMP_OF_PNG)] == 0)
        hidden = tf.reduce_any([starts_with(data, keyword, body) for keyword in _AWKWARD_KEYWORDS])
        return (
            body + length + 4,
            tf.where(starts_with(kind, b"eXIf"), _span(body, length), exif),
            tf.where(plain_xmp, _span(body, length), xmp),
            tf.where(starts_with(kind, b"tRNS"), length, transparency),
            awkward | (text & hidden) | (named_xmp & tf.logical_not(plain_xmp)),
        )

    first = (start, _span(0, 0), _span(0, 0), tf.constant(-1, tf.int64), tf.constant(False))
    _, exif, xmp, transparency, awkward = tf.while_loop(more, step, first)
    depth, colour = _number(data, 24, 1), _number(data, 25, 1)
    plain = (depth == 8) & (((colour == 0) & (transparency == 2)) | ((colour == 2) & (transparency == 6)))
    odd_transparency = (transparency >= 0) & (colour != 3) & tf.logical_not(plain)
    orientation = _orientation(data, exif, xmp)
    refusal = _first(
        (odd_transparency, "it is a PNG with a transparent colour that isn't written in 8 bits"),
        (awkward, "it is a PNG whose orientation may stand in a text chunk"),
        *_common(_number(data, 16, 4) * _number(data, 20, 4), max_pixels, orientation),
    )
    return ImageHeader(refusal, orientation.value)


def _common(pixels: Any, max_pixels: int, orientation: _Orientation) -> tuple[tuple[Any, str], ...]:
    return (
        (pixels > max_pixels, f"it has more than {max_pixels} pixels"),
        (orientation.unsure, "its EXIF orientation is damaged, or written in an unusual way"),
    )


def _orientation(data: Any, exif: Any, xmp: Any) -> _Orientation:
    """EXIF's orientation or, where EXIF has none, XMP's, as Pillow."""
    none = _Orientation(tf.constant(False), tf.constant(False), tf.constant(1, tf.int64))
    from_exif = tf.cond(exif[1] > 0, lambda: _read_exif(data[exif[0] : exif[0] + exif[1]]), lambda: none)
    look = (xmp[1] > 0) & tf.logical_not(from_exif.found)
    value = tf.cond(look, lambda: _read_xmp(data[xmp[0] : xmp[0] + xmp[1]]), lambda: from_exif.value)
    return _Orientation(from_exif.found, from_exif.unsure, value)


def _read_exif(exif: Any) -> _Orientation:
    """The orientation in the first directory of a TIFF structure (m,), uint8, in either byte order."""
    size = tf.size(exif, tf.int64)
    exif = tf.concat([exif, tf.zeros(PADDING, tf.uint8)], 0)
    little, big = starts_with(exif, b"II*\x00"), starts_with(exif, b"MM\x00*")

    def numbers(fields: Any, width: int) -> Any:
        """Bytes (..., width) -> unsigned numbers (...), int64."""
        weights = [256**power for power in range(width)]
        chosen = tf.where(little, tf.constant(weights, tf.int64), tf.constant(weights[::-1], tf.int64))
        return tf.reduce_sum(tf.cast(fields, tf.int64) * chosen, -1)

    directory = tf.minimum(numbers(exif[4:8], 4), size)
    count = tf.minimum(numbers(exif[directory : directory + 2], 2), (size - directory - 2) // 12)
    count = tf.maximum(count, 0)
    entries = tf.reshape(exif[directory + 2 : directory + 2 + 12 * count], (count, 12))
    tags, kinds = numbers(entries[:, 0:2], 2), numbers(entries[:, 2:4], 2)
    lengths, values = numbers(entries[:, 4:8], 4), numbers(entries[:, 8:12], 4)
    is_tag = tags == 0x0112
    place = tf.argmax(tf.concat([is_tag, [True]], 0))
    found = tf.reduce_any(is_tag)
    value = tf.reduce_sum(tf.where(tf.range(count) == place, numbers(entries[:, 8:10], 2), 0))
    value = tf.where((value >= 1) & (value <= 8), value, 1)

    # Pillow stops at an entry whose data lie outside the file; other types or numbers of values follow its own rules
    bytes_each = tf.gather(tf.constant(_TYPE_BYTES, tf.int64), tf.minimum(kinds, len(_TYPE_BYTES) - 3))
    outside = (lengths * bytes_each > 4) & (values + lengths * bytes_each > size)
    odd = tf.reduce_any(is_tag & ((kinds != 3) | (lengths != 1))) | (tf.reduce_sum(tf.cast(is_tag, tf.int64)) > 1)
    damaged = found & tf.reduce_any(outside & (tf.range(count) < place))
    return _Orientation(found, odd | damaged | tf.logical_not(little | big), value)


def _read_xmp(xmp: Any) -> Any:
    """The first tiff:Orientation of an XMP packet (m,), uint8; 1 if there is none."""
    text = tf.strings.reduce_join(
        tf.gather(tf.constant([bytes([value]) for value in range(256)]), tf.cast(xmp, tf.int32))
    )
    digit = tf.strings.regex_replace(text, r'(?s)^\C*?tiff:Orientation(?:="|>)([0-9])\C*$', r"\1")
    value = tf.where(
        tf.strings.length(digit) == 1, tf.io.decode_raw(tf.strings.substr(digit + b"1", 0, 1), tf.uint8)[0], 0
    )
    number = tf.cast(value, tf.int64) - ord("0")
    return tf.where((number >= 1) & (number <= 8), number, 1)


def _first(*cases: tuple[Any, str], otherwise: Any = "") -> Any:
    """The text of the first case whose condition is true."""
    text = tf.convert_to_tensor(otherwise, tf.string)
    for holds, reason in reversed(cases):
        text = tf.where(holds, reason, text)
    return text


def _number(data: Any, at: Any, width: int) -> Any:
    """The big-endian unsigned number of `width` bytes (int64 scalar); 0 past the end."""
    at = tf.minimum(tf.cast(at, tf.int64), tf.size(data, tf.int64) - width)
    return tf.reduce_sum(tf.cast(data[at : at + width], tf.int64) * [256**power for power in reversed(range(width))])


def _size(data: Any) -> Any:
    return tf.size(data, tf.int64) - PADDING


def _span(start: Any, length: Any) -> Any:
    return tf.stack([tf.cast(start, tf.int64), tf.maximum(tf.cast(length, tf.int64), 0)])
