"""Two machines take turns for many nights, and one of them dies for good in the middle.

    python -m benchmarks.turns [--nights 20]

They are clones that share a bare git repository and a bucket of a real S3 server (SeaweedFS) on this machine; their
stages are small, but keep splits as `prepare` does. Fails if history isn't one line, an image moves to another split,
or more than the unfinished night is lost. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import isolate_environment
from tests.servers.seaweed import ACCESS_KEY, REGION, SECRET_KEY, Seaweed
from tests.tasks.runs.machines import Store
from tests.tasks.runs.test_taking_turns import take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=20)
    nights = parser.parse_args().nights
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        isolate_environment(Path(folder) / "home")
        with Seaweed(Path(folder) / "server") as server, contextlib.closing(server.client()) as client:
            print(json.dumps(measure(Path(folder) / "site", nights, server, client), indent=2))


def measure(folder: Path, nights: int, server: Seaweed, client: Any) -> dict[str, float]:
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_DEFAULT_REGION=REGION)
    os.environ["AWS_ENDPOINT_URL"] = server.endpoint
    bucket = Bucket(client, server.new_bucket(client))
    began = time.monotonic()
    site = take_turns(folder, nights, bucket)
    return {
        "nights": nights,
        "in_history": len(site.titles()),
        "images": len(site.splits()),
        "objects_in_s3": len(bucket.paths()),
        "moved_splits": 0,  # take_turns fails otherwise
        "seconds_a_night": round((time.monotonic() - began) / nights, 1),
    }


class Bucket(Store):
    """A bucket as DVC's remote."""

    def __init__(self, client: Any, name: str) -> None:
        super().__init__(f"s3://{name}")
        self._client, self._name = client, name

    def paths(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name)
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}

    def read(self, path: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=self._name, Key=path)["Body"].read()
        return content


if __name__ == "__main__":
    main()
