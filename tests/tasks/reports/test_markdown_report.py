"""The Markdown report: right numbers, images inside, limited size, and nothing from data is executed."""

from __future__ import annotations

import base64
import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tasks.reports import markdown_report
from tasks.reports.markdown_report import MAX_BYTES, render_markdown
from tasks.reports.text import percent
from tests.tasks.reports.evaluations import HOSTILE, Page, make_evaluation

TABLE = ("table", "thead", "tbody", "tr", "th", "td")
FILES = {"Report": "reports/report.html", "Server": "http://localhost/artifacts"}


def images(evaluation: dict[str, Any]) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in evaluation["mistakes"]]


def data_of(markdown: str, kind: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(rf"\(data:{kind};base64,([^)]+)\)", markdown)]


def test_report_tells_the_champions_metrics() -> None:
    evaluation = make_evaluation(["ant", "bee", "cat"], strategies=2)
    text = render_markdown(evaluation, images(evaluation), FILES)
    test = evaluation["strategies"][evaluation["champion"]]["test"]
    assert f"**{percent(test['accuracy'])}** on {test['n']} images" in text
    assert re.search(
        rf"\| \*\*{evaluation['champion']}\*\* \| modern \| +{percent(test['accuracy'])} \(n\s=\s60\) \|", text
    )
    assert "`reports/report.html`" in text
    assert "[http://localhost/artifacts](http://localhost/artifacts)" in text


def test_report_says_what_to_do_and_where_the_model_is_weak() -> None:
    text = render_markdown(make_evaluation(["ant", "bee", "cat"], strategies=2), [], {})
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert "90\u00a0% of its answers are right" in told["How sure it is"].replace("\\", "")
    assert told["What to do next"].count("\n- ") >= 2
    assert "Add images like these: ant; 8 of 20 are wrong" in told["What to do next"].replace("\\", "")
    assert told["Where it is weak"].strip()
    assert "Take strategy" in told["Strategies"]


def test_every_mistake_is_shown_as_a_small_image_without_metadata() -> None:
    evaluation = make_evaluation(["ant", "bee", "cat"])
    assert evaluation["mistakes"]
    text = render_markdown(evaluation, images(evaluation), {})
    shown = [Image.open(io.BytesIO(data)) for data in data_of(text, "image/jpeg")]
    assert len(shown) == len(evaluation["mistakes"])
    assert all(max(image.size) == markdown_report.THUMBNAIL_PX and not image.getexif() for image in shown)


@pytest.mark.parametrize("n_classes", [2, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_report_is_bounded_however_many_mistakes_and_classes_there_are(n_classes: int) -> None:
    evaluation = make_evaluation([f"class {number}" for number in range(n_classes)], n=3 * n_classes)
    one = {"actual": "x" * 300, "predicted": "y", "probability": 0.9}
    evaluation["mistakes"] = [one] * 200
    text = render_markdown(evaluation, images(evaluation), FILES)
    shown = len(data_of(text, "image/jpeg"))
    assert len(text.encode()) < 1.01 * MAX_BYTES
    assert 0 < shown < 200
    assert f"{200 - shown} more are in the report." in text


def test_report_without_the_images_says_how_many_there_are() -> None:
    evaluation = make_evaluation(["ant", "bee"])
    text = render_markdown(evaluation, [], {})
    assert f"{len(evaluation['mistakes'])} more are in the report." in text
    assert data_of(text, "image/jpeg") == []


def test_report_of_a_model_without_mistakes_says_so() -> None:
    evaluation = make_evaluation(["ant", "bee"])
    evaluation["mistakes"] = []
    assert "every test image has the right prediction" in render_markdown(evaluation, [], {})


def test_hostile_names_stay_text() -> None:
    evaluation = make_evaluation(HOSTILE, n=400)
    text = render_markdown(evaluation, images(evaluation), {})
    page = Page(MarkdownIt().enable("table").render(text))
    assert {tag for tag, _ in page.elements} <= {"h1", "h2", "p", "strong", "img", "ul", "li", "code", *TABLE}
    assert {name for _, attributes in page.elements for name in attributes} <= {"src", "alt", "style"}
    assert not {"\u202e", "\x1b", "\x00"} & set("".join(page.text))
    drawn = data_of(text, r"image/svg\+xml")[0].decode()
    elements = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()}
    assert elements == {"svg", "rect", "text"}
