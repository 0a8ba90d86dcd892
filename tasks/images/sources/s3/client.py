"""One S3 client for each process, with its timeouts and the check of its endpoint.

Endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL), region and credentials come only from the places where boto3 looks for
them.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError

from tasks.errors import SourceError
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.s3.errors import ATTEMPTS, explained, host_of

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
CONNECTIONS = 64
"""Connections that stay open; with more threads, new connections are opened more often."""
_ATTEMPTS_UNANSWERED = 2
_CREDENTIALS = "~/.aws/credentials"

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_SIGNED = re.compile(r"[?&](x-amz-[a-z-]+|awsaccesskeyid|aws_\w+|signature|access_?key\w*|secret\w*)=", re.IGNORECASE)

_lock = threading.Lock()
_clients: dict[int, Any] = {}


@dataclass(frozen=True, slots=True)
class Address:
    """`s3://bucket/key`; in the key, `..`, `//`, `%` and `?` have no special meaning."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def parse(uri: str) -> Address:
    """Parse `s3://bucket/key`.

    Raises:
        SourceError: the bucket is missing, or there are credentials (the message doesn't quote them).
    """
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if "@" in bucket or ":" in bucket or _SIGNED.search(uri):
        raise SourceError(
            "The address of an S3 source may not hold credentials: it is written to files and logs. Give "
            "s3://bucket/prefix, put the keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and replace these keys."
        )
    if not uri.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        raise SourceError(
            f"An S3 source is s3://bucket/prefix; received {uri!r}, but {bucket!r} is not a bucket's name."
        )
    return Address(bucket, key)


def client_for(policy: SourcePolicy) -> Any:
    """The client of this process, safe for many threads; a new one when the account's settings change.

    Only this function makes a client, so no request goes to an endpoint that the policy forbids.

    Raises:
        SourceError: the environment's endpoint is not allowed, or its settings don't make a client.
    """
    with _lock:
        account = _account()
        if account not in _clients:
            _clients.clear()
            _clients[account] = _make()
        client = _clients[account]
    used, allowed = client.meta.endpoint_url, policy.s3_endpoints
    if allowed and _plain(used) not in map(_plain, allowed):
        raise SourceError(
            f"{host_of(used)} is not an endpoint that source.s3_endpoints allows ({', '.join(allowed)}). Change "
            "AWS_ENDPOINT_URL (unset, it is Amazon's), or add it to the list, with its http:// or https://."
        )
    return client


def _plain(endpoint: str) -> str:
    return endpoint.lower().rstrip("/")


def _make() -> Any:
    settings = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    with explained("S3 can't be used", None):
        try:
            client = boto3.session.Session().client("s3", config=settings)
        except BotoCoreError:
            raise
        except ValueError:
            raise SourceError(
                "AWS_ENDPOINT_URL is not an address. Give http://HOST:PORT or https://HOST, or unset it."
            ) from None
    client.meta.events.register_first("needs-retry.s3", _Unanswered())
    return client


def _account() -> int:
    """A key that changes with the process (sockets can't be shared) and with every AWS variable or file."""
    variables = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    files = [
        Path(os.environ.get(name, default)).expanduser()
        for name, default in (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", _CREDENTIALS))
    ]
    states = tuple((stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in files if file.is_file()))
    return hash((os.getpid(), variables, states))


class _Unanswered:
    """Gives up soon on an endpoint that never responded: it is misspelt or down. Waits for an endpoint that did."""

    def __init__(self) -> None:
        self._answered = False

    def __call__(self, attempts: int, response: Any, caught_exception: Exception | None, **_: Any) -> None:
        if response is not None:
            self._answered = True
        nowhere = isinstance(caught_exception, (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError))
        if caught_exception is not None and nowhere and not self._answered and attempts >= _ATTEMPTS_UNANSWERED:
            raise caught_exception
