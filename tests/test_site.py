"""The site of the documentation: it builds without a warning, asks for nothing outside, and everybody can use it."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.conftest import PROJECT
from tests.flows.browser import PROGRAM, browser

pytestmark = pytest.mark.slow
NEEDS_BROWSER = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (Debian: apt-get install chromium)")


def build(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr


@pytest.fixture(scope="module")
def site(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    return made_once("site", build)


class Loaded(HTMLParser):
    """What a browser loads for a page: all but the targets of its links."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "poster", "data") if tag == "a" else ("src", "srcset", "poster", "data", "href")
        self.addresses += [value for name, value in attrs if name in names and value]


def test_site_loads_nothing_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert [address for address in loaded.addresses if re.match(r"(?:https?:)?//", address)] == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)]*", style.read_text()) == [], style


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Silent, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.mark.browser
@NEEDS_BROWSER
def test_search_finds_a_page_and_asks_only_this_server(page: Page, address: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/index.html")
    page.get_by_placeholder("Search").first.click()
    page.keyboard.type("perceptual hash")
    page.locator(".md-search-result__link", has_text="What happens with duplicates").first.click()
    expect(page).to_have_url(re.compile("duplicates.html"))
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.browser
@NEEDS_BROWSER
@pytest.mark.parametrize("name", ["index", "tutorial", "comparison", "reference/settings", "project/CHANGELOG"])
def test_page_of_the_site_can_be_used_by_everyone(page: Page, address: str, name: str) -> None:
    """axe-core finds nothing that makes it hard to use, on a wide screen and on a phone, in both themes."""
    backgrounds = set()
    for theme, width in (("light", 1280), ("dark", 390)):
        options = {"color_scheme": theme, "viewport": {"width": width, "height": 900}}
        with page.context.browser.new_context(**options) as context:  # the theme remembers a choice
            shown = context.new_page()
            shown.goto(f"{address}/{name}.html")
            backgrounds.add(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
            found = Axe().run(shown)
            assert found.response["passes"]
            assert found.generate_report() == "Found 0 accessibility violations:\n", (theme, width)
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert len(backgrounds) == 2
