"""An archive with a folder of class folders in it: `.tar`, `.tar.gz`, `.tar.zst`, `.zip`, local or in S3.

The kind is read from the first bytes, not from the name. The layout inside is that of a folder; folders that are common
to all images (`flowers/` in `flowers/rose/1.jpg`) are skipped. Members that would lead outside (absolute paths, `..`,
links, devices) and encrypted members are excluded with the reason. If several members have the same name, the last one
counts. An image's version is the archive's SHA-256 and the member's position: an unchanged archive isn't read again.

Costs: an archive is hashed once. Zip and plain tar are read in place. A compressed tar is unpacked once into the cache
(`source_cache`), where it takes as much disk space as its contents. An archive in S3 is downloaded once into the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.errors import SourceError
from tasks.images.sources.archive.members import ArchiveMember
from tasks.images.sources.archive.tars import Tar, unpack
from tasks.images.sources.archive.zips import Zip
from tasks.images.sources.layout import class_and_split, is_junk, kept_splits, printable, why_excluded
from tasks.images.sources.listing import Excluded, SourceImage, SourceListing, consumed
from tasks.images.sources.policy import SourcePolicy

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
_TAR_MAGIC_OFFSET = 257
_LAYOUT = "Expected <class>/<image> inside, or train/<class>/<image> with test or val beside train."


def check(uri: str, policy: SourcePolicy) -> None:
    """Check that the archive exists and is a tar or zip.

    Raises:
        SourceError: it is missing, unreadable, or of another kind.
    """
    if uri.startswith("s3://"):
        from tasks.images.sources import s3

        s3.describe_object(uri, policy)
    else:
        _kind(policy.check_file("archive", uri, "flowers.zip"), uri)


def discover(uri: str, policy: SourcePolicy) -> SourceListing:
    """List every member, as an image of a class or as excluded with the reason.

    Raises:
        SourceError: see `check`; or the archive is damaged, cut off, or a bomb.
    """
    if uri.startswith("s3://"):
        from tasks.images.sources import s3

        path, digest = s3.download_object(uri, policy)
    else:
        check(uri, policy)
        path = policy.path(uri)
        digest = policy.cache.digest_of(path, policy.check_wanted)
    opened = _opened(path, digest, uri, policy)
    return _arranged(list(policy.watched(opened.members(policy))), opened, digest, uri, policy.labelled)


def _kind(path: Path, shown: str) -> str:
    with path.open("rb") as file:
        head = file.read(_TAR_MAGIC_OFFSET + 5)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[_TAR_MAGIC_OFFSET:] == b"ustar":
        return "tar"
    looks = "is empty" if not head else f"begins with {head[:8]!r}"
    raise SourceError(
        f"The archive {shown!r} is not a tar (plain, gzip, zstd) or zip: it {looks}. "
        "Get it again, or unpack it and give the folder."
    )


def _opened(path: Path, digest: str, shown: str, policy: SourcePolicy) -> Tar | Zip:
    kind = _kind(path, shown)
    if kind == "zip":
        return Zip(path, shown)
    return Tar(path if kind == "tar" else unpack(path, digest, kind, shown, policy), shown)


def _arranged(members: list[ArchiveMember], reader: Tar | Zip, digest: str, uri: str, labelled: bool) -> SourceListing:
    names = [member.name for member in members if not _reason(member)]
    if not names:
        raise SourceError(f"The archive {uri!r} holds no file that may be read ({_counted(members)}). {_LAYOUT}")
    top = _common_top(names)
    splits = kept_splits({parts[top] for name in names if len(parts := name.split("/", top + 1)) > top + 1})
    seen: set[str] = set()

    def entry(number: int, member: ArchiveMember) -> SourceImage | Excluded:
        is_double = member.name in seen  # the last one counts; it also wins when tar or unzip unpack
        seen.add(member.name)
        path, parts = printable(member.name), member.name.split("/")[top:]
        reason = _reason(member, is_double) or why_excluded(parts, splits, labelled)
        if reason is not None:
            return Excluded(f"{path} (entry {number + 1})" if is_double else path, reason)
        label, split = class_and_split(parts, splits)
        version, size = f"{digest}:{number}", member.size_bytes
        return SourceImage(path, label, split, reader, member.place, version, size_bytes=size)

    count = len(members)
    return SourceListing.of(entry(count - place, member) for place, member in enumerate(consumed(members), 1))


def _reason(member: ArchiveMember, is_double: bool = False) -> str | None:
    if member.reason:
        return member.reason
    if is_double:
        return "duplicate_member"
    return "system_file" if any(is_junk(part) for part in member.name.split("/")) else None


def _common_top(names: Sequence[str]) -> int:
    """How many top folders are common to all files in folders. They are skipped.

    At least two levels stay below them, a class and its images, if any file is that deep.
    """
    deepest = max(name.count("/") + 1 for name in names)
    depth = 0
    while deepest - depth > 2:
        tops = {name.split("/", depth + 1)[depth] for name in names if name.count("/") > depth}
        if len(tops) > 1:
            break
        depth += 1
    return depth


def _counted(members: list[ArchiveMember]) -> str:
    reasons = [member.reason or "system_file" for member in members]
    return ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons))) or "it is empty"
