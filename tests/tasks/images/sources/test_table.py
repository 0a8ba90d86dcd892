"""Tables: every row is an image or an error with its row number; all errors are listed at once."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import SourceError
from tasks.images.sources import SourcePolicy, folder, table
from tasks.images.sources.table import remote
from tests.conftest import contents
from tests.tasks.images.sources.conftest import Bucket
from tests.tasks.images.sources.making import files_of, known, labels, make_csv, reasons, split_source
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import refused, unavailable

HEADER = ["path", "label"]
GOOD = [HEADER, ["ant/1", "ant"], ["bee/1", "bee"]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four files whose content is their name, and something outside."""
    root = tmp_path / "root"
    for name in ("ant/1", "ant/2", "bee/1", "bee/2"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "outside").write_text("secret")
    return root


def problems(path: Path | str, allowed: SourcePolicy | None = None) -> list[str]:
    with pytest.raises(SourceError) as caught:
        table.discover(str(path), allowed or policy())
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_gives_what_its_folder_gives(tmp_path: Path, kind: str) -> None:
    root = split_source(tmp_path / "images")
    lines = [[name, name.split("/")[1], name.split("/")[0]] for name in files_of(root)]
    if kind == "csv":
        path = make_csv(root / "t.csv", [["path", "label", "split"], *lines])
    else:
        path = root / "t.parquet"
        pq.write_table(pa.table(dict(zip(["path", "label", "split"], zip(*lines, strict=True), strict=True))), path)
    found = known(table.discover(str(path), policy()))
    path.unlink()
    assert found == known(folder.discover(str(root), policy()))
    assert {split for _, split, _ in found} == {"train", "test"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_case_45_csv_with_any_delimiter_and_byte_order_mark_is_read(root: Path, delimiter: str, encoding: str) -> None:
    lines = [["Path", " LABEL ", "group"], ["ant/1", 'a, "b"; c', "x,1"], ["bee/1", "bee", ""]]
    listing = table.discover(str(make_csv(root / "t.csv", lines, delimiter, encoding)), policy())
    assert [(item.path, item.label, item.group, item.read()) for item in listing.images] == [
        ("ant/1", 'a, "b"; c', "x,1", b"ant/1"),
        ("bee/1", "bee", None, b"bee/1"),
    ]


def test_table_may_have_more_commas_in_its_header_than_delimiters(root: Path) -> None:
    (root / "t.csv").write_text("path;label\nant/1;a,b,c\nbee/1;d\n")
    assert labels(table.discover(str(root / "t.csv"), policy())) == {"ant/1": ("a,b,c", None), "bee/1": ("d", None)}


def test_case_45_paths_may_lead_anywhere_inside_of_the_folder(root: Path) -> None:
    lines = [
        HEADER,
        [str(root / "ant/1"), "ant"],
        ["bee/../bee/1", "bee"],
        ["./ant//2", "ant"],
        ["../root/bee/2", "bee"],
    ]
    assert set(labels(table.discover(str(make_csv(root / "t.csv", lines)), policy()))) == {
        "ant/1",
        "ant/2",
        "bee/1",
        "bee/2",
    }


def test_case_45_all_errors_are_reported_at_once_with_their_rows(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "fifo")
    (tmp_path / "root-beside").write_text("secret")
    lines = [
        ["path", "label", "split"],
        ["ant/1", "ant", "train"],
        ["/outside", "ant", "train"],
        ["../outside", "ant", "test"],
        ["../root-beside", "ant", "test"],
        ["link", "ant", "test"],
        ["nowhere", "ant", "test"],
        ["ant", "ant", "test"],
        ["fifo", "ant", "test"],
        ["", "ant", "test"],
        ["bee/1", " ", "test"],
        ["bee/2", "bee", "dev"],
        ["ant/2", "ant", ""],
        ["ant/2", "ant"],
        ["ant/2", "ant", "test", "more"],
        ["ant/1", "bee", "train"],
        ["a\0b", "ant", "train"],
    ]
    path = make_csv(root / "t.csv", lines)
    outside = "/outside"  # short: a message cuts long paths
    assert problems(path) == [
        f"row 3: {outside!r} is outside of the table's folder",
        "row 4: '../outside' is outside of the table's folder",
        "row 5: '../root-beside' is outside of the table's folder",
        "row 6: 'link' is outside of the table's folder",
        "row 7: 'nowhere' can't be read (No such file or directory)",
        "row 8: 'ant' is not a file",
        "row 9: 'fifo' is not a file",
        "row 10: the path is empty",
        "row 11: the label is empty",
        "row 12: unknown split 'dev'; known are train, val, valid, validation, test",
        "row 13: no split, but other rows have one",
        "row 14: 2 fields instead of 3 (path, label, split)",
        "row 15: 4 fields instead of 3 (path, label, split)",
        "row 16: 'ant/1' is given twice: label is 'bee' here and 'ant' in row 2",
        "row 17: the path holds a NUL",
    ]


def test_case_45_the_first_twenty_errors_are_reported_and_the_others_counted(root: Path) -> None:
    lines = [HEADER, *([f"gone{number}", "ant"] for number in range(50))]
    with pytest.raises(SourceError, match="has 50 errors in its rows") as caught:
        table.discover(str(make_csv(root / "t.csv", lines)), policy())
    told = str(caught.value).splitlines()
    assert (len(told), told[1][:8], told[-1]) == (22, "  row 2:", "  and 30 more")


def test_case_45_duplicate_rows_are_excluded_if_they_agree(root: Path) -> None:
    lines = [*GOOD, ["ant/1", "ant"], ["./ant/1", "ant"]]
    listing = table.discover(str(make_csv(root / "t.csv", lines)), policy())
    assert set(labels(listing)) == {"ant/1", "bee/1"}
    assert reasons(listing) == {"ant/1 (row 4)": "duplicate_row", "ant/1 (row 5)": "duplicate_row"}


def test_case_45_duplicate_rows_with_another_split_or_group_are_errors(root: Path) -> None:
    lines = [["path", "label", "split", "group"], ["ant/1", "ant", "train", "a"], ["ant/1", "ant", "test", "b"]]
    assert problems(make_csv(root / "t.csv", lines)) == [
        "row 3: 'ant/1' is given twice: split is 'test' here and 'train' in row 2, group is 'b' here and 'a' in row 2"
    ]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("file,class", "'file', 'class'"),
        ("path", "'path'"),
        ("path,label,spilt", "'path', 'label', 'spilt'"),
        ("path,label,label", "'path', 'label', 'label'"),
        ("ant/1,ant", "'ant/1', 'ant'"),
        ("", "none"),
        ("path|label", "'path|label'"),
    ],
)
def test_case_45_wrong_columns_are_named(root: Path, header: str, found: str) -> None:
    (root / "t.csv").write_text(f"{header}\nant/1,ant\n" if header else "")
    with pytest.raises(SourceError, match="Expected: path, label, and optionally split, group") as caught:
        table.check(str(root / "t.csv"), policy())
    assert str(caught.value).endswith(f"Found: {found}")


