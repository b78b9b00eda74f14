"""Endpoint functions of the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response

from rgcluster.data.fits import Fit
from rgcluster.data.images import UInt8Array
from rgcluster.errors import UnknownId
from rgcluster.serve.backend import Backend, ServedModel
from rgcluster.serve.http.answers import RequestTimings, neighbour_lists, translation_json, translation_png
from rgcluster.serve.http.errors import MAPPED_ERRORS, ApiError, api_error, invalid, unavailable
from rgcluster.serve.http.guard import ConcurrencyLimit
from rgcluster.serve.http.parameters import read_parameters
from rgcluster.serve.http.pictures import decode_image, open_image, read_picture
from rgcluster.serve.http.schemas import (
    Domains,
    Example,
    Examples,
    Health,
    InterpolateParameters,
    Model,
    ModelParameter,
    Models,
    NeighboursAnswer,
    NeighboursParameters,
    Parameters,
    PictureParameters,
    ReferenceParameters,
    StoredNeighboursParameters,
    TranslateParameters,
)
from rgcluster.serve.http.targets import parse
from rgcluster.serve.http.uploads import Upload, read_upload
from rgcluster.serve.settings import ServeSettings
from rgcluster.serve.telemetry import RequestMetrics
from rgcluster.store.client import Neighbours
from rgcluster.store.index.exact import NO_ID
from rgcluster.translate.finished import KEEP, style_noise
from rgcluster.translate.jobs import Job, Outcome

__all__ = ["Endpoints"]

P = TypeVar("P", bound=Parameters)
T = TypeVar("T")

DECODERS = 2
"""Threads that decode and encode images; few, so that large images do not occupy all cores."""
READY_KEPT_S = 0.5
"""Seconds for which the state of the models is not asked for again."""
SMALL_PIXELS = 128 * 128
SMALL_BYTES = 1 << 16
"""Below these sizes, handing over to a thread takes longer than the work itself."""


class Endpoints:
    """One method per route."""

    def __init__(
        self,
        settings: ServeSettings,
        served: Sequence[ServedModel],
        backend: Backend,
        metrics: RequestMetrics,
    ) -> None:
        self._settings, self._backend, self._metrics = settings, backend, metrics
        self._served = {one.name: one for one in served}
        self._limits = limits = settings.limits
        self._uploads = ConcurrencyLimit(limits.uploads, "uploads", limits.retry_after_s)
        self._requests = ConcurrencyLimit(limits.waiting, "requests", limits.retry_after_s)
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="images")
        self._checking, self._checked, self._states = asyncio.Lock(), float("-inf"), dict[str, bool]()

    async def translate(self, request: Request) -> Response:
        upload, timings = await self._read(request)
        parameters = read_parameters(TranslateParameters, request, upload.fields)
        self._at_most(parameters.samples, self._limits.samples, "samples")
        model = self._model(parameters.model)
        target = parse(parameters.target, model.config.data, "target")
        async with self._computing():  # refuses before the image is decoded
            pixels = await self._decode(upload, "image", model, parameters, timings)
            noise = style_noise(parameters.seed, parameters.samples, model.config.style_size)
            weights = np.ones((parameters.samples, 1), np.float32)
            job = Job(pixels, target[None], weights, noise, None, parameters.guidance, parameters.seed)
            outcome = await self._translated(model, job, timings)
        return await self._answer(request, model, parameters, job, outcome, timings)

    async def interpolate(self, request: Request) -> Response:
        upload, timings = await self._read(request)
        parameters = read_parameters(InterpolateParameters, request, upload.fields)
        self._at_most(parameters.steps, max(2, self._limits.samples), "steps")
        model = self._model(parameters.model)
        ends = [parse(getattr(parameters, name), model.config.data, name) for name in ("start", "end")]
        positions = np.linspace(0, 1, parameters.steps, dtype=np.float32)
        weights = np.stack([1 - positions, positions], axis=1)
        noise = np.repeat(style_noise(parameters.seed, 1, model.config.style_size), parameters.steps, axis=0)
        async with self._computing():
            pixels = await self._decode(upload, "image", model, parameters, timings)
            job = Job(pixels, np.stack(ends), weights, noise, None, parameters.guidance, parameters.seed)
            outcome = await self._translated(model, job, timings)
        return await self._answer(request, model, parameters, job, outcome, timings, positions.tolist())

    async def reference(self, request: Request) -> Response:
        upload, timings = await self._read(request)
        parameters = read_parameters(ReferenceParameters, request, upload.fields)
        model = self._model(parameters.model)
        nothing = np.zeros((0, model.config.num_attributes), np.int8)
        noise = np.zeros((1, model.config.style_size), np.float32)
        weights = np.zeros((1, 0), np.float32)
        async with self._computing():
            pixels = await self._decode(upload, "image", model, parameters, timings)
            style_of = await self._decode(upload, "reference", model, parameters, timings)
            job = Job(pixels, nothing, weights, noise, style_of, parameters.guidance, parameters.seed)
            outcome = await self._translated(model, job, timings)
        return await self._answer(request, model, parameters, job, outcome, timings)

    async def neighbours_of_image(self, request: Request) -> Response:
        upload, timings = await self._read(request)
        parameters = read_parameters(NeighboursParameters, request, upload.fields)
        model = self._model(parameters.model)
        target = parse(parameters.target, model.config.data, "target")
        async with self._computing():
            pixels = await self._picture(self._part(upload, "image"), model, parameters.fit, "image")
            return await self._near(model, pixels, target, parameters.count, parameters.images, NO_ID)

    async def neighbours_of_stored(self, request: Request) -> Response:
        parameters = read_parameters(StoredNeighboursParameters, request)
        model = self._model(parameters.model)
        target = parse(parameters.target, model.config.data, "target")
        row_id = int(parameters.id)
        if not -(2**63) <= row_id < 2**63:
            raise api_error(UnknownId(f"the image {row_id} is not in the store"))
        async with self._computing():
            pixels = await self._call_backend(self._held(self._backend.stored_image(model.name, row_id)))
            return await self._near(model, pixels, target, parameters.count, parameters.images, row_id)

    async def domains(self, request: Request) -> Response:
        model = self._model(read_parameters(ModelParameter, request).model)
        data = model.config.data
        one_hot = data.domains == "one-hot"
        exclusive = [list(data.attributes)] if one_hot else [list(group) for group in data.exclusive]
        return _json(
            Domains(
                model=model.name, attributes=list(data.attributes), exclusive=exclusive, exactly_one=one_hot
            )
        )

    async def models(self, request: Request) -> Response:
        read_parameters(Parameters, request)
        return _json(Models(models=[_described(one) for one in self._served.values()]))

    async def examples(self, request: Request) -> Response:
        model = self._model(read_parameters(ModelParameter, request).model)
        async with self._computing():
            count = len(await self._call_backend(self._held(self._backend.examples(model.name))))
        listed = [
            Example(number=number, url=f"/v1/examples/{number}?model={model.name}") for number in range(count)
        ]
        return _json(Examples(model=model.name, examples=listed))

    async def example(self, request: Request) -> Response:
        model = self._model(read_parameters(ModelParameter, request).model)
        text = request.path_params["number"]
        async with self._computing():
            images = await self._call_backend(self._held(self._backend.examples(model.name)))
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else len(images)
        if number >= len(images):
            raise ApiError(
                404,
                "not_found",
                f"there are {len(images)} examples",
                field="number",
                remedy="ask for one below that",
            )
        kind = "image/png" if images[number].startswith(b"\x89PNG") else "image/jpeg"
        return Response(images[number], media_type=kind, headers={"Cache-Control": "max-age=3600"})

    async def health(self, request: Request) -> Response:
        return _json(Health(status="ok", models={}))

    async def ready(self, request: Request) -> Response:
        async with self._checking:  # one check at a time, whoever asks, since it needs no key
            if time.monotonic() - self._checked > READY_KEPT_S:
                self._states = {name: await self._backend.ready(name) for name in self._served}
                self._checked = time.monotonic()
        states = self._states
        if all(states.values()):
            return _json(Health(status="ok", models=states))
        waiting = ", ".join(name for name, state in states.items() if not state)
        raise unavailable(f"not ready: {waiting}", "wait", self._limits.retry_after_s)

    def _model(self, name: str | None) -> ServedModel:
        if name is None:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise ApiError(
                404, "unknown_model", f"no model {name!r}", field="model",
                remedy=f"there are {', '.join(self._served)}",
            )  # fmt: skip
        return self._served[name]

    def _at_most(self, value: int, limit: int, name: str) -> None:
        if value > limit:
            raise invalid("invalid_parameter", f"{name}: {value} is more than {limit}", name, "ask for fewer")

    async def _read(self, request: Request) -> tuple[Upload, RequestTimings]:
        start = time.perf_counter()
        with self._uploads.slot():
            upload = await read_upload(request, self._limits)
        return upload, RequestTimings(read=time.perf_counter() - start)

    def _part(self, upload: Upload, name: str) -> bytes:
        if name not in upload.images:
            raise invalid(
                "no_image", f"there is no part {name!r}", name, "send it as a file of multipart/form-data"
            )
        return upload.images[name]

    async def _decode(
        self,
        upload: Upload,
        name: str,
        model: ServedModel,
        parameters: PictureParameters,
        timings: RequestTimings,
    ) -> UInt8Array:
        start = time.perf_counter()
        pixels = await self._picture(self._part(upload, name), model, parameters.fit, name)
        timings.decode += time.perf_counter() - start
        return pixels

    async def _picture(self, content: bytes, model: ServedModel, fit: Fit, field: str) -> UInt8Array:
        data, limits = model.config.data, self._limits
        if len(content) > SMALL_BYTES:
            return await self._in_thread(read_picture, content, data, fit, limits, field)
        image = open_image(content, limits, field)
        if image.width * image.height > SMALL_PIXELS:
            return await self._in_thread(decode_image, image, data, fit, limits, field)
        return decode_image(image, data, fit, limits, field)

    async def _translated(self, model: ServedModel, job: Job, timings: RequestTimings) -> Outcome:
        start = time.perf_counter()
        self._metrics.waiting(self._requests.in_use)
        outcome: Outcome = await self._call_backend(self._backend.translate(model.name, job))
        timings.wait = time.perf_counter() - start - outcome.seconds
        return outcome

    async def _answer(
        self,
        request: Request,
        model: ServedModel,
        parameters: PictureParameters,
        job: Job,
        outcome: Outcome,
        timings: RequestTimings,
        positions: list[float] | None = None,
    ) -> Response:
        pixels = outcome.masks.size
        if _wants_png(request, parameters):
            content, headers = await self._encode(pixels, translation_png, outcome)
            return Response(content, media_type="image/png", headers=headers)
        pixels += pixels + job.pixels[..., 0].size
        if outcome.neighbours and self._settings.show_neighbours:
            pixels += outcome.neighbours.images[..., 0].size
        body = await self._encode(
            pixels, translation_json, model, job, outcome, timings, positions, self._settings.show_neighbours
        )
        return Response(body, media_type="application/json")

    async def _near(
        self, model: ServedModel, pixels: UInt8Array, target: Any, count: int, images: bool, row_id: int
    ) -> Response:
        self._at_most(count, self._limits.neighbours, "count")
        size = model.config.style_size
        job = Job(
            pixels, target[None], np.ones((1, 1), np.float32), np.zeros((1, size), np.float32), row_id=row_id
        )
        asked = self._held(self._backend.neighbours(model.name, job, count))
        found: Neighbours = await self._call_backend(asked)
        named = None if (target == KEEP).any() else _named(model, target)
        listed = await self._in_thread(neighbour_lists, found, images and self._settings.show_neighbours)
        return _json(NeighboursAnswer(model=model.name, target=named, neighbours=listed[0]))

    async def _encode(self, pixels: int, work: Any, *arguments: Any) -> Any:
        return work(*arguments) if pixels <= SMALL_PIXELS else await self._in_thread(work, *arguments)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await self._held(loop.run_in_executor(self._threads, partial(work, *arguments)))

    async def _call_backend(self, work: Awaitable[T]) -> T:
        """Await a call to the backend; convert its errors to ApiError."""
        try:
            return await work
        except MAPPED_ERRORS as error:
            raise api_error(error, retry_after_s=self._limits.retry_after_s) from None

    @asynccontextmanager
    async def _computing(self) -> AsyncIterator[None]:
        """Occupy a slot for the block; ApiError 429 where none is free, 504 after `limits.request_seconds`."""
        with self._requests.slot():
            try:
                async with asyncio.timeout(self._limits.request_seconds):
                    yield
            except TimeoutError:
                raise ApiError(
                    504, "too_late", f"no answer within {self._limits.request_seconds:g} s",
                    remedy="send it again, or ask for fewer samples",
                ) from None  # fmt: skip

    async def _held(self, work: Awaitable[T]) -> T:
        """Await work that a thread does, which cannot be stopped.

        If the request ends first, the work occupies a slot until it has ended, too.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                self._requests.hold_until(task)
        return task.result()


def _wants_png(request: Request, parameters: PictureParameters) -> bool:
    if parameters.format:
        return parameters.format == "png"
    accepted = request.headers.get("accept", "")
    return "image/png" in accepted and "application/json" not in accepted


def _json(content: Any) -> Response:
    return Response(content.model_dump_json(), media_type="application/json")


def _named(model: ServedModel, vector: Any) -> dict[str, int]:
    return dict(zip(model.config.data.attributes, (int(value) for value in vector), strict=True))


def _described(one: ServedModel) -> Model:
    return Model(
        name=one.name,
        image_size=one.config.data.image_size,
        attributes=list(one.config.data.attributes),
        variants=one.variants,  # type: ignore[arg-type]
        neighbours=one.config.guidance.retrieval_count,
        stored_images=one.stored_images,
        trained=one.digest,
    )
