"""The confusion matrix shows every count, and text from data stays text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tasks.reports.confusion import draw_confusion

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a|b", "new\nline", "\x00\x1b[31m", "n" * 500]
SVG = "{http://www.w3.org/2000/svg}"


def texts(drawn: ElementTree.Element, element: str = "text") -> list[str]:
    return [one.text or "" for one in drawn.iter(f"{SVG}{element}")]


def test_matrix_holds_every_count_and_name() -> None:
    drawn = ElementTree.fromstring(draw_confusion([[5, 0], [2, 7]], ["ant", "bee"]))
    assert sorted(texts(drawn)) == ["2", "5", "7", "actual", "ant", "ant", "bee", "bee", "predicted"]
    kinds = [rect.get("class") for rect in drawn.iter(f"{SVG}rect")]
    assert (kinds.count("hit"), kinds.count("miss")) == (2, 1)


def test_cell_under_the_mouse_says_what_it_counts() -> None:
    drawn = ElementTree.fromstring(draw_confusion([[2, 0], [1, 3]], ["a", "b"]))
    assert "1 of 4 images of b: predicted a" in texts(drawn, "title")
    assert texts(ElementTree.fromstring(draw_confusion([[2, 0], [1, 3]], ["a", "b"], hover=False)), "title") == []


@pytest.mark.parametrize("repeats", [1, 5])
def test_hostile_names_are_text(repeats: int) -> None:
    classes = HOSTILE * repeats
    matrix = [[int(row == column) + 1 for column in range(len(classes))] for row in range(len(classes))]
    drawn = ElementTree.fromstring(draw_confusion(matrix, classes))
    assert {element.tag.removeprefix(SVG) for element in drawn.iter()} <= {"svg", "rect", "text", "title"}


def test_matrix_of_300_classes_is_well_formed_and_without_names() -> None:
    matrix = [[int(row == column) for column in range(300)] for row in range(300)]
    drawn = ElementTree.fromstring(draw_confusion(matrix, [f"class {number}" for number in range(300)]))
    assert texts(drawn) == ["predicted", "actual"]
    assert len(texts(drawn, "title")) == 300
