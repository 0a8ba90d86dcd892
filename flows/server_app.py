"""The application of the Prefect servers that this project starts; only the server's process imports this module."""

from __future__ import annotations

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from flows.quick_imports import quick_imports

_NAMES = ("127.0.0.1", "localhost")


def create_local_app() -> ASGIApp:
    """Prefect's application, for requests that name this machine as their host.

    Another name in the header Host means that a page of another site has let its own name point to this machine (DNS
    rebinding). The check stands around Prefect's application, whose own requests to itself name another host.
    """
    with quick_imports():
        from prefect.server.api.server import create_app

        app = create_app()
    return TrustedHostMiddleware(app, allowed_hosts=_NAMES, www_redirect=False)
