"""Images are read ahead in order, and never more bytes than fit into the memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tasks.errors import RootstockError, SourceError, TransientError
from tasks.images.reason_codes import Refused
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources import SourceImage, SourceListing, discover
from tasks.images.sources.reading import LARGE_BYTES, read_ahead
from tests.tasks.images.sources.making import make_csv, make_tar, make_zip
from tests.tasks.images.sources.policies import policy

MIB = 1 << 20
BITMAP, TEXT = b"BM" + bytes(range(200)) * 5, b"text" * 300


class FewBytes:
    """Reads a few bytes as every image, and a text as every head."""

    def read(self, _image: SourceImage) -> bytes:
        return b"BM"

    def read_head(self, _image: SourceImage) -> bytes:
        return TEXT[:HEAD_BYTES]


@pytest.mark.parametrize(("size", "most"), [(0, 8), (60 * MIB, 4), (200 * MIB, 1), (900 * MIB, 1)])
def test_few_large_images_are_read_at_once(size: int, most: int) -> None:
    begun: list[str] = []

    class Notes(FewBytes):
        def read(self, image: SourceImage) -> bytes:
            begun.append(image.path)
            return super().read(image)

        def read_head(self, _image: SourceImage) -> bytes:
            return b"BM"

    names = [f"{number:02}" for number in range(30)]
    images = (SourceImage(name, "a", None, Notes(), size_bytes=size) for name in names)
    for number, (one, _) in enumerate(read_ahead(images, readers=4)):
        assert one.path == names[number]
        assert len(begun) <= number + most
    assert sorted(begun) == names


def test_image_that_may_not_be_read_is_refused_where_each_gets_a_row() -> None:
    class Forbidden(FewBytes):
        def read(self, image: SourceImage) -> bytes:
            if image.path == "no":
                raise PermissionError(errno.EACCES, "Permission denied")
            return BITMAP

    images = [SourceImage(path, "", None, Forbidden()) for path in ("a", "no", "z")]
    found = [data for _, data in read_ahead(images, readers=2, refuse_unreadable=True)]
    assert [str(one) for one in found if isinstance(one, Refused)] == ["unreadable: Permission denied"]
    assert found[0] == found[2] == BITMAP
    with pytest.raises(SourceError, match="no can't be read: Permission denied"):
        list(read_ahead(images, readers=2))


def test_large_file_that_is_no_image_is_not_read() -> None:
    class Film(FewBytes):
        def read(self, image: SourceImage) -> bytes:
            raise AssertionError(f"all of {image.path} was read")

    film = SourceImage("film", "a", None, Film(), size_bytes=LARGE_BYTES + 1)
    [(_, found)] = read_ahead([film], readers=1)
    assert isinstance(found, Refused)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ESTALE, TransientError),
        (errno.ENOTCONN, TransientError),
        (errno.EACCES, SourceError),
        (errno.EIO, SourceError),
    ],
)
def test_file_system_behind_a_network_that_does_not_answer_is_no_mistake_of_the_user(
    number: int, kind: type[RootstockError]
) -> None:
    class Broken(FewBytes):
        def read(self, _image: SourceImage) -> bytes:
            raise OSError(number, os.strerror(number))

    with pytest.raises(kind, match=f"a/1 can't be read: {os.strerror(number)}"):
        list(read_ahead([SourceImage("a/1", "a", None, Broken())], readers=1))


def listed(kind: str, folder: Path) -> SourceListing:
    files = {"a/1": BITMAP, "b/2": TEXT, "b/3": b"BM"}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if kind == "folder":
        return discover(str(folder), policy())
    if kind == "table":
        rows = [("path", "label"), *((name, name[0]) for name in files)]
        return discover(str(make_csv(folder / "t.csv", rows)), policy())
    make = make_zip if kind == "zip" else make_tar
    return discover(str(make(folder / f"f.{kind}", files.items())), policy())


@pytest.mark.parametrize("kind", ["folder", "table", "zip", "tar", "tar.gz"])
def test_every_source_of_files_tells_sizes_and_heads(kind: str, tmp_path: Path) -> None:
    images = listed(kind, tmp_path).images
    assert [image.size_bytes for image in images] == [len(BITMAP), len(TEXT), 2]
    heads = [image.read_head() for image in images]
    assert heads == [BITMAP[:HEAD_BYTES], TEXT[:HEAD_BYTES], b"BM"]
    assert [image.read() for image in images] == [BITMAP, TEXT, b"BM"]
