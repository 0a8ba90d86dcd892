"""The pages in a real browser: they ask for nothing, log no error, can be used; the map shows what is pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.flows.browser import PROGRAM, browser
from tests.tasks.reports import test_data_page
from tests.tasks.reports.evaluations import HOSTILE, hostile_evaluation, render
from tests.tasks.reports.test_map_page import COLOURS, make_map

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
]
MARGIN = 28
"""Pixels between the outermost points and the edge of the map, when all are shown."""

PAGES = {
    "report": lambda: render(hostile_evaluation(HOSTILE)),
    "map": lambda: make_map(HOSTILE, [*HOSTILE[:3], "d.jpg"]),
    "data": lambda: test_data_page.render(test_data_page.hostile().describe(test_data_page.hostile_before())),
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as page:
        yield page


def open_page(page: Page, file: Path, html: str) -> list[str]:
    """Open a file; what is asked for besides it and errors are added to the returned list."""
    file.write_text(html, encoding="utf-8")
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url) if not request.url.startswith("data:") else None)
    page.on("console", lambda message: seen.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.goto(file.as_uri())
    assert seen.pop(0) == file.as_uri()
    return seen


def corner(page: Page, right: bool, up: bool) -> tuple[float, float]:
    """Where on the screen the map shows one of the four points of `make_map`."""
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    assert box
    half = min(box["width"], box["height"]) / 2 - MARGIN
    across, down = box["width"] / 2 + (half if right else -half), box["height"] / 2 + (-half if up else half)
    return box["x"] + across, box["y"] + down


def colour_shown(page: Page) -> Any:
    script = "() => [...document.getElementById('thumbnail').getContext('2d').getImageData(80, 80, 1, 1).data]"
    return page.evaluate(script)[:3]


def test_report_asks_for_nothing_and_runs_nothing(page: Page, tmp_path: Path) -> None:
    assert open_page(page, tmp_path / "report.html", render(hostile_evaluation(HOSTILE))) == []


@pytest.mark.parametrize("name", PAGES)
def test_page_can_be_used_by_everyone(name: str, page: Page, tmp_path: Path) -> None:
    """axe-core finds nothing that makes the page hard to use: names of controls, order of headings, contrast, ..."""
    open_page(page, tmp_path / f"{name}.html", PAGES[name]())
    backgrounds = set()
    for theme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=theme)
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        found = Axe().run(page, options=options)
        assert found.response["passes"]
        assert found.generate_report() == "Found 0 accessibility violations:\n", theme
    assert len(backgrounds) == 2


@pytest.mark.parametrize("name", ["report", "data"])
def test_paper_shows_every_column(name: str, page: Page, tmp_path: Path) -> None:
    """Paper can't be scrolled, so no table may be wider than an A4 sheet with Chromium's margins."""
    open_page(page, tmp_path / f"{name}.html", PAGES[name]())
    before = page.viewport_size
    assert before
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    wide = """[...document.querySelectorAll('.scroll, main')].filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => [e.innerText.slice(0, 80), e.scrollWidth, e.clientWidth])"""
    assert page.evaluate(wide) == []
    page.emulate_media(media="null")
    page.set_viewport_size(before)


def test_phone_shows_short_names_of_classes_in_one_line(page: Page, tmp_path: Path) -> None:
    names = ["dandelion", "sunflower", "marguerite", *HOSTILE[3:]]
    open_page(page, tmp_path / "report.html", render(hostile_evaluation(names)))
    before = page.viewport_size
    assert before
    page.set_viewport_size({"width": 390, "height": 800})
    lines = """[...document.querySelectorAll('tbody th[scope=row] bdi')].filter(e => /^[a-z]+$/.test(e.innerText))
        .map(e => [e.innerText, e.getClientRects().length])"""
    found = page.evaluate(lines)
    assert {name for name, _ in found} >= set(names[:3])
    assert {count for _, count in found} == {1}
    page.set_viewport_size(before)


def test_map_shows_the_image_that_is_pointed_at(page: Page, tmp_path: Path) -> None:
    paths = [HOSTILE[0], HOSTILE[1], "c.jpg", "d.jpg"]
    seen = open_page(page, tmp_path / "map.html", make_map([HOSTILE[2], "bees"], paths))
    for place, colour in enumerate(COLOURS):
        page.mouse.move(*corner(page, right=bool(place % 2), up=place >= 2))
        assert page.locator("#path").inner_text() == paths[place]
        assert np.abs(np.subtract(colour_shown(page), colour)).max() <= 6
    assert page.locator("#predicted").inner_text() == f"{HOSTILE[2]} (75\u00a0%), wrong"
    page.mouse.move(*corner(page, right=False, up=True))
    assert page.locator("#predicted").inner_text() == "none: learned from it"
    assert seen == []


def test_map_is_used_by_keyboard_and_by_its_buttons(page: Page, tmp_path: Path) -> None:
    seen = open_page(page, tmp_path / "map.html", make_map(["ants", "bees"], list("abcd")))
    path, card = page.locator("#path"), page.locator("#card")
    page.get_by_role("button", name="Next mistake").click()
    assert path.inner_text() == "b"
    page.locator("#map").focus()
    for key, shown in (("ArrowUp", "d"), ("ArrowLeft", "c"), ("ArrowDown", "a"), ("m", "b")):
        page.keyboard.press(key)
        assert path.inner_text() == shown
    page.keyboard.press("Escape")
    assert not card.is_visible()
    page.get_by_role("button", name="bees").click()
    page.mouse.move(*corner(page, right=True, up=True))
    assert not card.is_visible()
    page.get_by_role("button", name="bees").click()
    page.mouse.move(*corner(page, right=True, up=True))
    assert path.inner_text() == "d"
    before = corner(page, right=True, up=True)
    page.mouse.wheel(0, -600)
    page.mouse.move(*corner(page, right=False, up=False))
    page.mouse.move(*before)
    assert path.inner_text() == "d"  # the point under the pointer stays there
    assert seen == []
