"""A real browser: this machine's Chromium, driven by Playwright, which waits until an element can be used or seen."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Page, expect, sync_playwright

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_TIMEOUT_MS = 300_000


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """An empty page in a headless browser with a profile of its own."""
    expect.set_options(timeout=_TIMEOUT_MS)
    arguments = ["--disable-dev-shm-usage"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=PROGRAM, args=arguments) as chromium,
    ):
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(_TIMEOUT_MS)
        yield page


def log_in(page: Page, address: str, login: str) -> None:
    """As a person does: the address, then user:password into the only field."""
    page.goto(address)
    page.get_by_placeholder("admin:pass").fill(login)
    page.get_by_role("button", name="Login").click()
    expect(page.get_by_role("link", name="Deployments", exact=True)).to_be_visible()
