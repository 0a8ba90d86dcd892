"""The model card contains what a user needs, and names from data are literal text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.reports.metrics import measure
from tasks.reports.model_card import LOADING, render_model_card
from tasks.reports.text import csv_cell, markdown_cell, percent, visible, without_credentials

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "a|b",
    "back\\|slash",
    "[link](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "`code` **bold** ~~gone~~",
    "# heading",
    "new\nline\n\n# heading",
    "https://evil.example",
    "<http://evil.example>",
    "&lt;script&gt;",
    "---",
]


HEADINGS = ("Intended use", "Classes", "Data", "Evaluation", "Limits", "Input", "How to load", "Backbone and licence")


def card(
    classes: list[str],
    source: str | None = "digits",
    formats: tuple[str, ...] = tuple(LOADING),
    foreign: dict[str, Any] | None = None,
    table: Sequence[dict[str, Any]] = (),
    **data: Any,
) -> str:
    labels = np.arange(20) % len(classes)
    probabilities = np.full((20, len(classes)), 0.1 / max(1, len(classes) - 1))
    probabilities[np.arange(20), labels] = 0.9
    counts = {name: {"train": 6, "validation": 2, "test": 2} for name in classes}
    images = {"source": source, "accepted": 120, "quarantined": 3, "excluded": {"hidden": 2}, "classes": counts, **data}
    champion = {
        "recipe": "modern",
        "description": "Only a linear model is trained.",
        "test": measure(probabilities, labels, classes),
        "backbone": {"engine": "ncnn", "weights_sha256": "d9a2"},
        "training": {"chosen_on": "5 folds of train and validation"},
    }
    evaluation = {
        "champion": "feature_extraction",
        "classes": classes,
        "strategies": {"feature_extraction": champion},
        "data": images,
        "foreign": foreign,
    }
    return render_model_card(evaluation, formats, table)


def test_model_card_has_what_a_user_needs() -> None:
    text = card(["ants", "bees"])
    for heading in HEADINGS:
        assert f"\n## {heading}\n" in text
    assert "95 % confidence interval" in text
    assert "Only a linear model is trained." in text
    assert "on the validation images and on 5 folds of train and validation" in text
    assert "CC BY 4.0" in text
    assert "Visual Geometry Group, University of Oxford" in text
    assert "serving_default" in text
    assert "onnxruntime" in text
    assert "tf.lite.Interpreter" in text


def test_model_card_says_whether_foreign_images_are_told() -> None:
    assert "foreign" not in card(["ants", "bees"])
    told = " ".join(card(["ants", "bees"], foreign={"called_foreign": {"value": 0.051}}).split())
    assert "says of each image whether it is foreign" in told
    assert "It called 5.1 % of the test images so." in told


def test_model_card_says_what_each_format_costs() -> None:
    row = {"name": "ONNX in int8", "bytes": 16_900_000, "images": 153, "changed_answers": 1}
    row |= {"median_difference": 0.0, "largest_difference": 0.025}
    row["accuracy"] = {"difference": 0.0065, "difference_ci95": [-0.012, 0.025]}
    text = " ".join(card(["ants", "bees"], table=[row]).split())
    assert "| ONNX in int8 | 16.9 | 153 | below 0.001 | 0.025 | 1 | 0.7 % (-1.2 % to 2.5 %) |" in text
    assert "## Formats" not in card(["ants", "bees"])


def test_model_card_states_no_licence_that_the_owner_did_not_choose() -> None:
    text = card(["ants", "bees"])
    assert "license:" not in text.split("\n---\n")[0]
    assert "owner can add `license:` to the head of this card" in " ".join(text.split())
    assert "CC BY 4.0" in text.split("## Backbone and licence")[1]


def test_model_card_snippets_are_python() -> None:
    for text in LOADING.values():
        compile(text.split("```python\n")[1].split("```")[0], "snippet", "exec")


def test_model_card_explains_only_the_exported_formats() -> None:
    assert "tf.lite" not in card(["a", "b"], formats=("saved_model", "onnx"))
    with pytest.raises(ValueError, match="Received: pickle"):
        card(["a", "b"], formats=("pickle",))


def test_model_card_escapes_hostile_names() -> None:
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(card(HOSTILE, source=HOSTILE[0]))
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in [*tokens, *inline] if token.type in ("html_block", "html_inline", "image", "s_open")]
    links = [token.attrs["href"] for token in inline if token.type == "link_open"]
    assert links == ["https://creativecommons.org/licenses/by/4.0/"]
    shown = [token.content for token in inline if token.type == "text"]
    joined = "".join(shown)
    assert all(visible(name) in joined for name in HOSTILE if "\n" not in name)
    headings = [token for token in tokens if token.type == "heading_open" and token.tag == "h2"]
    assert len(headings) == len(HEADINGS)


def test_model_card_shows_no_credentials() -> None:
    assert "SECRET" not in card(["a", "b"], source="s3://user:SECRET@host/bucket?token=SECRET")


@given(st.text(max_size=60))
def test_markdown_cell_stays_in_one_cell(name: str) -> None:
    table = f"| a | b |\n| --- | --- |\n| {markdown_cell(name)} | end |\n"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(table)
    cells = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 2
    assert cells[1] == "end"


@given(st.text(), st.text())
def test_csv_cell_is_safe_and_keeps_names_apart(first: str, second: str) -> None:
    assert not csv_cell(first).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (csv_cell(first) == csv_cell(second)) == (first == second)


@given(st.text(st.characters(), max_size=40))
def test_visible_is_one_printable_utf8_line(name: str) -> None:
    shown = visible(name, 30)
    assert 0 < len(shown) <= 30
    assert len(shown.splitlines()) == 1
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.93464, "93.5\u00a0%"),
        (1.0, "100.0\u00a0%"),
        (0.99999, "over 99.9\u00a0%"),
        (1e-6, "under 0.1\u00a0%"),
        (None, "\u2013"),
    ],
)
def test_percent_never_rounds_up_to_all(share: float | None, shown: str) -> None:
    assert percent(share) == shown


def test_without_credentials_leaves_paths_alone() -> None:
    assert without_credentials("../data/a@b?c#d") == "../data/a@b?c#d"
    assert without_credentials("s3://key:secret@host/b") == "s3://host/b"


def test_model_card_carries_the_licence_of_the_images() -> None:
    own = "The rights in the images are their owners'"
    about = {"licence": "CC BY 4.0 <b>", "citation": "E. Alpaydin", "unknown": "not shown"}
    text = card(["a", "b"], about=about)
    assert "- Licence: CC BY 4\\.0 &#60;b&#62;" in text
    assert "- Citation: E\\. Alpaydin" in text
    assert "not shown" not in text
    assert own not in text
    assert own in card(["a", "b"])
