"""The page for people: one file without any request to elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import Response

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every response; the page has a policy of its own."""


class Page:
    """The page, which knows the server's limit.

    Args:
        body_mb: of a request.
    """

    def __init__(self, body_mb: float) -> None:
        text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        self._html = text.replace("%BODY_MB%", f"{body_mb:g}")
        hashes = {tag: _hashes(tag, self._html) for tag in ("script", "style")}
        self._policy = (
            f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def response(self) -> Response:
        headers = {**SECURITY, "Content-Security-Policy": self._policy, "Permissions-Policy": "geolocation=()"}
        return Response(self._html, media_type="text/html", headers=headers)


def _hashes(tag: str, html: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
