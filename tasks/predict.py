"""Program `predict`: images in, one JSON object a line out.

    python -m tasks.predict --model models/export [--public-key FILE] PATH...

PATH is an image, a folder (its files in sorted order, without hidden files and links that lead out of it) or `-` (paths
on stdin, one a line). A line holds `path` and `error` ("code: detail"), or `path`, `label`, `probability`,
`probabilities` and what the model can tell besides: `unsure` (the probability is too low for the precision that
evaluate.wanted_precision promises), `foreign` (the image belongs to none of the classes) and `foreign_score` (higher:
more foreign). The exit code is 0 unless every image is bad. Images are decoded as in training; TensorFlow isn't needed.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import USER_ERROR, IntegrityError, PredictError
from tasks.files import atomic_file, file_sha256
from tasks.images.decoding import Pixels
from tasks.images.packs import PackEntry
from tasks.images.reason_codes import Refused
from tasks.images.signatures import HEAD_BYTES, judge_head
from tasks.images.sources.layout import printable
from tasks.images.workers import decode_all
from tasks.program import run_program
from tasks.progress import Progress
from tasks.settings import MAX_FILE_MB
from tasks.vgg.exports.exported_model import ExportedModel
from tasks.vgg.exports.signature import PUBLIC_KEY, configured_key

BATCH_SIZE = 8
UNREADABLE, TOO_LARGE = "unreadable", "too_large"
"""Codes of a file that can't be opened or isn't; the other codes are in `tasks.images.reason_codes.RefusalCode`."""


@dataclass(frozen=True)
class _Image:
    """A path with the place of its bytes, or with the reason why they can't be read."""

    path: str
    entry: PackEntry | None
    key: str
    problem: str


