"""Program `serve`: answers images by HTTP, and shows people a page.

    python -m tasks.serve --model models/export
    curl --data-binary @one.jpg --header "Content-Type: image/jpeg" http://127.0.0.1:8000/predict
    curl --form image=@one.jpg --form image=@two.png http://127.0.0.1:8000/predict

Without `--model` it serves `models/export`, with `--model production` the version in production. When the files there
change, or another version is promoted, it loads the new model, tries it, and answers with it; requests that have begun
end with the old one. docs/serving.md explains limits, log and shadow.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from tasks.production import PRODUCTION, model_folder
from tasks.program import run_program
from tasks.serving.app import Limits, Service, build_app
from tasks.serving.connections import HEAD_S, allow_many_files, bounded_protocol
from tasks.serving.image_log import MOST_BYTES, ImageLog
from tasks.serving.measurements import Measurements
from tasks.serving.models import ModelHolder, load
from tasks.serving.shadow import Shadow
from tasks.workspace import EXPORT, Workspace

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_GRACE_S = 30
_log = logging.getLogger("tasks.serve")


def build_server(
    given: argparse.Namespace, limits: Limits, where: Callable[[], Path], head_s: float = HEAD_S
) -> uvicorn.Server:
    """The server, which has loaded its model.

    Args:
        given: the options of the command line.
        limits: of requests.
        where: gives the folder of the model; it may give another one each time.
        head_s: time for the head of a request.

    Raises:
        PredictError: the model or the shadow model can't be loaded.
    """
    measured = Measurements()
    log = shadow = None
    if given.log:
        log = ImageLog(given.log, lambda one: measured.logged.labels(one).inc(), given.log_mb * 10**6)
    if given.shadow:
        outcome = lambda one: measured.shadow.labels(one).inc()  # noqa: E731
        shadow = Shadow(load(given.shadow), outcome, log.add_shadow if log else lambda _lines: None)
    holder = ModelHolder(where, load(where()))
    hosts = [*_LOOPBACK, *given.allow_host] if given.host in _LOOPBACK or given.allow_host else ["*"]
    print(f"Model {holder.current.version} of {holder.current.folder}: http://{given.host}:{given.port}", flush=True)
    config = uvicorn.Config(
        build_app(Service(holder, limits, measured, log, shadow), hosts),
        host=given.host,
        port=given.port,
        http=bounded_protocol(head_s),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        log_config=None,
    )
    return uvicorn.Server(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.serve", description="Answer images by HTTP.")
    parser.add_argument(
        "--model", type=Path, default=Path(EXPORT), help=f"folder of an exported model, or {PRODUCTION}"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all networks")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="name that clients may use")
    parser.add_argument("--shadow", type=Path, help="folder of a second model, whose answers are only compared")
    parser.add_argument("--log", type=Path, help="folder for the answered images, 224x224, and the answers")
    parser.add_argument("--log-mb", type=int, default=MOST_BYTES // 10**6, help="of the images in the log")
    defaults = Limits()
    parser.add_argument("--body-mb", type=float, default=defaults.body_mb, help="of a request")
    parser.add_argument("--rate", type=float, default=defaults.rate, help="requests/s of a client's address")
    return parser


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    return _parser().parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    limits = Limits(body_mb=given.body_mb, rate=given.rate, burst=2 * given.rate)

    def body() -> None:
        where = model_folder(given.model, Workspace.at(Path.cwd()), _log.info)
        server = build_server(given, limits, where)
        allow_many_files()
        server.run()  # until SIGTERM or SIGINT; requests that have begun are answered

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
