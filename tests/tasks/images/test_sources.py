"""Sources: everything in a folder is listed once, as an image of a class or with the reason why it is not."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SourceError
from tasks.images.reason_codes import SourceChangedError
from tasks.images.sources import SourceListing, check_source, discover
from tasks.images.sources.layout import printable
from tests.conftest import PROJECT, save_image
from tests.tasks.images.sources.making import make_csv, make_zip
from tests.tasks.images.sources.policies import policy


def put(root: Path, *names: str | bytes) -> Path:
    """Files whose content is their name; folders where they are needed."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))  # noqa: PTH118 - names may be bytes
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(os.fsencode(name))
    return root


def splits(listing: SourceListing) -> dict[str, str | None]:
    return {item.path: item.split for item in listing.images}


def reasons(listing: SourceListing) -> dict[str, str]:
    return {entry.path: entry.reason for entry in listing.excluded}


def test_folder_takes_classes_from_its_folders_and_reads_the_bytes(tmp_path: Path) -> None:
    listing = discover(str(put(tmp_path, "ants/1.jpg", "ants/deep/er/2.JPG", "bees/3")), policy())
    assert [(item.path, item.label, item.split) for item in listing.images] == [
        ("ants/1.jpg", "ants", None),
        ("ants/deep/er/2.JPG", "ants", None),
        ("bees/3", "bees", None),
    ]
    assert [item.read() for item in listing.images] == [b"ants/1.jpg", b"ants/deep/er/2.JPG", b"bees/3"]
    assert listing.excluded == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_folder_with_train_and_validation_only_holds_validation_out_as_test(tmp_path: Path, name: str) -> None:
    listing = discover(str(put(tmp_path, "train/a/1", "train/b/2", f"{name}/a/3", f"{name}/b/sub/4")), policy())
    assert splits(listing) == {
        "train/a/1": "train",
        "train/b/2": "train",
        f"{name}/a/3": "test",
        f"{name}/b/sub/4": "test",
    }
    assert {item.label for item in listing.images} == {"a", "b"}


def test_folder_with_three_splits_keeps_them(tmp_path: Path) -> None:
    listing = discover(str(put(tmp_path, "Train/a/1", "valid/b/2", "TEST/a/3")), policy())
    assert splits(listing) == {"Train/a/1": "train", "valid/b/2": "validation", "TEST/a/3": "test"}


def test_folder_with_train_and_test_leaves_validation_to_be_carved(tmp_path: Path) -> None:
    listing = discover(str(put(tmp_path, "train/a/1", "train/b/2", "test/a/3")), policy())
    assert splits(listing) == {"train/a/1": "train", "train/b/2": "train", "test/a/3": "test"}


def test_folder_may_have_a_class_called_train(tmp_path: Path) -> None:
    listing = discover(str(put(tmp_path, "train/1", "bus/2")), policy())
    assert splits(listing) == {"train/1": None, "bus/2": None}


def test_folder_excludes_and_lists_entries_that_are_not_images_of_a_class(tmp_path: Path) -> None:
    put(tmp_path, "a/1", "b/2", "readme.txt", "a/.DS_Store", "a/._1", "b/Thumbs.db", "__MACOSX/a/1", ".git/config")
    (tmp_path / "c" / "empty").mkdir(parents=True)
    listing = discover(str(tmp_path), policy())
    assert [item.path for item in listing.images] == ["a/1", "b/2"]
    assert reasons(listing) == {
        "readme.txt": "outside_class_folders",
        "a/.DS_Store": "system_file",
        "a/._1": "system_file",
        "b/Thumbs.db": "system_file",
        "__MACOSX": "system_file",
        ".git": "system_file",
        "c/empty": "empty_folder",
    }


def test_folder_with_splits_excludes_what_stands_beside_them(tmp_path: Path) -> None:
    listing = discover(str(put(tmp_path, "train/a/1", "train/b/2", "test/a/3", "extra/a/4", "train/5")), policy())
    assert reasons(listing) == {"extra/a/4": "outside_split_folders", "train/5": "outside_class_folders"}


def test_folder_follows_links_only_to_files_inside(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "secret") / "secret"
    root = put(tmp_path / "root", "a/1", "b/2")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "out").symlink_to(outside)
    (root / "a" / "up").symlink_to("../../outside/secret")
    (root / "a" / "broken").symlink_to("nowhere")
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "good").symlink_to("../b/2")
    (tmp_path / "root-beside").mkdir()
    put(tmp_path / "root-beside", "3")
    (root / "a" / "beside").symlink_to(tmp_path / "root-beside" / "3")
    listing = discover(str(root), policy())
    assert [item.path for item in listing.images] == ["a/1", "a/good", "b/2"]
    assert reasons(listing) == {
        "a/loop": "link_out_of_source",
        "a/out": "link_out_of_source",
        "a/up": "link_out_of_source",
        "a/beside": "link_out_of_source",
        "a/broken": "link_to_no_file",
        "a/self": "link_to_no_file",
    }


