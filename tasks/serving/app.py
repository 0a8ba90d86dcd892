"""The server's addresses: /predict, /healthz, /readyz, /metrics and the page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tasks.images.decoding import Pixels
from tasks.images.reason_codes import Refused
from tasks.images.sources.layout import printable
from tasks.images.workers import Decoders
from tasks.parallel import usable_cores
from tasks.serving.batches import Batches
from tasks.serving.bodies import Image, Refusal, Uploads, images_of, too_large
from tasks.serving.image_log import ImageLog
from tasks.serving.maps import Maps
from tasks.serving.measurements import Measurements
from tasks.serving.models import ModelHolder, Served
from tasks.serving.page import SECURITY, Page
from tasks.serving.problems import Problem, status_of
from tasks.serving.rates import Rates
from tasks.serving.shadow import Shadow

_RAW = ("image/", "application/octet-stream")
_FORM = "multipart/form-data"
_UPLOADS, _UPLOAD_BYTES = 128, 256 << 20
_STUCK_S = 120.0
_log = logging.getLogger("tasks.serve")


@dataclass(frozen=True)
class Limits:
    """Of a request, and of all requests together.

    Attributes:
        body_mb: of a request.
        images: in a request.
        pixels: of an image, as its header tells.
        rate: requests/s of a client's address, and `burst` at once.
        waiting: images that are decoded or wait for the network, of all requests.
        decode_s: for an image.
        answer_s: for a request that has arrived.
        poll_s: how often the model's folder is looked at.
    """

    body_mb: float = 32
    images: int = 64
    pixels: int = 100_000_000
    rate: float = 100
    burst: float = 200
    waiting: int = 256
    decode_s: int = 20
    answer_s: float = 60
    poll_s: float = 2


class Service:
    """Everything behind the addresses.

    Args:
        holder: the model.
        limits: see `Limits`.
        measured: counters.
        log: of answered images, or None.
        shadow: a second model, or None.
    """

    def __init__(
        self, holder: ModelHolder, limits: Limits, measured: Measurements, log: ImageLog | None, shadow: Shadow | None
    ) -> None:
        self.holder, self.limits, self.measured, self._log, self._shadow = holder, limits, measured, log, shadow
        self.decoders = Decoders(usable_cores(), limits.decode_s)
        self._threads = ThreadPoolExecutor(usable_cores() + 2, thread_name_prefix="decode")
        self.batches = Batches(self._answered)
        self.uploads, self.rates = Uploads(_UPLOADS, _UPLOAD_BYTES), Rates(limits.rate, limits.burst)
        self.maps = Maps()
        self.waiting = 0
        measured.gauge("waiting_images", "Images that are decoded or wait for the network", lambda: self.waiting)
        measured.gauge("model_loads", "Models that answered since the start", lambda: holder.loads)
        measured.gauge("model_load_failures", "New models that could not be used", lambda: holder.failures)

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Compute, and look after the model, as long as the server runs."""
        tasks = [asyncio.create_task(self.batches.run()), asyncio.create_task(self._look())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self._threads.shutdown(cancel_futures=True)
            self.decoders.shutdown()
            for one in (self._shadow, self._log):
                if one:
                    one.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self.limits.poll_s)
            try:
                await asyncio.to_thread(self.holder.look)
            except Exception:  # noqa: BLE001 - else no later model would ever be seen
                _log.exception("The model stays, because looking for another one failed.")

    def _answered(self, served: Served, pixels: Sequence[Pixels], answers: Sequence[dict[str, Any]]) -> None:
        self.measured.count_answers(answers)
        if self._log:
            self._log.add(served.version, pixels, answers)
        if self._shadow:
            self._shadow.offer(served.version, pixels, answers)

    @property
    def is_stuck(self) -> bool:
        """Whether a batch takes so long that the process should be started anew."""
        return self.batches.began is not None and time.monotonic() - self.batches.began > _STUCK_S

    def retry_after_s(self) -> int:
        """When the images that wait now are answered."""
        return max(1, math.ceil(self.waiting / self.batches.rate))

    async def predict(self, images: Sequence[Image], with_map: bool) -> tuple[Served, list[dict[str, Any]], int]:
        """The model, a result for each image, and the status.

        Raises:
            Problem: 503, too many images wait, or the answer takes too long.
        """
        if self.waiting + len(images) > self.limits.waiting and self.waiting:
            raise Problem(503, "Too many images wait.", self.retry_after_s())
        served = self.holder.current
        self.waiting += len(images)
        try:
            async with asyncio.timeout(self.limits.answer_s):
                found = await asyncio.gather(*(self._one(served, image, with_map) for image in images))
        except TimeoutError:
            raise Problem(503, "The answer takes too long.", self.retry_after_s()) from None
        finally:
            self.waiting -= len(images)
        refused = [one for one in found if isinstance(one, Refused)]
        status = 200 if len(refused) < len(found) else status_of(refused[0].code)
        names = [printable(name) for name, _ in images]
        return served, [_result(name, one) for name, one in zip(names, found, strict=True)], status

    async def _one(self, served: Served, image: Image, with_map: bool) -> dict[str, Any] | Refused:
        policy = replace(served.model.policy, max_pixels=min(self.limits.pixels, served.model.policy.max_pixels))
        work = partial(self.decoders.decode, image[1], policy, served.model.background_rgb)
        decoded = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        if isinstance(decoded, Refused):
            self.measured.images.labels(str(decoded.code)).inc()
            return decoded
        answer = dict(await self.batches.answer(served, decoded[0]))
        self.measured.images.labels("answered").inc()
        if with_map and (places := await asyncio.to_thread(self.maps.places, served, decoded[0])) is not None:
            answer["map"] = places
        return answer