def test_case_45_rows_are_numbered_by_lines_even_where_a_field_has_several(root: Path) -> None:
    (root / "t.csv").write_bytes(b'\r\npath,label\r\n"ant/1","two\r\nlines"\r\n\r\ngone,ant\r\n')
    assert problems(root / "t.csv") == ["row 6: 'gone' can't be read (No such file or directory)"]


def test_case_45_an_open_quote_is_reported_with_the_row_where_it_opens(root: Path) -> None:
    (root / "t.csv").write_text('path,label\nant/1,ant\n"bee/1,bee\nant/2,ant\n')
    [problem] = problems(root / "t.csv")
    assert problem.startswith("row 3: not CSV from here on")


def test_case_45_bytes_that_are_not_utf8_are_reported_with_their_row(root: Path) -> None:
    (root / "t.csv").write_bytes(b"path,label\nant/1,ant\nbee/1,B\xe4r\n")
    with pytest.raises(SourceError, match="is not UTF-8: byte 0xe4 in row 3"):
        table.discover(str(root / "t.csv"), policy())


def test_case_44_words_of_a_table_are_printable(root: Path) -> None:
    lines = [["path", "label", "group"], ["ant/1", "=cmd()\x1b[31m", "g\u202e"], ["bee/1", "<img onerror=x>", "../x"]]
    first, second = table.discover(str(make_csv(root / "t.csv", lines)), policy()).images
    assert (first.label, first.group) == (r"=cmd()\u001b[31m", r"g\u202e")
    assert (second.label, second.group) == ("<img onerror=x>", "../x")


def test_case_46_a_name_may_begin_and_end_with_blanks(root: Path) -> None:
    (root / " ant ").write_text("x")
    assert labels(table.discover(str(make_csv(root / "t.csv", [*GOOD, [" ant ", " ant "]])), policy()))[" ant "] == (
        "ant",
        None,
    )