def test_folder_does_not_enter_split_folders_that_are_links(tmp_path: Path) -> None:
    put(tmp_path / "outside", "a/1")
    root = put(tmp_path / "root", "test/a/1", "other/b/2")
    (root / "train").symlink_to(tmp_path / "outside")
    listing = discover(str(root), policy())
    assert splits(listing) == {"test/a/1": None, "other/b/2": None}
    assert reasons(listing) == {"train": "link_out_of_source"}


def test_folder_does_not_open_entries_that_are_not_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path, "a/1", "b/2")
    os.mkfifo(root / "a" / "fifo")
    monkeypatch.chdir(root / "a")  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        listing = discover(str(root), policy())
    assert [item.path for item in listing.images] == ["a/1", "b/2"]
    assert reasons(listing) == {"a/fifo": "not_a_regular_file", "a/socket": "not_a_regular_file"}


def test_folder_escapes_names_so_that_any_report_can_show_them(tmp_path: Path) -> None:
    put(tmp_path, b"a/\xff.jpg", "a/line\nbreak", "a/tab\t", "b/back\\slash", "b/" + "x" * 255)
    paths = [item.path for item in discover(str(tmp_path), policy()).images]
    assert paths == [r"a/\xff.jpg", r"a/line\nbreak", r"a/tab\t", r"b/back\\slash", "b/" + "x" * 255]
    assert all(path.isprintable() for path in paths)


def test_folder_keeps_names_apart_that_look_alike(tmp_path: Path) -> None:
    names = [b"a/\xa0", b"a/\\xa0", "a/\u00a0", "a/X", "a/x", "a/é", unicodedata.normalize("NFD", "a/é"), "b/1"]
    listing = discover(str(put(tmp_path, *names)), policy())
    assert len({item.path for item in listing.images}) == len(names)
    assert {item.read() for item in listing.images} == {os.fsencode(name) for name in names}


def test_folder_takes_nfc_and_nfd_names_for_one_class(tmp_path: Path) -> None:
    names = [
        f"{unicodedata.normalize(form, split)}/{number}"
        for number, (form, split) in enumerate(
            [("NFC", "train/Bär"), ("NFD", "train/Bär"), ("NFD", "test/Bär"), ("NFC", "train/Kuh")]
        )
    ]
    listing = discover(str(put(tmp_path, *names)), policy())
    assert {item.label for item in listing.images} == {unicodedata.normalize("NFC", "Bär"), "Kuh"}


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
def test_printable_names_are_equal_only_for_equal_names(one: bytes, other: bytes) -> None:
    shown = [printable(os.fsdecode(name)) for name in (one, other)]
    assert (shown[0] == shown[1]) == (one == other)
    assert all(name.isprintable() for name in shown)


def test_listing_is_in_the_order_of_the_paths(tmp_path: Path) -> None:
    put(tmp_path, "b/2", "a/10", "a/9", "a-b/1", "z")
    listing = discover(str(tmp_path), policy())
    paths = [item.path for item in listing.images]
    assert paths == sorted(paths)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "is empty"),
        ([".DS_Store"], "is empty"),
        (["1.jpg", "2.jpg"], "2 files but no class folders"),
        (["a/1"], "only the class 'a'"),
        (["a/.hidden", "b/.hidden"], "no image in a class folder"),
        (["train/a/1", "test/a/1"], "only the class 'a'"),
    ],
)
def test_folder_that_makes_no_classifier_is_explained(tmp_path: Path, names: list[str], said: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(SourceError) as caught:
        discover(str(tmp_path), policy())
    assert said in str(caught.value)
    assert "SOURCE/<class>/<image>" in str(caught.value)


def test_source_that_is_missing_or_a_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="doesn't exist"):
        check_source(str(tmp_path / "nowhere"), policy())
    with pytest.raises(SourceError, match="is a file, not a folder"):
        check_source(str(save_image(tmp_path / "1.png", "ant", 1)), policy())


@pytest.mark.parametrize("uri", ["https://example.org/a.zip", "gs://bucket/prefix"])
def test_source_of_an_unknown_kind_names_the_known_ones(uri: str) -> None:
    with pytest.raises(
        SourceError,
        match=r"not known\. Give a folder of class folders, an archive .*tfds:name, `digits` or `digits:all`",
    ):
        check_source(uri, policy())


def test_folder_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path, "a/1", "b/2")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, whom nothing is denied
    with pytest.raises(SourceError, match=r"b can't be read \(Permission denied\)"):
        discover(str(root), policy())