def _result(name: str, found: dict[str, Any] | Refused) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {**named, "error": str(found)} if isinstance(found, Refused) else {**named, **found}


def build_app(service: Service, hosts: Sequence[str]) -> FastAPI:
    """The server's application.

    Args:
        service: what answers.
        hosts: names by which browsers may call it; `*` allows all.
    """
    app = FastAPI(lifespan=service.running, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    page = Page(service.limits.body_mb)

    @app.get("/")
    async def show_page() -> Response:
        return page.response()

    @app.get("/healthz")
    async def health() -> Response:
        return _json({"alive": not service.is_stuck}, 503 if service.is_stuck else 200)

    @app.get("/readyz")
    async def readiness() -> Response:
        is_ready = not service.is_stuck and service.waiting < service.limits.waiting
        about = {"ready": is_ready, "model": service.holder.current.version, "waiting": service.waiting}
        return _json(about, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.measured.text(), media_type="text/plain; version=0.0.4", headers=SECURITY)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        began = time.monotonic()
        try:
            response = await _predict(request, service)
        except Problem as problem:
            response = _refusal(problem)
        service.measured.requests.labels(str(response.status_code)).inc()
        service.measured.seconds.observe(time.monotonic() - began)
        return response

    return app


async def _predict(request: Request, service: Service) -> Response:
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(403, "Pages of other sites may not use this server.")
    service.rates.take(request.client.host if request.client else "", time.monotonic())
    kind = request.headers.get("content-type", "").lower()
    if not kind.startswith((*_RAW, _FORM)):
        raise Problem(415, f"Send an image (image/..., application/octet-stream) or a form ({_FORM}).")
    most, told = int(service.limits.body_mb * 1e6), request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_large(most)
    size = int(told) if told.isdecimal() else most
    async with service.uploads.reserved(size):
        body = await service.uploads.read(request, size)
        images = images_of(body, request.headers["content-type"], service.limits.images)
        with_map = request.query_params.get("map") == "1" and len(images) == 1
        served, results, status = await service.predict(images, with_map)
    return _json({"model": served.version, "results": results}, status)


def _refusal(problem: Problem) -> Response:
    response = Refusal({"error": problem.detail}, problem.status, SECURITY)
    response.headers["Connection"] = "close"  # the rest of the request isn't read
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(content, status, headers=SECURITY)
