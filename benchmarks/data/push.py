"""A push of many small images to S3: packed by `ingest`, against the same images as loose files under DVC.

    python -m benchmarks.data.push [--images 20000]

The S3 server is a real one (SeaweedFS) on this machine. Prints one JSON object. `idle_push_s` is the time of a push
without new files, that is DVC's own start. `ratio_of_pushing_beyond_start` subtracts it on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.data.growth import workspace_of
from benchmarks.data.making import write_images
from benchmarks.workspaces import run
from tests.servers.seaweed import ACCESS_KEY, REGION, SECRET_KEY, Seaweed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        temporary = Path(folder)
        with Seaweed(temporary / "server") as server:
            print(json.dumps(measure(temporary, server, options.images), indent=2))


def measure(temporary: Path, server: Seaweed, images: int) -> dict[str, float]:
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_DEFAULT_REGION=REGION)
    source = write_images(temporary / "images", range(images))
    client = server.client()

    packed = workspace_of(temporary / "packed", source)
    use_remote(packed, server, server.new_bucket(client))
    ingest_s = seconds_of(packed, "repro", "--quiet", "ingest")
    packed_s = seconds_of(packed, "push", "--quiet")
    idle_s = seconds_of(packed, "push", "--quiet")

    loose = workspace_of(temporary / "loose", source)
    use_remote(loose, server, server.new_bucket(client))
    source.rename(loose / "images")
    add_s = seconds_of(loose, "add", "--quiet", "images")
    loose_s = seconds_of(loose, "push", "--quiet")
    return {
        "images": images,
        "packed_ingest_s": round(ingest_s, 1),
        "packed_push_s": round(packed_s, 1),
        "idle_push_s": round(idle_s, 1),
        "loose_add_s": round(add_s, 1),
        "loose_push_s": round(loose_s, 1),
        "ratio_of_pushing": round(loose_s / packed_s, 1),
        "ratio_of_pushing_beyond_start": round((loose_s - idle_s) / (packed_s - idle_s), 1),
        "ratio_with_tracking": round((add_s + loose_s) / (ingest_s + packed_s), 1),
    }


def seconds_of(workspace: Path, *arguments: str) -> float:
    start = time.perf_counter()
    run(workspace, "dvc", *arguments)
    return time.perf_counter() - start


def use_remote(workspace: Path, server: Seaweed, bucket: str) -> None:
    run(workspace, "dvc", "remote", "add", "--quiet", "--default", "store", f"s3://{bucket}/dvc")
    run(workspace, "dvc", "remote", "modify", "--quiet", "store", "endpointurl", server.endpoint)


if __name__ == "__main__":
    main()