def test_discovering_changes_nothing(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1", "b/2", "b/.DS_Store")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    discover(str(root), policy())
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_digits_are_sixty_of_each_of_ten_classes_unless_all_are_asked_for() -> None:
    few, all_of_them = discover("digits", policy()), discover("digits:all", policy())
    assert Counter(item.label for item in few.images) == dict.fromkeys("0123456789", 60)
    assert len(all_of_them.images) == 1797
    assert {item.split for item in all_of_them.images} == {None}
    assert {item.path for item in few.images} < {item.path for item in all_of_them.images}
    assert few.images[0].read() == all_of_them.images[0].read()
    assert few.images[0].read().startswith(b"\x89PNG")
    assert few.about["name"] == f"{all_of_them.about['name']}, the first 60 of each class"


def test_other_names_of_digits_are_refused() -> None:
    with pytest.raises(SourceError, match=r"Give `digits` \(60 images of each class\) or `digits:all`"):
        check_source("digits:many", policy())


@pytest.mark.slow
def test_digits_are_the_same_bytes_in_every_process() -> None:
    code = """
from hashlib import sha256
from tasks.images.sources import discover
from tests.tasks.images.sources.making import make_csv, make_zip
from tests.tasks.images.sources.policies import policy
print([(item.path, sha256(item.read()).hexdigest()) for item in discover("digits", policy()).images])
"""
    one, two = (
        subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    )
    assert one == two


def test_files_too_large_for_images_are_excluded_and_bounded_when_read(tmp_path: Path) -> None:
    put(tmp_path, "a/1", "b/2", "b/3")
    size = (tmp_path / "a/1").stat().st_size
    (tmp_path / "a/large").write_bytes(bytes(size + 1))
    (tmp_path / "a/link").symlink_to("large")
    listing = discover(str(tmp_path), policy(max_image_bytes=size))
    assert {entry.path: entry.reason for entry in listing.excluded} == dict.fromkeys(("a/large", "a/link"), "too_large")
    (tmp_path / "a/1").write_bytes(bytes(size + 1))
    with pytest.raises(SourceChangedError, match="a/1 grew above"):
        listing.images[0].read()


def test_relative_source_starts_at_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "run/images", "a/1", "b/2")
    monkeypatch.chdir(tmp_path)
    check_source("images", policy(tmp_path / "run"))
    assert len(discover("images", policy(tmp_path / "run")).images) == 2
    with pytest.raises(SourceError, match=f"looked for {tmp_path / 'run/run/images'}"):
        check_source("run/images", policy(tmp_path / "run"))


@pytest.mark.parametrize("name", ["~/photos", "~someone/photos"])
def test_source_in_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    put(tmp_path / "home/photos", "a/1", "b/2")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    person = pwd.struct_passwd(("someone", "x", 1, 1, "", str(tmp_path / "home"), ""))
    monkeypatch.setattr(pwd, "getpwnam", {"someone": person}.__getitem__)
    assert len(discover(name, policy(tmp_path)).images) == 2


def test_table_and_archive_in_a_home_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = put(tmp_path / "home", "1", "2")
    monkeypatch.setenv("HOME", str(home))
    make_csv(home / "t.csv", [("path", "label"), ("1", "a"), ("2", "b")])
    make_zip(home / "f.zip", [("a/1", b"1"), ("b/2", b"2")])
    for name in ("~/t.csv", "~/f.zip"):
        assert len(discover(name, policy(tmp_path / "clone")).images) == 2


def test_folder_that_is_called_like_a_home_is_still_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "~no-such-user/a/1", "~no-such-user/b/2")
    assert len(discover("~no-such-user", policy(tmp_path)).images) == 2


def test_source_of_a_deployed_run_is_looked_for_in_its_folder_and_then_in_the_clone(tmp_path: Path) -> None:
    run, clone = tmp_path / "clone/.rootstock/runs/nightly", tmp_path / "clone"
    deployed = policy(run, clone=clone)
    put(clone / "images", "a/1", "b/2", "b/3")
    assert len(discover("images", deployed).images) == 3
    put(run / "images", "a/1", "b/2")
    assert len(discover("images", deployed).images) == 2


@pytest.mark.parametrize("name", ["photoes", "photoes.zip", "photoes.csv"])
def test_missing_source_of_a_deployed_run_is_said_to_be_missing_in_the_clone(tmp_path: Path, name: str) -> None:
    run, clone = tmp_path / "clone/.rootstock/runs/nightly", tmp_path / "clone"
    run.mkdir(parents=True)
    with pytest.raises(SourceError) as caught:
        check_source(name, policy(run, clone=clone))
    assert f"looked for {clone / name}" in str(caught.value)
    assert str(run) not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("s4://me:secret@bucket/prefix", "s3"),
        ("S3://bucket", "s3"),
        ("tfd:mnist", "tfds"),
        ("TFDS:mnist", "tfds"),
        ("digit", "digits"),
        ("Digits", "digits"),
        ("digts", "digits"),
    ],
)
def test_misspelt_source_is_told_what_was_meant(tmp_path: Path, uri: str, meant: str) -> None:
    with pytest.raises(SourceError, match=f"Did you mean '{meant}'\\?") as caught:
        check_source(uri, policy(tmp_path))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["gs://bucket/prefix", "hdfs://host/a", "https://example.org/a.zip", "images", "dogs"])
def test_source_that_is_no_misspelling_gets_no_guess(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_source(uri, policy(tmp_path))
    assert "Did you mean" not in str(caught.value)