def predict_files(
    model_dir: Path,
    paths: Iterable[str | os.PathLike[str]],
    batch_size: int = BATCH_SIZE,
    public_key: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Score images; one row each, in the order of the input.

    Args:
        model_dir: the output of the stage `export`.
        paths: images and folders; may be endless, as rows are yielded after each batch.
        batch_size: images in one step of the network.
        public_key: a PEM file; the model must be signed by its owner. None: the signature isn't checked.

    Yields:
        `path`, `label`, `probability`, `probabilities` {label: p}, and `unsure`, `foreign` and `foreign_score` if the
        model can tell; or `path` and `error`, "code: detail".

    Raises:
        PredictError: the model can't be loaded; raised before any image is read.
    """
    model = ExportedModel(Path(model_dir), public_key)
    return _rows(model, (_look(path) for given in paths for path in find_images(os.fspath(given))), batch_size)


def find_images(path: str) -> Iterator[str]:
    """The path itself, or the files below a folder, sorted, without links that lead out of the folder."""
    if not os.path.isdir(path):  # noqa: PTH112 - keeps paths that are not UTF-8, and trailing slashes
        yield path
        return
    root, pending = os.path.realpath(path), [path]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(
                    (entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name
                )
        except OSError:
            yield folder  # becomes a row with the error
            continue
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from (entry.path for entry in entries if entry not in folders and _is_inside(entry, root))
        pending += [entry.path for entry in reversed(folders)]


def _is_inside(entry: os.DirEntry[str], root: str) -> bool:
    if not entry.is_symlink():
        return True
    target = os.path.realpath(entry.path)
    return target.startswith(root + os.sep) and os.path.isfile(target)  # noqa: PTH113 - may not be UTF-8


def _look(path: str) -> _Image:
    """Read a file's size and checksum. A path that is not a regular file gets a problem and isn't opened.

    A file that is too large, or no image by its first bytes, gets a problem and isn't read any further.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            return _Image(path, None, "", f"{UNREADABLE}: not a file")
        if status.st_size > MAX_FILE_MB * 1_000_000:
            return _Image(path, None, "", f"{TOO_LARGE}: more than {MAX_FILE_MB} MB")
        with Path(path).open("rb") as file:
            refused = judge_head(file.read(HEAD_BYTES))
        if refused:
            return _Image(path, None, "", str(refused))
        return _Image(path, PackEntry(Path(path), 0, status.st_size), file_sha256(Path(path)), "")
    except (OSError, ValueError) as error:
        return _Image(path, None, "", f"{UNREADABLE}: {getattr(error, 'strerror', None) or error}")


def _rows(model: ExportedModel, images: Iterable[_Image], batch_size: int) -> Iterator[dict[str, Any]]:
    waiting: list[tuple[str, Pixels | str]] = []
    for path, result in _decoded(images, model):
        waiting.append((path, result))
        if len(waiting) == batch_size:
            yield from _scored(model, waiting)
            waiting = []
    yield from _scored(model, waiting)


def _decoded(images: Iterable[_Image], model: ExportedModel) -> Iterator[tuple[str, Pixels | str]]:
    """(path, pixels or the error), in order. Worker processes decode, so that a crash loses one image only."""
    source, begun = iter(images), deque[_Image]()
    while True:
        work = _begin(chain(list(begun), source), begun)
        begun.clear()
        try:
            for _, result in decode_all(work, model.policy, model.background_rgb):
                yield from _problems(begun)
                yield begun.popleft().path, str(result) if isinstance(result, Refused) else result[0]
        except (IntegrityError, FileNotFoundError, PermissionError) as error:
            yield from _problems(begun)
            if not begun:
                raise
            yield begun.popleft().path, f"{UNREADABLE}: changed while it was read ({type(error).__name__})"
        else:
            yield from _problems(begun)
            return


def _begin(images: Iterable[_Image], begun: deque[_Image]) -> Iterator[tuple[str, PackEntry]]:
    """Yield the images that can be decoded; add all images to `begun`, in order."""
    for image in images:
        begun.append(image)
        if image.entry:
            yield image.key, image.entry


def _problems(begun: deque[_Image]) -> Iterator[tuple[str, str]]:
    """Remove and yield the images with problems from the front; they never went to a worker."""
    while begun and begun[0].entry is None:
        image = begun.popleft()
        yield image.path, image.problem


def _scored(model: ExportedModel, batch: Sequence[tuple[str, Pixels | str]]) -> Iterator[dict[str, Any]]:
    good = [content for _, content in batch if not isinstance(content, str)]
    answers = iter(model.answer(good) if good else [])
    for path, content in batch:
        yield {"path": path, "error": content} if isinstance(content, str) else {"path": path, **next(answers)}


def to_line(row: dict[str, Any]) -> bytes:
    """One row as one line of JSON, in UTF-8; other bytes in a path are escaped."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _write(rows: Iterable[dict[str, Any]], out: BinaryIO, progress: Progress | None) -> None:
    """Write rows as they come.

    Raises:
        PredictError: no image was found, or none could be scored; the rows are written before.
    """
    total, bad, first = 0, 0, ""
    for row in rows:
        out.write(to_line(row))
        out.flush()
        total += 1
        bad += "error" in row
        if "error" in row and not first:
            first = f"{printable(row['path'])}: {row['error']}"
        if progress:
            progress.advance()
    if total == 0:
        raise PredictError("No image was found. Give images, folders that hold some, or - for paths on stdin.")
    if bad == total:
        raise PredictError(f"None of the {total} images could be scored. The first: {first}")


def _stdin_paths() -> Iterator[str]:
    for line in sys.stdin.buffer:
        if path := line.rstrip(b"\r\n"):
            yield os.fsdecode(path)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tasks.predict", description="Score images; JSON lines to stdout.")
    parser.add_argument("--model", type=Path, required=True, help="exported model, such as models/export")
    parser.add_argument(
        "--public-key",
        type=Path,
        default=configured_key(),
        help=f"PEM file: use only a model that this key's owner has signed; or set {PUBLIC_KEY}",
    )
    parser.add_argument("--batch-size", type=_size, default=BATCH_SIZE, help="images in one step of the network")
    parser.add_argument("--output", type=Path, help="write to this file; it appears when all rows are written")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image, folder, or - for paths on stdin, one a line")
    return parser.parse_args(arguments)


def _size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1024. Received: {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    given = _arguments(arguments)
    failure: list[PredictError] = []

    def body() -> None:
        paths: Iterable[str] = chain.from_iterable(_stdin_paths() if path == "-" else [path] for path in given.paths)
        shown = sys.stderr.isatty() and (given.output or not sys.stdout.isatty()) and "-" not in given.paths
        with ExitStack() as stack:
            progress: Progress | None = None
            if shown:  # progress needs the total, so all images are listed first
                paths = [found for path in paths for found in find_images(path)]
                progress = stack.enter_context(Progress("predict", len(paths), "images"))
            rows = predict_files(given.model, paths, given.batch_size, given.public_key)
            out = stack.enter_context(atomic_file(given.output)) if given.output else sys.stdout.buffer
            try:
                _write(rows, out, progress)
            except PredictError as error:
                failure.append(error)  # printed after the output file is in its place

    try:
        code = run_program(body)
    except BrokenPipeError:
        return 0  # the reader of the pipe stopped, such as `| head`
    for error in failure:
        print(f"PredictError: {error}", file=sys.stderr)
    return USER_ERROR if failure else code


if __name__ == "__main__":
    raise SystemExit(main())
