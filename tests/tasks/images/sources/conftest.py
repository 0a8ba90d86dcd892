"""One real S3 server for all tests, a bucket and a failing proxy for each, and no settings of the user's account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.fault_proxy import FaultProxy
from tests.servers.seaweed import ACCESS_KEY, REGION, SECRET_KEY, Seaweed
from tests.tasks.images.sources.storing import Bucket


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed") / "server") as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_client(seaweed: Seaweed) -> Iterator[Any]:
    client = seaweed.client()
    yield client
    client.close()


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultProxy]:
    with FaultProxy(seaweed.port) as running:
        yield running


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of somebody with good credentials and no endpoint; to be changed by the test."""
    from tasks.images.sources.s3 import client

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(client, "_clients", {})
    return monkeypatch


@pytest.fixture
def bucket(seaweed: Seaweed, seaweed_client: Any, proxy: FaultProxy, account: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; the environment leads to it through the proxy."""
    account.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    name = seaweed.new_bucket(seaweed_client)
    return Bucket(name, seaweed_client, proxy)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once; how many there are doesn't change."""
    from botocore.retries.standard import ExponentialBackoff

    from tasks.images.sources.s3 import objects

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.001)
    monkeypatch.setattr(objects, "_LONGEST_PAUSE_S", 0.001)
