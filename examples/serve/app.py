"""The service as a FastAPI application.

    longstride rollout start rollout.db --new new.json --old card.json
    python -m examples.serve --store rollout.db

=====================  ===============================================================================
``GET /image``         a picture of ``seed``, by the arm of ``key``: PNG, with the arm in its headers
``GET /healthz``       whether pictures are served, and what is wrong with the store, if anything is
``GET /metrics``       for Prometheus
=====================  ===============================================================================
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Response
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from torch import Tensor

from examples.serve.metrics import Metrics
from examples.serve.service import Service, Settings

__all__ = ["create_app", "png"]


def png(picture: Tensor) -> bytes:
    """A picture ``(1 or 3, H, W)``, nominally in [-1, 1], as PNG."""
    pixels = ((picture.float().cpu().clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def create_app(settings: Settings) -> FastAPI:
    """The application; the model is loaded when it starts, and closed when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = Service(settings)
        app.state.metrics = Metrics(service)
        app.state.pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="picture")
        app.state.inside = 0
        try:
            yield
        finally:
            app.state.pool.shutdown()
            service.close()

    app = FastAPI(title="longstride example", lifespan=lifespan)

    @app.get("/image", response_class=Response)
    async def image(
        seed: Annotated[int, Query(ge=0, lt=2**31)],
        key: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Response:
        """A picture; the key of a user keeps them on one arm, and without it the seed is the key."""
        state = app.state
        room = settings.concurrency + settings.waiting
        if state.inside >= room:  # counted in the event loop's own thread
            state.metrics.refused.inc()
            detail = f"the queue is full: {settings.waiting} requests wait; come back in a second"
            raise HTTPException(503, detail, headers={"Retry-After": "1"})
        state.inside += 1
        state.metrics.inside.set(state.inside)
        try:
            loop = asyncio.get_running_loop()
            found, body = await loop.run_in_executor(state.pool, _answer, state.service, key or str(seed), seed)
        finally:
            state.inside -= 1
            state.metrics.inside.set(state.inside)
        state.metrics.served(found)
        return Response(body, media_type="image/png", headers={"X-Longstride-Arm": found.arm})

    @app.get("/healthz")
    def healthz() -> dict[str, object]:
        """Pictures are served whatever the store does, so a fault of it is told and no failure."""
        service = app.state.service
        trouble = service.rollout.trouble
        return {"status": "ok" if trouble is None else "degraded", "store": trouble, "model": service.model.name}

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _answer(service: Service, key: str, seed: int) -> tuple[object, bytes]:
    found = service.picture(key, seed)
    return found, png(service.model.pictures(found.sample)[0])
