"""An S3 server that is busy, refuses, or is down: few retries, quick and clear errors, and no secret in them."""

from __future__ import annotations

import html
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore import exceptions as boto
from botocore.retries.standard import ExponentialBackoff

from tasks.images.sources import s3
from tasks.images.sources.s3 import errors
from tests.servers.fault_proxy import FaultProxy
from tests.servers.seaweed import ACCESS_KEY, SECRET_KEY, free_ports
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import TOKEN, Bucket, only, refused, unavailable


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_case_15_s3_burst_of_errors_is_outlasted(bucket: Bucket, status: int, code: str) -> None:
    bucket.put("p/a/1")
    for path in ("list-type=2", "/p/a/1"):
        bucket.proxy.add(path=path, times=3, status=status, code=code)
    s3.check(bucket.uri("p"), policy())
    assert only(s3.discover(bucket.uri("p"), policy())).read() == b"p/a/1"
    assert bucket.proxy.count("GET", "list-type=2") == 2 + 3
    assert bucket.proxy.count("GET", "/p/a/1") == 1 + 3


@pytest.mark.usefixtures("no_pauses")
def test_case_15_s3_burst_that_does_not_end_is_bounded(bucket: Bucket) -> None:
    bucket.put("p/a/1")
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.clear()
    bucket.proxy.add(status=503, code="SlowDown")
    assert "it answered 503 (SlowDown), also in later attempts" in unavailable(item.read)
    assert bucket.proxy.count() == errors.ATTEMPTS
    assert "it answered 503 (SlowDown)" in unavailable(s3.check, bucket.uri("p"), policy())
    assert bucket.proxy.count() == 2 * errors.ATTEMPTS


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (502, "BadGateway"),
        (503, "ServiceUnavailable"),
        (504, "GatewayTimeout"),
        (400, "RequestTimeout"),
        (429, "TooManyRequests"),
        (400, "ThrottlingException"),
    ],
)
def test_s3_trouble_that_passes_is_no_error_of_the_user(bucket: Bucket, status: int, code: str) -> None:
    bucket.put("p/a/1")
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(status=status, code=code)
    for act in (item.read, lambda: s3.check(bucket.uri("p"), policy()), lambda: s3.discover(bucket.uri("p"), policy())):
        assert code in unavailable(act)


def test_s3_name_that_no_server_of_names_knows_may_be_known_again_later(account: pytest.MonkeyPatch) -> None:
    account.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.001)
    account.setenv("AWS_ENDPOINT_URL", "http://store.invalid:8333")
    assert "store.invalid:8333 can't be reached" in unavailable(s3.check, "s3://bucket/p", policy())


@pytest.mark.parametrize(
    ("said", "act"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", refused),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", unavailable),
    ],
)
def test_s3_handshake_that_breaks_passes_but_a_certificate_stays_untrusted(
    said: str, act: Callable[..., str], account: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with errors.explained("s3://bucket can't be read", "https://store"):
            raise boto.SSLError(endpoint_url="https://store", error=said)

    assert "store" in act(fail)


@pytest.mark.slow
def test_case_15_s3_retries_wait_between_them_but_not_for_long(bucket: Bucket) -> None:
    """Standard mode waits at most 1, 2, 4 and 8 s between five attempts, by chance about half of that."""
    bucket.proxy.add(status=503, code="SlowDown")
    start = time.monotonic()
    unavailable(s3.check, bucket.uri("p"), policy())
    assert 0.5 < time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "the credentials have expired (ExpiredToken). Log in again"),
        (403, "ExpiredToken", "the credentials have expired (ExpiredToken). Log in again"),
        (403, "InvalidAccessKeyId", "doesn't know this access key (InvalidAccessKeyId). Check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "secret key doesn't fit"),
        (403, "AccessDenied", "They need s3:ListBucket on the bucket and s3:GetObject"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (403, "InvalidObjectState", "Restore it from Glacier first"),
        (400, "SomethingNew", "the store refused (SomethingNew, HTTP 400)"),
        (403, f"{SECRET_KEY}<", "these credentials don't have the permission (HTTP 403)"),
    ],
)
def test_case_16_s3_refusal_is_clear_quick_and_tells_no_secret(
    bucket: Bucket, account: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    bucket.put("p/a/1")
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.clear()
    bucket.proxy.add(status=status, code=html.escape(code))
    assert said in refused(item.read)
    assert bucket.proxy.count() == 1
    account.setenv("AWS_SESSION_TOKEN", TOKEN)
    assert said in refused(s3.check, bucket.uri("p"), policy())
    assert said in refused(s3.discover, bucket.uri("p"), policy())
    assert bucket.proxy.count() == 3
    assert said in refused(s3.describe_object, bucket.uri("p/a/1"), policy())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "canary-wrong", "secret key doesn't fit the access key (SignatureDoesNotMatch)"),
        ("AWS_ACCESS_KEY_ID", "AKIANOBODY", "doesn't know this access key (InvalidAccessKeyId)"),
        ("AWS_ACCESS_KEY_ID", None, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", None, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
        ("AWS_PROFILE", "nobody", "AWS_PROFILE names no profile"),
        ("AWS_ENDPOINT_URL", "canary-secret-4f9d2c7e@store", "AWS_ENDPOINT_URL is not an address"),
    ],
)
def test_case_16_s3_environment_that_is_wrong_is_reported_by_the_real_server(
    bucket: Bucket, account: pytest.MonkeyPatch, name: str, value: str | None, said: str
) -> None:
    bucket.put("p/a/1")
    if value is None:
        account.delenv(name)
    else:
        account.setenv(name, value)
    for act in (s3.check, s3.discover, s3.describe_object, s3.fetch_object):
        message = refused(act, bucket.uri("p/a/1"), policy())
        assert said in message
        assert "canary" not in message


