"""A folder of class folders: `ROOT/<class>/**/<image>`, or `ROOT/<split>/<class>/**/<image>`.

`layout` decides which splits are kept. Links are followed only to files inside the root. Class names that differ only
in their Unicode form (NFC, NFD, as in archives from a Mac) are one class. The source is never changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import SourceError
from tasks.images.sources.layout import (
    BUILT_IN,
    LAYOUT,
    class_and_split,
    guess,
    is_junk,
    kept_splits,
    printable,
    why_excluded,
)
from tasks.images.sources.listing import Excluded, SourceImage, SourceListing
from tasks.images.sources.local_files import LocalFiles
from tasks.images.sources.policy import SourcePolicy


def check(uri: str, policy: SourcePolicy) -> None:
    """Check that the folder holds class folders.

    Raises:
        SourceError: it is missing, a file, unreadable, or holds no folders.
    """
    root = policy.path(uri)
    if not root.exists():
        raise SourceError(
            f"The source {uri!r} doesn't exist (looked for {root}).{guess(uri, [BUILT_IN], 0.8)} "
            "Give an existing folder: make run SOURCE=path/to/folder"
        )
    if not root.is_dir():
        raise SourceError(f"The source {uri!r} is a file, not a folder. {LAYOUT}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise SourceError(f"The source {uri!r} can't be read by this user. Fix it: chmod -R u+rX {uri}")
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if not is_junk(entry.name))
    if not names:
        raise SourceError(f"The folder {uri!r} is empty. {LAYOUT}")
    if policy.labelled and not any((root / name).is_dir() for name in names):
        raise SourceError(
            f"The folder {uri!r} holds {len(names)} files but no class folders, so the images have no labels. {LAYOUT}"
        )


def discover(uri: str, policy: SourcePolicy) -> SourceListing:
    """List every file, as an image of a class or as excluded with the reason.

    Raises:
        SourceError: a folder can't be read.
    """
    root = policy.path(uri)
    with os.scandir(root) as top:
        splits = kept_splits(entry.name for entry in top if entry.is_dir(follow_symlinks=False))
    reader, above = LocalFiles(root, policy.max_image_bytes), len(os.path.join(root, ""))  # noqa: PTH118

    def entry(path: str, size: int, wrong: str | None) -> SourceImage | Excluded:
        place = path[above:]
        parts = place.split("/")
        reason = wrong or why_excluded(parts, splits, policy.labelled)
        if reason:
            return Excluded(printable(place), reason)
        label, split = class_and_split(parts, splits)
        return SourceImage(printable(place), label, split, reader, place, size_bytes=size)

    return SourceListing.of(entry(*found) for found in policy.watched(_walk(root, policy.max_image_bytes)))


def _walk(root: Path, max_bytes: int) -> Iterator[tuple[str, int, str | None]]:
    """Every file below the root, its size, and the reason to exclude it or None. Links to folders are not followed."""
    inside = os.path.realpath(root)
    pending = [root]
    while pending:
        folder = pending.pop()
        entries = _entries(folder)
        if not entries:
            yield str(folder), 0, "empty_folder"
        for entry in entries:
            if is_junk(entry.name):
                yield entry.path, 0, "system_file"
            elif entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            else:
                yield entry.path, *_size_and_reason(entry, inside, max_bytes)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(
            f"The folder {printable(str(folder))} can't be read ({error.strerror}). Fix it: chmod -R u+rX the source."
        ) from None


def _size_and_reason(entry: os.DirEntry[str], inside: str, max_bytes: int) -> tuple[int, str | None]:
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not target.startswith(inside + os.sep):
            return 0, "link_out_of_source"
        if not Path(target).is_file():
            return 0, "link_to_no_file"
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        return 0, "not_a_regular_file"
    return status.st_size, "too_large" if status.st_size > max_bytes else None
