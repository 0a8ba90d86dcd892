"""A real browser, driven over the DevTools protocol: Chromium as Debian packs it, and no library but `websockets`."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE_S = 300.0
_FIND = """
    const seen = element => element.getClientRects().length && getComputedStyle(element).visibility !== 'hidden';
    const find = (selector, text) => [...document.querySelectorAll(selector)].filter(seen).filter(
        element => text === null || element.textContent.trim() === text);
"""


class Page:
    """One tab. What is looked for is waited for; what is clicked is clicked with the mouse, as a person does."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._number = connection, 0
        for domain in ("Page", "Runtime"):
            self._send(f"{domain}.enable")

    def open(self, address: str) -> None:
        self._send("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'", "the page to be loaded")

    def run(self, code: str) -> Any:
        """The value of a JavaScript expression; `find(selector, text)` gives the visible elements of that text."""
        program = f"(() => {{ {_FIND} return {code}; }})()"
        answer = self._send("Runtime.evaluate", expression=program, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{code}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def wait(self, code: str, what: str, patience_s: float = _PATIENCE_S) -> Any:
        """Wait until an expression is true; gives its value."""
        deadline = time.monotonic() + patience_s
        while not (value := self.run(code)):
            assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain for {what}; there is:\n{self.text()}"
            time.sleep(0.1)
        return value

    def text(self) -> str:
        text: str = self.run("document.body ? document.body.innerText : ''")
        return text

    def click(self, selector: str, text: str | None = None, last: bool = False) -> None:
        """Click the first (or last) visible element that matches, once it stands still."""
        element = f"find({json.dumps(selector)}, {json.dumps(text)}).at({-1 if last else 0})"
        self.wait(f"!!{element}", f"{selector} {text or ''}")
        place: Any = None
        while place != (place := self._centre(element)):
            time.sleep(0.15)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._send(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", buttons=1, clickCount=1
            )

    def fill(self, selector: str, text: str) -> None:
        """Replace what is in a field by typing."""
        self.click(selector)
        self.run("document.activeElement.select && document.activeElement.select()")
        self._send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def image(self, file: Path) -> None:
        """Write a PNG of what is seen."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"]))

    def _centre(self, element: str) -> Any:
        return self.run(
            f"(element => {{ element.scrollIntoView({{block: 'center'}}); const box = element.getBoundingClientRect(); "
            f"return [box.x + box.width / 2, box.y + box.height / 2]; }})({element})"
        )

    def _send(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:  # events come in between
            answer = json.loads(self._connection.recv(timeout=_PATIENCE_S))
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]


@contextlib.contextmanager
def browser(scratch: Path, width_px: int = 1280, height_px: int = 900) -> Iterator[Page]:
    """A headless browser with a profile of its own in `scratch`."""
    assert PROGRAM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--hide-scrollbars", "--disable-background-networking", f"--window-size={width_px},{height_px}"]
    command = [PROGRAM, *options, f"--user-data-dir={scratch}", "--remote-debugging-port=0", "about:blank"]
    with (scratch / "browser.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            port = _port(scratch / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_PATIENCE_S) as answer:
                target = next(one for one in json.load(answer) if one["type"] == "page")
            with connect(target["webSocketDebuggerUrl"], max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while not file.exists() or len(file.read_text().split()) < 2:  # a port, and a path
        assert process.poll() is None, "the browser ended at its start; browser.log says why"
        assert time.monotonic() < deadline, "the browser doesn't answer"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
