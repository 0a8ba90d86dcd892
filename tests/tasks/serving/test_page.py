"""The page in a real browser: what a person sees for good and bad files, by mouse, keyboard and on a phone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.flows.browser import PROGRAM, browser
from tests.tasks.exporting import encoded, save_export, save_vgg_export
from tests.tasks.serving.running import Running, running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(save_vgg_export(tmp_path_factory.mktemp("page") / "export")) as one:
        yield one


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(chromium: Page, server: Running) -> Iterator[tuple[Page, list[str]]]:
    """The open page, and what it asks of others or complains about."""
    seen: list[str] = []
    own = str(server.client.base_url)

    def on_request(request: Any) -> None:
        if not request.url.startswith((own, "blob:", "data:")):
            seen.append(request.url)

    def on_console(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # a refused image
            seen.append(message.text)

    assert chromium.context.browser
    opened = chromium.context.browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("request", on_request)
    opened.on("console", on_console)
    opened.on("pageerror", lambda error: seen.append(str(error)))
    opened.goto(own)
    yield opened, seen
    opened.close()


def upright_phone_image() -> bytes:
    """A landscape file that a phone says to turn: green above red."""
    image, exif, buffer = Image.new("RGB", (80, 60), (0, 200, 0)), Image.Exif(), io.BytesIO()
    image.paste((250, 0, 0), (40, 0, 80, 60))
    exif[0x0112] = 6
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def give(page: Page, name: str, data: bytes) -> None:
    page.locator("#files").set_input_files({"name": name, "mimeType": "", "buffer": data})


def test_page_shows_answer_certainty_and_what_speaks_for_it(page: tuple[Page, list[str]]) -> None:
    opened, seen = page
    give(opened, "<img onerror=alert(1)>.png", encoded((250, 0, 0)))
    card = opened.locator("#results li").first
    expect(card.locator(".answer")).to_have_text("red, > 99.9 %")
    expect(card.locator(".name")).to_have_text("<img onerror=alert(1)>.png")
    expect(card.locator(".classes dt")).to_have_text(["red", "grün"])
    plain = card.locator("canvas").evaluate("one => one.toDataURL()")
    card.get_by_label("What speaks for it").check()
    expect(card.get_by_label("What speaks for it")).to_be_checked()
    changed = "([one, before]) => one.toDataURL() !== before"
    opened.wait_for_function(changed, arg=[card.locator("canvas").element_handle(), plain])
    assert seen == []


def test_page_shows_unsure_and_foreign_images(page: tuple[Page, list[str]]) -> None:
    opened, seen = page
    give(opened, "blue.png", encoded((0, 0, 250)))
    notes = opened.locator("#results li").first.locator(".note")
    expect(notes).to_contain_text(["Foreign", "Unsure"])
    expect(opened.get_by_role("status")).to_contain_text("foreign, unsure")
    assert seen == []


def test_page_turns_the_image_of_a_phone_upright(page: tuple[Page, list[str]]) -> None:
    opened, seen = page
    opened.set_viewport_size({"width": 390, "height": 844})
    give(opened, "phone.jpg", upright_phone_image())
    card = opened.locator("#results li").first
    expect(card.locator(".classes dt")).to_have_count(2)
    look = "(one, down) => [...one.getContext('2d').getImageData(224, down, 1, 1).data]"
    above, below = (card.locator("canvas").evaluate(look, down) for down in (50, 400))
    assert above[1] > above[0]
    assert below[0] > below[1]
    width = opened.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "nothing sticks out of a phone's screen"
    assert seen == []


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("image.heic", HEIC, "This format can't be read: save it as JPEG or PNG."),
        ("text.jpg", b"only words", "This file is no image."),
        ("cut.png", encoded((9, 9, 9), size=(400, 400))[:300], "The file ends too early."),
    ],
)
def test_page_says_what_is_wrong_with_a_file(page: tuple[Page, list[str]], name: str, data: bytes, told: str) -> None:
    opened, seen = page
    give(opened, name, data)
    expect(opened.locator("#results li").first.locator(".note")).to_contain_text(told)
    expect(opened.get_by_role("status")).to_contain_text(told)
    assert seen == []


def test_page_refuses_a_large_file_without_sending_it(page: tuple[Page, list[str]], tmp_path: Path) -> None:
    opened, seen = page
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(40_000_000)
    opened.on("request", lambda request: seen.append(request.url) if "predict" in request.url else None)
    opened.locator("#files").set_input_files(tmp_path / "large.png")
    note = opened.locator("#results li").first.locator(".note")
    expect(note).to_have_text("The file has 40 MB; 32 MB are allowed.")
    assert seen == []


def test_page_takes_pasted_and_dropped_images_and_the_keyboard(page: tuple[Page, list[str]]) -> None:
    opened, seen = page
    opened.on("filechooser", lambda _: None)  # so that the browser has been told before it is asked for one
    event = """([kind, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, {type: "image/png"}));
      const name = kind === "paste" ? "clipboardData" : "dataTransfer";
      const kinds = {paste: ClipboardEvent, drop: DragEvent};
      document.dispatchEvent(new kinds[kind](kind, {[name]: data}));
    }"""
    for kind in ("paste", "drop"):
        opened.evaluate(event, [kind, list(encoded((0, 250, 0)))])
        expect(opened.locator("#results li").first.locator(".name")).to_have_text(f"{kind}.png")
    opened.keyboard.press("Tab")
    expect(opened.get_by_role("button", name="Choose images")).to_be_focused()
    with opened.expect_file_chooser():
        opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    expect(opened.get_by_role("button", name="Take a photo")).to_be_focused()
    assert seen == []


def test_page_may_not_be_framed_and_runs_only_its_own_script(server: Running) -> None:
    policy = server.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


def test_page_goes_on_without_a_map(chromium: Page, tmp_path: Path) -> None:
    with running(save_export(tmp_path / "export")) as server:
        chromium.goto(str(server.client.base_url))
        give(chromium, "red.png", encoded((250, 0, 0)))
        expect(chromium.locator("#results li .answer")).to_have_text("red, > 99.9 %")
        expect(chromium.get_by_label("What speaks for it")).to_have_count(0)
