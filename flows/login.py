"""The login of the Prefect server that `make ui` starts: a user and a password, in a file that only its owner may read.

Programs of this clone read the login there, so people type it only into the browser. Whoever deletes the file gets a
new login at the next start. This module doesn't import Prefect, which takes seconds.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import tempfile
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from tasks.workspace import Workspace

LOGIN_VARIABLE = "PREFECT_API_AUTH_STRING"
"""The environment variable from which Prefect's clients take the login, as user:password."""
_ADDRESS = "PREFECT_API_URL"
_USER = "rootstock"
_LOOPBACK = ("127.0.0.1", "localhost")
_OTHERS = 0o077
"""The permissions of everybody but the owner."""


def new_login() -> str:
    """A user and a random password, as user:password."""
    return f"{_USER}:{secrets.token_urlsafe(24)}"


def kept_login(workspace: Workspace) -> str:
    """The login of this clone's server; it is made if there is none, or if others may read its file."""
    file = workspace.server_login
    login = _read(file)
    if login is None or file.stat().st_mode & _OTHERS:
        login = new_login()
        _write(file, login)
    return login


def with_login(workspace: Workspace, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a client of the server at PREFECT_API_URL, with the login if that server is this clone's.

    The login of another server comes from the user, and is never replaced. A login in the address
    (http://user:password@host/api) is moved to its own variable: Prefect prints the address in messages.
    """
    moved = _without_login_in_address(environment)
    known = _read(workspace.server_login)
    address = urllib.parse.urlsplit(moved.get(_ADDRESS, ""))
    if known is None or address.hostname not in _LOOPBACK or moved.get(LOGIN_VARIABLE):
        return moved
    return {**moved, LOGIN_VARIABLE: known}


def _without_login_in_address(environment: Mapping[str, str]) -> dict[str, str]:
    address = urllib.parse.urlsplit(environment.get(_ADDRESS, ""))
    login, separator, host = address.netloc.rpartition("@")
    if not separator or ":" not in login:  # a name alone is no login
        return dict(environment)
    found = environment.get(LOGIN_VARIABLE) or urllib.parse.unquote(login)
    return {**environment, _ADDRESS: address._replace(netloc=host).geturl(), LOGIN_VARIABLE: found}


def authorization(login: str) -> str:
    """The header `Authorization` of a request."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def _read(file: Path) -> str | None:
    """The login in a file; None if this user can't read the file, or if it holds no login."""
    with contextlib.suppress(OSError):
        text = file.read_text(encoding="utf-8").strip()
        if re.fullmatch(r"[^\s:]+:\S+", text):
            return text
    return None


def _write(file: Path, login: str) -> None:
    """Write a file that others may not read, not even for a moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # with the mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as text:
        text.write(f"{login}\n")
    Path(new).replace(file)