def test_columns_about_the_images_are_kept_if_their_names_say_so(root: Path) -> None:
    lines = [["path", "label", "About_Camera", "about_note"], ["ant/1", "ant", " X100 ", ""], ["bee/1", "bee", "", ""]]
    first, second = table.discover(str(make_csv(root / "t.csv", lines)), policy()).images
    assert (first.about, second.about) == ('{"camera": "X100"}', None)
    lines[2] = ["bee/1", "bee", "\x1b\u202e" + "long" * 100, "=cmd()"]
    _, second = table.discover(str(make_csv(root / "t.csv", lines)), policy()).images
    told = json.loads(second.about or "")
    assert told["note"] == "=cmd()"
    assert len(told["camera"]) == 100
    assert told["camera"].startswith(r"\u001b\u202elong")
    (root / "t.csv").write_text("path,label,camera\nant/1,ant,X100\n")
    with pytest.raises(SourceError, match="optionally split, group, about_NAME"):
        table.check(str(root / "t.csv"), policy())


def test_split_column_that_is_empty_everywhere_gives_no_splits(root: Path) -> None:
    lines = [["path", "label", "split"], ["ant/1", "ant", ""], ["bee/1", "bee", ""]]
    assert {item.split for item in table.discover(str(make_csv(root / "t.csv", lines)), policy()).images} == {None}


def test_parquet_may_hold_numbers_and_dictionaries(root: Path) -> None:
    path = root / "t.parquet"
    columns = {
        "path": pa.array(["ant/1", "bee/1", "bee/2"]).dictionary_encode(),
        "label": pa.array([0, 1, None]),
        "group": pa.array([7, None, 8]),
    }
    pq.write_table(pa.table(columns), path)
    assert problems(path) == ["row 3: the label is empty"]
    pq.write_table(pa.table(columns).slice(0, 2), path)
    listing = table.discover(str(path), policy())
    assert [(item.path, item.label, item.group) for item in listing.images] == [
        ("ant/1", "0", "7"),
        ("bee/1", "1", None),
    ]


def test_parquet_that_is_damaged_is_a_source_error(root: Path) -> None:
    path = root / "t.parquet"
    pq.write_table(pa.table({"path": ["ant/1"], "label": ["ant"]}), path, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-9])
    with pytest.raises(SourceError, match="is damaged"):
        table.discover(str(path), policy())
    data[data.index(b"ant/1")] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is damaged"):
        table.discover(str(path), policy())


