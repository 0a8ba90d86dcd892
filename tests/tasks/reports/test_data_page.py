"""The data report lists exactly the planted problems, shows names as text, and keeps the changes in a second run."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.files import read_json
from tasks.images.manifest import SPLITS, Discovered, Duplicate, Example, Memory, Quarantined, write_examples
from tasks.images.reason_codes import RefusalCode
from tasks.images.selection import Selection
from tasks.images.shards import Shards, read_header, write_shard
from tasks.reports import data_page
from tasks.reports.data_page import Previous, describe_data, read_previous, render_data_page, thumbnail_keys
from tests.conftest import PROJECT
from tests.tasks.reports.evaluations import ATTRIBUTES, ELEMENTS, HOSTILE, Page


def key_of(path: str) -> str:
    return path.encode("utf-8", "surrogatepass").hex().rjust(64, "0")


def example(path: str, label: str, split: str = "train", notes: str = "", side_px: int = 300) -> Example:
    return Example(key_of(path), path, label, split, side_px, side_px + 50, "JPEG", notes)


def plain() -> list[Example]:
    """Four ants and two bees."""
    ants = [example(f"ant/{n}.jpg", "ant", split) for n, split in enumerate(("train", "train", "validation", "test"))]
    return [*ants, example("bee/0.jpg", "bee", "train", side_px=100), example("bee/1.jpg", "bee", "test")]


class Found:
    """A source with accepted, quarantined and left out images; counts are made from them."""

    def __init__(self, examples: list[Example]) -> None:
        self.examples = examples
        self.quarantined: list[Quarantined] = []
        self.duplicates: list[Duplicate] = []
        self.about: dict[str, Any] = {"uri": "https://me:secret@host/images?token=x"}

    def discovered(self) -> list[Discovered]:
        rows = [Discovered(one.path, one.label, None, one.key, None) for one in self.examples]
        rows += [Discovered(one.path, one.label, None, one.sha256, None) for one in self.quarantined]
        known = {row.path for row in rows}
        left_out = [one for one in self.duplicates if one.path not in known]
        return rows + [Discovered(one.path, one.label, None, key_of(one.path), None) for one in left_out]

    def summary(self) -> dict[str, Any]:
        classes: dict[str, dict[str, int]] = {}
        for one in self.examples:
            classes.setdefault(one.label, dict.fromkeys(SPLITS, 0))[one.split] += 1
        left_out = sum(one.outcome != "kept_together" for one in self.duplicates)
        return {
            "source": self.about,
            "discovered": len(self.discovered()),
            "accepted": len(self.examples),
            "quarantined": len(self.quarantined),
            "excluded": {"duplicate": left_out} if left_out else {},
            "quarantined_by_code": dict(Counter(str(row.code) for row in self.quarantined)),
            "notes": dict(Counter(note for one in self.examples for note in one.notes.split(",") if note)),
            "classes": classes,
            "near_duplicates": {"large_sets": [], "mixed": 0},
            "given_splits": [],
            "fractions": {"validation": 0.2, "test": 0.2},
        }

    def describe(self, previous: Previous | None = None) -> dict[str, Any]:
        selection = Selection(self.examples, self.quarantined, self.duplicates, Counter(), Memory())
        return describe_data(self.summary(), self.discovered(), selection, previous or Previous())

    def as_previous(self, report: dict[str, Any] | None = None) -> Previous:
        return Previous(self.examples, self.summary(), report)


def render(description: dict[str, Any]) -> str:
    pixels = {key: np.full((224, 224, 3), 90, np.uint8) for key in thumbnail_keys(description)}
    return render_data_page(description, pixels)


def text_of(description: dict[str, Any]) -> str:
    return " ".join("".join(Page(render(description)).text).split())


def planted() -> Found:
    found = Found(plain())
    found.examples.append(example("bee/dim.jpg", "bee", notes="exif_oriented,dark"))
    found.quarantined = [
        Quarantined("ant/cut.jpg", key_of("cut"), "ant", RefusalCode.TRUNCATED, "cut short"),
        Quarantined("ant/both.jpg", key_of("both"), "ant", RefusalCode.LABEL_CONFLICT, "the same bytes"),
        Quarantined("bee/else.jpg", key_of("else"), "bee", RefusalCode.LABEL_CONFLICT, "looks the same"),
        Quarantined("bee/both.jpg", key_of("both"), "bee", RefusalCode.LABEL_CONFLICT, "the same bytes"),
    ]
    found.duplicates = [
        Duplicate("ant/0.jpg", "ant", "", "ant/1.jpg", "", "near", "kept_together"),
        Duplicate("ant/copy.jpg", "ant", "", "ant/0.jpg", "", "same_bytes", "left_out"),
        Duplicate("ant/leak.jpg", "ant", "", "ant/3.jpg", "test", "near", "left_out_as_leak"),
    ]
    return found


def hostile() -> Found:
    found = Found([example(name, name, notes=name.replace(",", "")) for name in HOSTILE])
    found.about = {"uri": HOSTILE[0], "licence": HOSTILE[1]}
    found.quarantined = [Quarantined(f"q{name}", key_of(f"q{name}"), name, name, name) for name in HOSTILE]
    found.quarantined += [
        Quarantined(f"c{name}", key_of(f"c{name}"), name, RefusalCode.LABEL_CONFLICT, name) for name in HOSTILE
    ]
    found.duplicates = [Duplicate(f"d{name}", name, "", name, "", "near", "left_out") for name in HOSTILE]
    return found


def hostile_before() -> Previous:
    before = Found([replace(one, label=f"{one.label}<b>") for one in hostile().examples[1:]])
    before.examples.append(example("<gone>", "<gone>", notes="<i>note"))
    return before.as_previous()


def test_page_escapes_hostile_names_everywhere() -> None:
    html = render(hostile().describe(hostile_before()))
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert {name for _, attributes in page.elements for name in attributes} <= set(ATTRIBUTES.split())
    text = "".join(page.text)
    for name in (HOSTILE[0], HOSTILE[1], "<gone>", "<i>note", f"{HOSTILE[1]}<b>"):
        assert name in text
    assert not {"\x00", "\x1b", "\u202e"} & set(html)
    html.encode("utf-8")


def test_page_keeps_styles_to_numbers() -> None:
    elements = Page(render(hostile().describe(hostile_before()))).elements
    styles = [attributes["style"] or "" for _, attributes in elements if "style" in attributes]
    assert styles
    assert all(re.fullmatch(r"--(share|n):[0-9.]+%?", style) for style in styles)


def test_page_loads_nothing_from_outside() -> None:
    page = Page(render(hostile().describe(hostile_before())))
    assert page.all("img")
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") and image["alt"] for image in page.all("img"))
    assert {link["href"] for link in page.all("a") if not (link["href"] or "").startswith("#")} == {"report.html"}
    known = {attributes.get("id") for _, attributes in page.elements}
    assert {(link["href"] or "")[1:] for link in page.all("a") if link["href"] != "report.html"} <= known
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert (policy or "").startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


def test_page_tables_have_headers_with_scopes() -> None:
    cells = Page(render(planted().describe(Found(plain()[1:]).as_previous()))).all("th")
    assert cells
    assert all(cell.get("scope") in ("row", "col") for cell in cells)


def test_page_from_the_file_is_the_same() -> None:
    assert render(json.loads(json.dumps(planted().describe()))) == render(planted().describe())


def test_headline_balances_and_shows_no_credentials() -> None:
    text = text_of(planted().describe())
    assert "13 = 7 + 4 + 2" in text
    assert "https://host/images" in text
    assert "secret" not in text
    assert "names no licence" in text


@pytest.mark.parametrize(
    ("excluded", "told"),
    [
        ({}, {"excluded": 0}),
        ({"over_limit": 7}, {"excluded: beyond source.limit_per_class": 7}),
        (
            {"over_limit": 7, "duplicate": 2, "leak": 3, "system_file": 4, "link": 1},
            {
                "excluded: copies, or too like a held-out image": 5,
                "excluded: beyond source.limit_per_class": 7,
                "excluded: not an image of a class": 5,
            },
        ),
    ],
)
def test_tiles_count_what_is_excluded_by_its_kind(excluded: dict[str, int], told: dict[str, int]) -> None:
    html = render(Found(plain()).describe() | {"excluded": excluded})
    tiles = dict(re.findall(r"<dt>(excluded.*?)</dt><dd>(\d+)</dd>", html))
    assert tiles == {what: str(n) for what, n in told.items()}


def test_classes_without_a_held_out_image_are_warned_of() -> None:
    none = Found([example(f"{label}/{n}.jpg", label) for label in "abcdefg" for n in range(3)])
    warnings = none.describe()["warnings"]
    assert [warning for warning in warnings if "No test image of a, b, c, d, e and 2 more" in warning]
    assert [warning for warning in warnings if "No validation image of a, b" in warning]
    [warning] = Found(plain()).describe()["warnings"]
    assert warning.startswith("No validation image of bee: choices ignore it. Add images of the class")


def test_licence_of_the_source_is_shown() -> None:
    found = planted()
    found.about["licence"] = "CC BY 4.0"
    assert "Licence of the images: CC BY 4.0" in text_of(found.describe())


@pytest.mark.parametrize(("ants", "told"), [(2, "Every class has"), (4, "2.0 to 1"), (8, "train.class_weight")])
def test_imbalance_is_told_in_a_sentence(ants: int, told: str) -> None:
    bees = [example(f"bee/{n}.jpg", "bee") for n in range(2)]
    assert told in text_of(Found([example(f"ant/{n}.jpg", "ant") for n in range(ants)] + bees).describe())


def test_sizes_are_those_of_the_shorter_sides() -> None:
    description = Found(plain()).describe()
    assert {row["from_px"]: row["n"] for row in description["shorter_sides"] if row["n"]} == {64: 1, 224: 5}
    assert sum(row["n"] for row in description["shorter_sides"]) == 6
    assert "is 100 to 300 pixels" in text_of(description)


def test_planted_trouble_is_listed_and_nothing_else() -> None:
    description = planted().describe()
    assert [(row["code"], [one["path"] for one in row["listed"]]) for row in description["quarantine"]] == [
        ("truncated", ["ant/cut.jpg"])
    ]
    conflicts = description["label_conflicts"]
    assert [row["path"] for row in conflicts["listed"]] == ["ant/both.jpg", "bee/both.jpg", "bee/else.jpg"]
    assert [row["path"] for row in description["duplicates"]["listed"]] == ["ant/leak.jpg", "ant/0.jpg", "ant/copy.jpg"]
    notes = {row["note"]: [one["path"] for one in row["images"]] for row in description["notes"]}
    assert notes == {"dark": ["bee/dim.jpg"], "exif_oriented": ["bee/dim.jpg"]}
    text = text_of(description)
    names = "ant/0 ant/1 ant/3 ant/copy ant/leak ant/cut ant/both bee/both bee/else bee/dim"
    assert set(re.findall(r"((?:ant|bee)/\w+)\.jpg", text)) == set(names.split())
    assert "They look the same: the first is left out, because the second is held out." in text


EXCLUDED = [
    "absolute_path",
    "duplicate",
    "duplicate_member",
    "duplicate_row",
    "empty_folder",
    "encrypted",
    "folder_marker",
    "invalid_name",
    "leak",
    "link",
    "link_out_of_source",
    "link_to_no_file",
    "no_label",
    "not_a_regular_file",
    "outside_class_folders",
    "outside_split_folders",
    "over_limit",
    "path_out_of_archive",
    "sparse_file",
    "system_file",
    "too_large",
    "unknown_split",
    "unsupported_compression",
]


@pytest.mark.parametrize("reason", [*RefusalCode, *EXCLUDED])
def test_every_reason_has_its_meaning_beside_it(reason: str) -> None:
    kind = "quarantined_by_code" if reason in set(RefusalCode) else "excluded"
    description = Found(plain()).describe() | {kind: {reason: 1}, "quarantined": 1}
    [meaning] = re.findall(
        rf"<bdi>{reason}</bdi></th><td class=\"number\">1</td><td>\w+</td><td class=\"text\">(.*?)</td>",
        render(description),
    )
    assert len(meaning) > 5


def test_excluded_reasons_are_those_that_the_sources_give() -> None:
    texts = "".join(path.read_text("utf-8") for path in (PROJECT / "tasks/images").rglob("*.py"))
    texts += (PROJECT / "tasks/ingest.py").read_text("utf-8")
    assert [reason for reason in EXCLUDED if f'"{reason}"' not in texts] == []
    given = re.findall(r'return (?:[\w() ,]+, )?"([a-z]+_[a-z_]+)"', texts) + re.findall(r'reason ?= ?"(\w+)"', texts)
    assert {"outside_class_folders", "invalid_name", "duplicate_member"} <= set(given) <= set(EXCLUDED)


def test_clean_images_show_nothing() -> None:
    description = Found(plain()).describe()
    text = text_of(description)
    told = ("Nothing: every entry", "No label conflicts", "No duplicates", "Nothing to look at")
    assert [one for one in told if one not in text] == []
    assert not thumbnail_keys(description)


def test_warnings_stand_at_the_top_of_the_page_and_show_names_as_text() -> None:
    found, summary = hostile(), hostile().summary()
    one = {"n": 12, "label": HOSTILE[0], "of_label": 11, "class_size": 20, "apart": True, "paths": [HOSTILE[1], "b"]}
    summary["near_duplicates"] = {"large_sets": [one, {**one, "apart": False}], "mixed": 3}
    selection = Selection(found.examples, found.quarantined, found.duplicates, Counter(), Memory())
    description = describe_data(summary, found.discovered(), selection, Previous())
    assert len(description["warnings"]) >= 3
    html = render(description)
    text = "".join(Page(html).text)
    assert "12 images look alike, among them 11 of the 20 images of" in text
    assert text.index("12 images look alike") < text.index("Classes and splits")
    assert HOSTILE[1] not in html


def test_long_lists_are_cut_and_counted() -> None:
    found = Found([*plain(), *(example(f"bee/dim{n}.jpg", "bee", notes="dark") for n in range(9))])
    copies = [Duplicate(f"ant/a{n:02}.jpg", "ant", "", "ant/0.jpg", "", "same_bytes", "left_out") for n in range(40)]
    found.duplicates = [*copies, Duplicate("ant/z.jpg", "ant", "", "ant/3.jpg", "", "near", "left_out_as_leak")]
    description = found.describe()
    assert description["duplicates"]["n"] == 41
    assert len(description["duplicates"]["listed"]) == data_page.LISTED_PAIRS
    assert description["duplicates"]["listed"][0]["path"] == "ant/z.jpg"
    assert [(row["n"], len(row["images"])) for row in description["notes"]] == [(9, data_page.THUMBNAILS_A_NOTE)]
    assert "the first 24 of 41" in text_of(description)


def test_first_version_says_that_there_is_nothing_to_compare() -> None:
    assert planted().describe()["changes"] is None
    assert "This is the first version" in text_of(planted().describe())


def test_changes_are_counted_by_class_and_split() -> None:
    before = Found(plain())
    now = planted()
    now.examples = [replace(one, label="bee") if one.path == "ant/1.jpg" else one for one in now.examples[1:]]
    changes = now.describe(before.as_previous())["changes"]
    assert changes["added"] == {"bee": {"train": 1, "validation": 0, "test": 0}}
    assert changes["removed"] == {"ant": {"train": 1, "validation": 0, "test": 0}}
    assert changes["relabelled"] == {"n": 1, "listed": [{"path": "ant/1.jpg", "before": "ant", "after": "bee"}]}
    assert (changes["before"], changes["after"], changes["moved"], changes["renamed"]) == (6, 6, 0, 0)
    assert {(row["kind"], row["reason"]): (row["before"], row["after"]) for row in changes["reasons"]} == {
        ("excluded", "duplicate"): (0, 2),
        ("noted", "dark"): (0, 1),
        ("noted", "exif_oriented"): (0, 1),
        ("quarantined", "label_conflict"): (0, 3),
        ("quarantined", "truncated"): (0, 1),
    }
    text = text_of(now.describe(before.as_previous()))
    assert "1 image has another class than before" in text
    assert "No image moved to another split" in text


def test_moved_and_renamed_images_are_told() -> None:
    now = Found([replace(plain()[0], split="test"), replace(plain()[1], path="ant/new.jpg"), *plain()[2:]])
    description = now.describe(Found(plain()).as_previous())
    assert (description["changes"]["moved"], description["changes"]["renamed"]) == (1, 1)
    assert "in another split" in text_of(description)


def test_rerun_on_the_same_images_keeps_what_changed_before() -> None:
    first = planted().describe(Found(plain()[1:]).as_previous())
    assert first["changes"]["added"]
    assert planted().describe(planted().as_previous(report=first)) == first


def test_report_of_other_images_is_not_carried_over() -> None:
    first = planted().describe(Found(plain()[1:]).as_previous())
    back = Found(plain()).describe(planted().as_previous(report=first))
    assert back["changes"]["removed"] == {"bee": {"train": 1, "validation": 0, "test": 0}}
    assert back["changes"]["added"] == {}


@pytest.mark.parametrize("report", [{}, {"version": "other"}, {"changes": {"added": {}}}])
def test_lost_report_of_the_same_images_says_that_nothing_changed(report: dict[str, Any]) -> None:
    text = text_of(planted().describe(planted().as_previous(report=report)))
    assert "Nothing changed." in text


@pytest.mark.parametrize("harm", [b"", b"[]", b"{", b"\xff"])
def test_damaged_remains_count_as_none(tmp_path: Path, harm: bytes) -> None:
    assert read_previous(tmp_path, tmp_path) == Previous()
    for name in ("examples.parquet", "summary.json", "data.json"):
        (tmp_path / name).write_bytes(harm)
    assert read_previous(tmp_path, tmp_path) == Previous()


def test_report_is_written_with_the_pixels_that_there_are(tmp_path: Path) -> None:
    found = planted()
    key = key_of("bee/dim.jpg")
    shard = write_shard(tmp_path / "shards", [{"key": key}], np.full((1, 224, 224, 3), 7, np.uint8), "mark")
    description = found.describe()
    data_page.write_data_report(tmp_path / "reports", description, Shards([read_header(shard)]))
    write_examples(tmp_path, found.examples)
    assert read_json(tmp_path / "reports" / "data.json") == description
    html = (tmp_path / "reports" / "data.html").read_text()
    assert [image["alt"] for image in Page(html).all("img")] == ["An image of bee"] * 2
    assert read_previous(tmp_path, tmp_path / "reports").report == description