def test_s3_works_again_once_the_credentials_are_fixed(bucket: Bucket, account: pytest.MonkeyPatch) -> None:
    bucket.put("p/a/1")
    account.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused(s3.check, bucket.uri("p"), policy())
    account.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    s3.check(bucket.uri("p"), policy())


def test_s3_endpoint_that_does_not_exist_is_reported_soon(account: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []
    account.setattr(ExponentialBackoff, "delay_amount", lambda *_: pauses.append(1) or 0.001)
    (port,) = free_ports(1)
    account.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET_KEY}@127.0.0.1:{port}")
    assert f"127.0.0.1:{port} can't be reached. Check AWS_ENDPOINT_URL" in unavailable(
        s3.check, "s3://bucket/p", policy()
    )
    assert len(pauses) == 1


@pytest.mark.usefixtures("no_pauses")
def test_s3_endpoint_that_has_answered_is_waited_for(bucket: Bucket, account: pytest.MonkeyPatch) -> None:
    """As a store that is started anew: connections are refused for a while."""
    bucket.put("p/a/1")
    item = only(s3.discover(bucket.uri("p"), policy()))
    connect, refusals = socket.socket.connect, []

    def refuse_three_times(self: socket.socket, address: object) -> None:
        if len(refusals) < 3:
            refusals.append(address)
            raise ConnectionRefusedError
        connect(self, address)

    bucket.proxy.add(times=1, drop_after=0)  # so that a connection has to be made
    account.setattr(socket.socket, "connect", refuse_three_times)
    assert item.read() == b"p/a/1"
    assert len(refusals) == 3


def test_s3_works_again_with_the_credentials_file_renewed(
    bucket: Bucket, account: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.put("p/a/1")
    file = tmp_path / "credentials"
    account.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        account.delenv(name)
    file.write_text(f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key=wrong")
    refused(s3.check, bucket.uri("p"), policy())
    file.write_text(f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}")
    assert s3.fetch_object(bucket.uri("p/a/1"), policy()) == b"p/a/1"
    s3.check(bucket.uri("p"), policy())


@pytest.mark.usefixtures("no_pauses")
def test_s3_endpoint_that_is_not_s3_is_reported(proxy: FaultProxy, account: pytest.MonkeyPatch) -> None:
    account.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.add(body=b"<html><body>Welcome to nginx!<br></body>")
    assert "is out of order, or is not an S3 store. Check AWS_" in unavailable(s3.check, "s3://bucket/p", policy())


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://{ACCESS_KEY}:{SECRET_KEY}@bucket/p",
        f"s3://{ACCESS_KEY}@bucket/p",
        f"s3://{ACCESS_KEY}:abc/{SECRET_KEY}@bucket/p",
        f"s3://bucket/p?AWS_SECRET_ACCESS_KEY={SECRET_KEY}",
        f"s3://bucket/p?X-Amz-Credential={ACCESS_KEY}&X-Amz-Signature={SECRET_KEY}",
    ],
)
def test_s3_credentials_in_the_address_are_refused_and_not_shown(account: pytest.MonkeyPatch, uri: str) -> None:
    for act in (s3.check, s3.discover, s3.fetch_object, s3.describe_object):
        assert "may not hold credentials" in refused(act, uri, policy())


def test_s3_bucket_that_does_not_exist_is_named(bucket: Bucket) -> None:
    for act in (s3.check, s3.discover):
        message = refused(act, "s3://no-such-bucket/p", policy())
        assert "s3://no-such-bucket/p" in message
        assert "there is no such bucket (NoSuchBucket)" in message
