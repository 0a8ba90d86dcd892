"""Packs: original bytes in few big files, so that DVC and object stores move thousands of images at once.

A pack is an ordinary uncompressed tar file. Its members are named by the SHA-256 of their bytes; its own name is the
start of its own SHA-256. So a pack never changes, every byte can be verified, and `tar tf` lists the images.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import IntegrityError
from tasks.files import atomic_file, file_sha256, sha256_hex

_NAME_DIGITS = 16


@dataclass(frozen=True, slots=True)
class PackEntry:
    """The place of an image's bytes: `size_bytes` at `offset` of the pack."""

    pack: Path
    offset: int
    size_bytes: int


def index_packs(folder: Path) -> dict[str, PackEntry]:
    """Key -> the place of its bytes, for all packs of a folder; read from the headers of the packs.

    Raises:
        IntegrityError: a pack is not a whole tar file.
    """
    return {key: entry for pack in sorted(folder.glob("*.tar")) for key, entry in index_pack(pack).items()}


def index_pack(pack: Path) -> dict[str, PackEntry]:
    """Key -> the place of its bytes in one pack.

    Raises:
        IntegrityError: the pack is not a whole tar file.
    """
    try:
        with tarfile.open(pack, "r:") as members:
            return {member.name: PackEntry(pack, member.offset_data, member.size) for member in members}
    except tarfile.TarError as error:
        raise IntegrityError(f"The pack {pack} is damaged ({error}). Delete it and run again: rm {pack}") from None


def verify_pack(pack: Path) -> bool:
    """Whether the pack's bytes are those that were written."""
    return file_sha256(pack).startswith(pack.stem)


def write_packs(folder: Path, images: Iterable[tuple[str, bytes]], pack_size_bytes: int) -> Iterator[tuple[Path, int]]:
    """Append packs with the given (key, bytes). Yields each finished pack with its number of images.

    The same images in the same order always make the same packs, even if a run is killed in between: packs are filled
    in order and are never incomplete.
    """
    waiting: list[tuple[str, bytes]] = []
    size = 0
    for key, data in images:
        waiting.append((key, data))
        size += len(data)
        if size >= pack_size_bytes:
            yield _write_pack(folder, waiting), len(waiting)
            waiting, size = [], 0
    if waiting:
        yield _write_pack(folder, waiting), len(waiting)


def read_image(place: PackEntry, key: str) -> bytes:
    """The verified original bytes of an image.

    Raises:
        IntegrityError: they have changed since they were packed.
    """
    with place.pack.open("rb") as file:
        file.seek(place.offset)
        data = file.read(place.size_bytes)
    if sha256_hex(data) != key:
        raise IntegrityError(
            f"The bytes of image {key[:12]} in {place.pack} have changed since they were packed. "
            f"Delete that pack and run again: rm {place.pack}"
        )
    return data


def _write_pack(folder: Path, images: list[tuple[str, bytes]]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as members:
        for key, data in images:
            member = tarfile.TarInfo(key)
            member.size = len(data)
            members.addfile(member, io.BytesIO(data))
    content = buffer.getbuffer()
    pack = folder / f"{sha256_hex(content)[:_NAME_DIGITS]}.tar"
    with atomic_file(pack) as file:
        file.write(content)
    return pack
