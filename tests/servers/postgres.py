"""A real PostgreSQL server on this machine, for a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.server import free_port

_FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
PROGRAM = shutil.which("pg_ctl", path=_FOLDERS)
USER = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root


@contextlib.contextmanager
def postgres(user: str, password: str) -> Iterator[int]:
    """A server with the database `prefect` on a port of the loopback; gives the port."""
    assert PROGRAM is not None
    folder = Path(tempfile.mkdtemp(prefix="rootstock-postgres-"))
    if USER is not None:
        shutil.chown(folder, USER)
    port = free_port()

    def run(*command: str) -> None:
        subprocess.run(command, user=USER, cwd=folder, check=True, capture_output=True, timeout=120)

    secret = folder / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    binaries = Path(PROGRAM).resolve().parent
    data = str(folder / "data")
    try:
        run(str(binaries / "initdb"), "-D", data, "-U", user, f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8")
        run(PROGRAM, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            address = f"postgresql://{user}:{password}@127.0.0.1:{port}/postgres"
            run(str(binaries / "psql"), address, "-c", "CREATE DATABASE prefect")
            yield port
        finally:
            run(PROGRAM, "-D", data, "-m", "fast", "-w", "stop")
    finally:
        shutil.rmtree(folder)
