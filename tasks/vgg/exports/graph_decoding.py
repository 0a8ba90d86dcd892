"""The decoder of `tasks.images.decoding` as TensorFlow operations, for the exported SavedModel.

It decodes JPEG (grey, YCbCr, RGB) and PNG as Pillow: upright by EXIF, alpha composited, stretched to 224x224 in two
rounded passes. Measured against Pillow (tests/tasks/vgg/exports/test_graph_decoding.py, and 119 photos): no level (0 to
255) differs by more than two, and in photos 0.2 % differ by one, because float32 rounds ties differently from Pillow's
fixed point. The graph refuses an image that it can't decode so exactly, and says why.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import PIL
import tensorflow as tf

from tasks.images.decoding import DRAFT_PX
from tasks.images.image_size import IMAGE_SIZE_PX
from tasks.vgg.exports.graph_headers import ImageHeader, read_header, starts_with, to_bytes

HINT = "Convert it to a plain JPEG or PNG, or score it with: python -m tasks.predict"
_AT_ONCE = 4
"""Images decoded at the same time; a PNG of 12 million pixels takes 150 MB."""


def decode_batch(images: Any, background_rgb: tuple[int, int, int], max_pixels: int) -> Any:
    """Encoded images (n,), string -> pixels (n, 224, 224, 3), uint8, RGB, upright.

    Raises:
        tf.errors.InvalidArgumentError: when run, if an image can't be decoded as in training; says which and why.
    """
    indexed = (tf.range(tf.size(images)), images)
    signature = tf.TensorSpec((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), tf.uint8)
    decode: Any = lambda entry: decode_one(entry[1], background_rgb, max_pixels, entry[0])  # noqa: E731
    return tf.map_fn(decode, indexed, fn_output_signature=signature, parallel_iterations=_AT_ONCE)


def decode_one(contents: Any, background_rgb: tuple[int, int, int], max_pixels: int, index: Any = 0) -> Any:
    """One encoded image (string scalar) -> pixels (224, 224, 3), uint8; see `decode_batch`."""
    data = to_bytes(contents)
    header = read_header(data, max_pixels)
    with tf.control_dependencies([_refuse(header, index)]):
        contents = tf.identity(contents)
    is_jpeg = starts_with(data, b"\xff\xd8\xff")
    rgb = tf.cond(is_jpeg, lambda: _decode_jpeg(contents), lambda: _decode_png(contents, data, background_rgb))
    return _stretch(_upright(rgb, header.orientation))


def _refuse(header: ImageHeader, index: Any) -> Any:
    place = tf.strings.as_string(index)
    message = tf.strings.join(["Image ", place, " of the batch is refused: ", header.refusal, f". {HINT}"])
    return tf.debugging.Assert(header.refusal == "", [message])


def _decode_jpeg(contents: Any) -> Any:
    """RGB, scaled down as far as the training decoder does."""
    times = tf.reduce_min(tf.io.extract_jpeg_shape(contents)[:2]) // DRAFT_PX
    step = tf.reduce_sum(tf.cast(times >= tf.constant([2, 4, 8]), tf.int32))
    # the slow integer transform and smooth chroma are what Pillow uses; TensorFlow's defaults differ by up to 30 levels
    exact: Any = partial(tf.io.decode_jpeg, contents, 3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE")
    return tf.switch_case(step, [partial(exact, ratio=ratio) for ratio in (1, 2, 4, 8)])


def _decode_png(contents: Any, data: Any, background_rgb: tuple[int, int, int]) -> Any:
    """RGB on the background, in the integer arithmetic of Pillow's alpha_composite: round(x / 255) by shifts."""
    rgba = tf.cast(tf.io.decode_png(contents, channels=4), tf.int32)
    # in grey of less than 8 bits TensorFlow decodes an opaque alpha as 1, 3 or 15
    few_bits = (data[24] < 8) & (data[25] == 0)
    alpha = tf.where(few_bits, 255, rgba[..., 3:])
    mixed = rgba[..., :3] * alpha + tf.constant(background_rgb, tf.int32) * (255 - alpha)
    scaled = mixed * 128 + (128 << 7)
    return tf.cast(tf.bitwise.right_shift(tf.bitwise.right_shift(scaled, 8) + scaled, 15), tf.uint8)


def _upright(rgb: Any, orientation: Any) -> Any:
    """Apply EXIF orientation 1 to 8: swap the axes for 5 to 8, then mirror."""
    turned = tf.cond(orientation >= 5, lambda: tf.transpose(rgb, (1, 0, 2)), lambda: rgb)
    steps = [tf.where(tf.reduce_any(orientation == [*chosen]), -1, 1) for chosen in ((3, 4, 7, 8), (2, 3, 6, 7))]
    axes = tf.constant([0, 1])
    mirrored = tf.boolean_mask(axes, tf.stack(steps) < 0)
    return tf.reverse(turned, mirrored)


def _stretch(rgb: Any) -> Any:
    """Resize to 224x224 with an antialiased triangle filter, one axis after the other, rounded after each, as Pillow.

    Pillow 13 resizes the columns first if the height shrinks more than twice as much as the width
    (python-pillow/Pillow#9549; the exact bound was measured). Older versions always resize the rows first.
    """
    shape = tf.shape(rgb)
    height, width = shape[0], shape[1]
    columns_first = (height - IMAGE_SIZE_PX) > 2 * tf.maximum(width - IMAGE_SIZE_PX, 0)
    columns_first &= int(PIL.__version__.split(".")[0]) >= 13
    halfway = tf.where(columns_first, tf.stack([IMAGE_SIZE_PX, width]), tf.stack([height, IMAGE_SIZE_PX]))
    square = _resize(_resize(rgb, halfway), tf.constant([IMAGE_SIZE_PX, IMAGE_SIZE_PX]))
    return tf.cast(tf.ensure_shape(square, (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)), tf.uint8)


def _resize(image: Any, size: Any) -> Any:
    return tf.floor(tf.image.resize(image, size, method="bilinear", antialias=True) + 0.5)
