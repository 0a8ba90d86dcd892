"""A source may read its own bucket, and others only if the settings list them; a refusal sends no request."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings_changes import apply_changes
from tasks import ingest
from tasks.errors import SettingsError, SourceError
from tasks.images.sources import check_source, discover
from tasks.params import parse_changes
from tasks.runs.run_context import RunContext
from tasks.workspace import Workspace
from tests.servers.seaweed import Seaweed
from tests.tasks.images.sources.making import make_csv
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import Bucket, labels, refused
from tests.tasks.steps import Change, settings_for

HEADER = ("path", "label")


@pytest.fixture
def other(seaweed: Seaweed, bucket: Bucket) -> Bucket:
    """A second bucket that the same credentials open."""
    return Bucket(seaweed.new_bucket(bucket.client), bucket.client, bucket.proxy)


def test_local_table_may_name_no_bucket_that_is_not_listed(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put("a/1", "b/2")
    rows = [HEADER, *((bucket.uri(key), key[0]) for key in ("a/1", "b/2"))]
    path = str(make_csv(tmp_path / "t.csv", rows))
    bucket.proxy.clear()
    message = refused(discover, path, policy())
    for row in (2, 3):
        assert f"row {row}: the bucket {bucket.name!r} is not in source.s3_buckets" in message
    assert not bucket.proxy.requests()
    assert labels(discover(path, policy(s3_buckets=(bucket.name,)))).keys() == {bucket.uri("a/1"), bucket.uri("b/2")}


def test_table_in_s3_may_name_its_own_bucket_and_the_listed_ones(bucket: Bucket, other: Bucket) -> None:
    bucket.put("p/a/1", "q/b/1")
    other.put("a/2")
    rows = f"path,label\na/1,a\n{bucket.uri('q/b/1')},b\n"
    bucket.put("p/own.csv", body=rows.encode())
    bucket.put("p/both.csv", body=f"{rows}{other.uri('a/2')},a\n".encode())
    assert len(discover(bucket.uri("p/own.csv"), policy()).images) == 2
    message = refused(discover, bucket.uri("p/both.csv"), policy())
    assert f"row 4: the bucket {other.name!r} is not the table's own bucket, nor in source.s3_buckets" in message
    assert not bucket.proxy.count("GET", f"/{other.name}")
    assert len(discover(bucket.uri("p/both.csv"), policy(s3_buckets=(other.name,))).images) == 3


@pytest.mark.parametrize("name", ["", "/p/t.csv", "/p/f.zip"])
def test_endpoint_that_is_not_listed_is_not_asked(bucket: Bucket, name: str) -> None:
    forbidding = policy(s3_endpoints=("https://s3.example.org",))
    bucket.proxy.clear()
    for act in (check_source, discover):
        message = refused(act, f"s3://{bucket.name}{name}", forbidding)
        host = bucket.proxy.endpoint.removeprefix("http://")
        assert f"{host} is not an endpoint that source.s3_endpoints allows (https://s3.ex" in message
        assert "AWS_ENDPOINT_URL" in message
    assert not bucket.proxy.requests()


def test_endpoint_of_a_local_table_is_checked_too(tmp_path: Path, bucket: Bucket) -> None:
    path = str(make_csv(tmp_path / "t.csv", [HEADER, (bucket.uri("a/1"), "a")]))
    forbidding = policy(s3_buckets=(bucket.name,), s3_endpoints=("https://s3.example.org",))
    bucket.proxy.clear()
    assert "is not an endpoint" in refused(discover, path, forbidding)
    assert not bucket.proxy.requests()


def test_listed_endpoint_is_asked_however_it_is_written(bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/b/2")
    for endpoint in (bucket.proxy.endpoint, f"{bucket.proxy.endpoint.replace('http', 'HTTP')}/"):
        assert len(discover(bucket.uri("p"), policy(s3_endpoints=("https://s3.example.org", endpoint))).images) == 2


def test_settings_reach_the_source(tmp_path: Path, workspace: Path, bucket: Bucket, change: Change) -> None:
    bucket.put("a/1", "b/2")
    path = make_csv(tmp_path / "t.csv", [HEADER, (bucket.uri("a/1"), "a"), (bucket.uri("b/2"), "b")])
    with pytest.raises(SourceError, match=r"source\.s3_buckets"):
        ingest.run(settings_for(change, path), Workspace.at(workspace))
    lists = [f"source.s3_buckets=[{bucket.name}]", f'source.s3_endpoints=["{bucket.proxy.endpoint}"]']
    assert ingest.run(settings_for(change, path, *lists), Workspace.at(workspace)).refused == 2
    with pytest.raises(SourceError, match="is not an endpoint"):
        ingest.run(
            settings_for(change, path, lists[0], 'source.s3_endpoints=["https://s3.example.org"]'),
            Workspace.at(workspace),
        )


def test_choosing_a_source_asks_no_endpoint_that_is_not_listed(workspace: Path, bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/b/2")
    bucket.proxy.clear()
    context = RunContext(Workspace.at(workspace), None)
    chosen = [f"source.uri={bucket.uri('p')}", 'source.s3_endpoints=["https://s3.example.org"]']
    with pytest.raises(SourceError, match="is not an endpoint"):
        apply_changes(context, parse_changes(chosen))
    assert not bucket.proxy.requests()
    apply_changes(context, parse_changes([chosen[0], f'source.s3_endpoints=["{bucket.proxy.endpoint}"]']))


@pytest.mark.parametrize(
    "wrong", ["s3_buckets=[s3://b/x]", "s3_buckets=[x/y]", "s3_endpoints=[me:pw@host]", 's3_endpoints=["http://a@b"]']
)
def test_malformed_bucket_or_endpoint_is_refused(change: Change, wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"source\.s3_"):
        change(f"source.{wrong}")