def test_case_19_parquet_that_unpacks_to_much_is_refused(root: Path) -> None:
    path = root / "t.parquet"
    pq.write_table(pa.table({"path": ["x" * 1_000_000], "label": ["ant"]}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    for act in (table.check, table.discover):
        with pytest.raises(SourceError, match=r"takes 1,\d+,\d+ bytes of memory; at most 100,000 are allowed"):
            act(str(path), policy(max_memory_bytes=100_000))


def test_case_19_table_that_is_too_large_is_not_read(
    root: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_csv(root / "t.csv", GOOD)
    bucket.put("p/t.csv", body=path.read_bytes())
    bucket.proxy.clear()
    monkeypatch.setattr(Path, "read_bytes", None)
    for act in (table.check, table.discover):
        for uri in (str(path), bucket.uri("p/t.csv")):
            assert "at most 10 are allowed" in refused(act, uri, policy(max_memory_bytes=10))
    assert not bucket.proxy.count("GET")


def test_case_19_files_too_large_for_images_are_excluded(root: Path, bucket: Bucket) -> None:
    bucket.put("p/a/1", body=bytes(6))
    (root / "ant/1").write_bytes(bytes(6))
    allowed = policy(s3_buckets=(bucket.name,), max_image_bytes=5)
    listing = table.discover(str(make_csv(root / "t.csv", [*GOOD, [bucket.uri("p/a/1"), "ant"]])), allowed)
    assert [item.path for item in listing.images] == ["bee/1"]
    assert reasons(listing) == {"ant/1 (row 2)": "too_large", f"{bucket.uri('p/a/1')} (row 4)": "too_large"}


def test_table_that_is_missing_or_a_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="doesn't exist"):
        table.check(str(tmp_path / "t.csv"), policy())
    with pytest.raises(SourceError, match="is not a file"):
        table.check(str(tmp_path), policy())


def test_reading_a_table_changes_nothing(root: Path) -> None:
    path = make_csv(root / "t.csv", GOOD)
    before = contents(root)
    table.discover(str(path), policy())
    assert contents(root) == before


def test_table_may_name_objects_in_s3_which_are_listed_and_not_asked_for_one_by_one(
    root: Path, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("p/a/1", "p/a/2", "p/b/1", "p/b/ü 2")
    lines = [HEADER, *([bucket.uri(key), key[2]] for key in ("p/a/1", "p/a/2", "p/b/1", "p/b/ü 2")), ["ant/1", "ant"]]
    path = make_csv(root / "t.csv", lines)
    bucket.proxy.clear()
    listing = table.discover(str(path), policy(s3_buckets=(bucket.name,)))
    assert [seen.method for seen in bucket.proxy.requests()] == ["GET"]
    assert {item.path: item.read() for item in listing.images} == {
        "ant/1": b"ant/1",
        **{bucket.uri(key): key.encode() for key in ("p/a/1", "p/a/2", "p/b/1", "p/b/ü 2")},
    }
    versions = {item.path: item.version for item in listing.images}
    assert versions.pop("ant/1") is None
    assert len(set(versions.values())) == 4


def test_table_in_s3_names_keys_below_its_prefix(bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/b/2", "other/3")
    bucket.put("p/t.csv", body=f"path,label\na/1,a\nb/2,b\n{bucket.uri('other/3')},a\n".encode())
    table.check(bucket.uri("p/t.csv"), policy())
    items = table.discover(bucket.uri("p/t.csv"), policy()).images
    assert {item.read() for item in items} == {b"p/a/1", b"p/b/2", b"other/3"}


def test_case_45_missing_objects_and_malformed_keys_are_reported_with_their_rows(root: Path, bucket: Bucket) -> None:
    bucket.put("p/a/1")
    wrong = ["p/a/2", "p/"]
    lines = [HEADER, *([bucket.uri(key), "a"] for key in ["p/a/1", *wrong]), ["s3://-/x", "a"], ["s3://me:pw@b/x", "a"]]
    found = problems(make_csv(root / "t.csv", lines), policy(s3_buckets=(bucket.name,)))
    assert found[0] == f"row 3: {bucket.uri('p/a/2')} can't be read: there is no such object."
    assert "is not an object: s3://bucket/key" in found[1]
    assert "'-' is not a bucket" in found[2]
    assert found[3].startswith("row 6: The address of an S3 source may not hold credentials")
    assert "pw" not in found[3]
    bucket.put("p/t.csv", body=b"path,label\n../x,a\n/y,a\na/1,a\n")
    with pytest.raises(SourceError) as caught:
        table.discover(bucket.uri("p/t.csv"), policy())
    assert [line.split("is not an object")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  row 2: '../x' ",
        "  row 3: '/y' ",
    ]


def test_objects_among_many_others_are_asked_for_one_by_one(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAGE", 2)
    bucket.put("p/a/1", "p/z/1", *(f"p/b/{number}" for number in range(9)))
    wanted = [bucket.uri("p/a/1"), bucket.uri("p/z/1")]
    bucket.proxy.clear()
    assert {uri: str(stored.address) for uri, stored in remote.locate(wanted, policy()).items()} == {
        uri: uri for uri in wanted
    }
    assert [seen.method for seen in bucket.proxy.requests()] == ["GET", "HEAD"]


def test_object_that_changed_since_it_was_listed_is_not_read(root: Path, bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/a/2")
    lines = [HEADER, [bucket.uri("p/a/1"), "a"], [bucket.uri("p/a/2"), "a"]]
    first, _ = table.discover(str(make_csv(root / "t.csv", lines)), policy(s3_buckets=(bucket.name,))).images
    bucket.put("p/a/1", body=b"other")
    assert "it changed while it was read" in unavailable(first.read)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([b"", b"path,label\n", b"path\tlabel\tsplit\n", b"PAR1"]))
def test_case_45_any_bytes_give_images_or_a_source_error(root: Path, data: bytes, head: bytes) -> None:
    (root / "any").write_bytes(head + data)
    with contextlib.suppress(SourceError):
        table.discover(str(root / "any"), policy())


def test_case_45_errors_are_short_however_long_the_words(root: Path) -> None:
    [problem] = problems(make_csv(root / "t.csv", [*GOOD, ["x" * 100_000, "ant"]]))
    assert problem == f"row 4: '{'x' * 78}... can't be read (File name too long)"
