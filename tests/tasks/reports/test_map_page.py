"""The map of the images: one file, one script that its policy names, and nothing from data is executed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.reports.map_page import MOST_POINTS, Point, class_colours, columns, render_map, thumbnail_sheet, tile_px
from tests.tasks.reports.evaluations import HOSTILE, Page

CORNERS = np.array([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)]
ELEMENTS = (
    "html head meta title style body a header div svg path strong h1 p main noscript button circle rect canvas dl dt "
    "dd i bdi span img script"
)


def plain_images(colours: list[tuple[int, int, int]] = COLOURS) -> np.ndarray:
    return np.stack([np.full((224, 224, 3), colour, np.uint8) for colour in colours])


def make_map(classes: list[str], paths: list[str], total: int = 4) -> str:
    """Four points at the corners; the second is predicted wrongly."""
    points = [Point(path, place % len(classes), place % 3, 0, 0.75) for place, path in enumerate(paths)]
    points[2] = Point(paths[2], 0, 0)
    sheet = thumbnail_sheet([plain_images()[:3], plain_images()[3:]], 4)
    return render_map(points, CORNERS, 0.4, sheet, classes, total)


def split_scripts(html: str) -> tuple[str, str]:
    data, script = html.split('<script type="application/json" id="data">')[1].split("</script>")[:2]
    return data, script.split("<script>")[1]


def test_policy_allows_the_script_of_the_page_and_no_other() -> None:
    html = make_map(["ants", "bees"], ["a", "b", "c", "d"])
    digest = base64.b64encode(hashlib.sha256(split_scripts(html)[1].encode()).digest()).decode()
    (policy,) = [meta["content"] or "" for meta in Page(html).all("meta") if "http-equiv" in meta]
    assert policy.startswith(
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';"
    )
    assert "unsafe-eval" not in policy


def test_hostile_names_stay_text() -> None:
    html = make_map(HOSTILE, [*HOSTILE[:3], "\u2028</script><script>alert(6)</script>"])
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert len(page.all("script")) == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    data = split_scripts(html)[0]
    assert not {"<", ">", "&", "\u2028"} & set(data)
    assert json.loads(data)["path"][0] == HOSTILE[0]
    assert not {"\x00", "\x1b", "\u202e"} & set(html)
    html.encode("utf-8")


def test_points_keep_their_proportions_and_their_predictions() -> None:
    known: dict[str, Any] = json.loads(split_scripts(make_map(["ants", "bees"], list("abcd")))[0])
    assert (known["x"], known["y"]) == ([-5000, 5000, -5000, 5000], [-5000, -5000, 5000, 5000])
    assert known["label"] == [0, 1, 0, 1]
    assert known["predicted"] == [0, 0, -1, 0]
    assert known["confidence"] == [75.0, 75.0, 0.0, 75.0]
    assert (known["tile"], known["columns"]) == (112, 2)


def test_thumbnails_are_in_the_order_of_the_points_without_metadata() -> None:
    (image,) = Page(make_map(["ants", "bees"], list("abcd"))).all("img")
    sheet = Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1])))
    assert sheet.size == (224, 224)
    assert not sheet.getexif()
    for place, colour in enumerate(COLOURS):
        found = sheet.getpixel((112 * (place % 2) + 56, 112 * (place // 2) + 56))
        assert np.abs(np.subtract(found, colour)).max() <= 4


def test_thumbnails_become_smaller_so_that_the_page_does_not_grow() -> None:
    assert [tile_px(number) for number in (1, 800, 3000, MOST_POINTS)] == [112, 56 * 2, 56, 32]
    pixels = [tile_px(number) ** 2 * columns(number) ** 2 for number in (800, 3000, MOST_POINTS)]
    assert max(pixels) < 10_600_000


def test_page_says_that_it_shows_a_sample() -> None:
    assert "a random sample, with all mistakes" not in make_map(["a"], list("abcd"))
    assert "(of 12,345: a random sample, with all mistakes)" in make_map(["a"], list("abcd"), 12345)


def test_same_points_give_the_same_bytes() -> None:
    assert make_map(["a", "b"], list("abcd")) == make_map(["a", "b"], list("abcd"))


@pytest.mark.parametrize("number", [2, 10, 11, 300])
def test_every_class_has_a_colour_of_its_own(number: int) -> None:
    assert len(set(class_colours(number))) == number
