"""How much each exported format differs from the trained model on real photos in many encodings.

    python -m benchmarks.encodings --images FOLDER [--images FOLDER ...] [--photos 100] [--copied 8]

Reads the last run of the current folder: its champion, and `models/export` with as many formats as possible. Takes
photos of each folder as they are, and copies of the first folder's in other encodings: JPEG in each EXIF orientation,
CMYK and 4 times as large, PNG (RGB, grey of 16 bits, palette, alpha), WebP, GIF, BMP and TIFF. The reference is the
trained model: ncnn in float32 and the head in NumPy, on images of this project's decoder. The SavedModel gets the
encoded images, the other formats what the decoder makes of them.
"""

from __future__ import annotations

import argparse
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.files import read_json
from tasks.images.decoding import PERMISSIVE, decode
from tasks.images.reason_codes import Refused
from tasks.markdown_tables import markdown_table
from tasks.parallel import one_blas_thread, usable_cores
from tasks.predict import find_images
from tasks.vgg.engines import Engine, build_extractor
from tasks.vgg.exports.check_serving import run_litert
from tasks.vgg.exports.parity import run_onnx
from tasks.vgg.trained_model import load_trained
from tasks.vgg.weights import load_weights
from tasks.workspace import Workspace

_BATCH = 8
_ORIENTATION = 0x0112
Encoded = tuple[str, bytes]
"""The kind, for the table, and the bytes."""


def photos(folder: Path, count: int) -> list[bytes]:
    """Evenly chosen from all photos of a folder."""
    paths = [path for path in find_images(str(folder)) if Path(path).suffix.lower() in (".jpg", ".jpeg", ".png")]
    return [Path(path).read_bytes() for path in paths[:: max(len(paths) // count, 1)][:count]]


def copies(content: bytes) -> Iterator[Encoded]:
    """One photo in other encodings."""
    with Image.open(io.BytesIO(content)) as opened:
        rgb = opened.convert("RGB")

    def saved(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        yield "JPEG, EXIF orientation 1 to 8", saved(rgb, "JPEG", quality=92, exif=exif)
    yield "JPEG, CMYK", saved(rgb.convert("CMYK"), "JPEG", quality=92)
    yield "JPEG, 4 times as large", saved(rgb.resize((4 * rgb.width, 4 * rgb.height)), "JPEG", quality=92)
    yield "PNG", saved(rgb, "PNG")
    yield "PNG, grey, 16 bit", saved(Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257), "PNG")
    yield "PNG, palette", saved(rgb.convert("P"), "PNG")
    transparent = rgb.convert("RGBA")
    ramp = np.linspace(0, 255, rgb.width).astype(np.uint8)[None].repeat(rgb.height, 0)
    transparent.putalpha(Image.fromarray(ramp))
    yield "PNG, alpha", saved(transparent, "PNG")
    yield "WebP", saved(rgb, "WEBP", quality=92)
    yield "GIF", saved(rgb, "GIF")
    yield "BMP", saved(rgb, "BMP")
    yield "TIFF", saved(rgb, "TIFF")


@one_blas_thread()
def reference(workspace: Workspace, pixels: Any) -> Any:
    """What the trained champion answers (n, classes)."""
    trained = load_trained(workspace.trained / read_json(workspace.evaluation)["champion"])
    weights = trained.weights(load_weights())
    extract = build_extractor(Engine("ncnn", "float32"), weights, ("block5_pool",), _BATCH, dtype=np.float32)
    views = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])] if trained.test_time_augmentation else [pixels]
    sides = []
    for view in views:
        outputs = [extract(view[at : at + _BATCH])[0] for at in range(0, len(view), _BATCH)]
        sides.append(trained.head.probabilities(np.concatenate(outputs)))
    return np.mean(sides, axis=0)


def answers(export: Path, contents: list[bytes], pixels: Any) -> Iterator[tuple[str, Any]]:
    """(Format, probabilities (n, classes), with rows of NaN for refused images) for each format of the export."""
    for file, form in (("model.onnx", "ONNX"), ("model.int8.onnx", "ONNX in int8")):
        if (export / file).exists():
            yield form, run_onnx((export / file).read_bytes(), pixels)[0]
    for file, form in (("model.tflite", "LiteRT"), ("model.int8.tflite", "LiteRT in int8")):
        if (export / file).exists():
            images = (image.astype(np.float32) for image in pixels)
            yield form, run_litert((export / file).read_bytes(), images, usable_cores())
    serve = _saved_model(export / "saved_model")
    found = [serve(content) for content in contents]
    classes = next(len(one) for one in found if one is not None)
    yield "SavedModel", np.array([[np.nan] * classes if one is None else one for one in found])


def _saved_model(folder: Path) -> Callable[[bytes], Any]:
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]

    def serve(content: bytes) -> Any:
        try:
            return signature(images=tf.constant([content]))["probabilities"].numpy()[0]
        except tf.errors.InvalidArgumentError:
            return None

    return serve


def row(name: str, form: str, found: Any, expected: Any) -> list[str]:
    answered = ~np.isnan(found[:, 0])
    cells = [form, name, f"{int(answered.sum()):,}", f"{int((~answered).sum()):,}"]
    if not answered.any():
        return [*cells, "", "", ""]
    differences = np.abs(found - expected)[answered].max(axis=1)
    flips = int((found.argmax(axis=1) != expected.argmax(axis=1))[answered].sum())
    return [*cells, *(_shown(float(one)) for one in (np.median(differences), differences.max())), f"{flips:,}"]


def _shown(value: float) -> str:
    return "below 0.001" if value < 0.0005 else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encodings", description="Compare the exported formats.")
    parser.add_argument("--images", type=Path, action="append", required=True, help="folder of photos")
    parser.add_argument("--photos", type=int, default=100, help="of each folder, as they are")
    parser.add_argument("--copied", type=int, default=8, help="photos of the first folder in all encodings")
    given = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    encoded: list[Encoded] = []
    for folder in given.images:
        encoded += [(f"photos of {folder.name}, as they are", content) for content in photos(folder, given.photos)]
    for content in photos(given.images[0], given.copied):
        encoded += copies(content)
    kinds, contents, pixels, refused = [], [], [], 0
    for kind, content in encoded:
        try:
            pixels.append(decode(content, PERMISSIVE)[0])
        except Refused:
            refused += 1
            continue
        kinds.append(kind)
        contents.append(content)
    images, places = np.stack(pixels), defaultdict(list)
    for place, kind in enumerate(kinds):
        places[kind].append(place)
    workspace = Workspace.at(Path.cwd())
    expected, rows = reference(workspace, images), []
    for form, found in answers(workspace.export, contents, images):
        rows.append(row("all", form, found, expected))
        rows += [row(kind, form, found[some], expected[some]) for kind, some in places.items()]
    heads = ["format", "images", "answered", "refused", "median difference", "largest difference", "other answers"]
    print(f"{len(images)} images, {refused} refused by this project's decoder\n")
    print(markdown_table(heads, rows, heads[2:]))


if __name__ == "__main__":
    main()
