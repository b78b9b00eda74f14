"""Response bodies from a translator's outcome."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from rgcluster.data.images import grid
from rgcluster.serve.backend import ServedModel
from rgcluster.serve.http.pictures import as_base64, as_png
from rgcluster.serve.http.schemas import Answer, AnswerWarning, NeighbourImage, Timings
from rgcluster.store.client import Neighbours
from rgcluster.translate.jobs import Job, Outcome

__all__ = ["RequestTimings", "translation_json", "neighbour_lists", "translation_png"]


@dataclass
class RequestTimings:
    """Seconds that each phase of a request took."""

    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0


def translation_png(outcome: Outcome) -> tuple[bytes, dict[str, str]]:
    """Return the pictures side by side as PNG, and headers with the variant, batch size and warnings."""
    headers = {
        "X-Rgcluster-Variant": outcome.variant,
        "X-Rgcluster-Degraded": str(outcome.degraded).lower(),
        "X-Rgcluster-Batch-Rows": str(outcome.batch_rows),
    }
    codes = [warned.code for warned in _warnings(outcome)]
    if codes:
        headers["X-Rgcluster-Warnings"] = ",".join(codes)
    return as_png(grid(outcome.images[None])), headers


def translation_json(
    served: ServedModel,
    job: Job,
    outcome: Outcome,
    timings: RequestTimings,
    positions: list[float] | None,
    show: bool,
) -> bytes:
    """Return a translation as JSON; `show` includes the neighbours' images."""
    start = time.perf_counter()
    names = served.config.data.attributes
    images, masks = [as_base64(image) for image in outcome.images], [as_base64(m) for m in outcome.masks]
    neighbours = neighbour_lists(outcome.neighbours, show) if outcome.neighbours else []
    own = (
        None
        if outcome.own is None
        else {name: round(float(share), 4) for name, share in zip(names, outcome.own, strict=True)}
    )
    seen = as_base64(job.pixels)
    encode = time.perf_counter() - start
    milliseconds = [
        round(1000 * part, 2)
        for part in (timings.read, timings.decode, timings.wait, outcome.seconds, encode)
    ]
    answer = Answer(
        model=served.name,
        variant=outcome.variant,
        guidance="off" if outcome.degraded else job.guidance,
        degraded=outcome.degraded,
        seed=job.seed,
        source=own,
        targets=[dict(zip(names, target.tolist(), strict=True)) for target in outcome.targets],
        positions=positions,
        input=seen,
        images=images,
        masks=masks,
        neighbours=neighbours,
        unlikeness=round(outcome.unlikeness, 3),
        warnings=_warnings(outcome),
        timings=Timings(
            **dict(zip(("read", "decode", "wait", "model", "encode"), milliseconds, strict=True)),  # type: ignore[arg-type]
            batch_rows=outcome.batch_rows,
        ),
    )
    return answer.model_dump_json().encode()


def neighbour_lists(found: Neighbours, show: bool) -> list[list[NeighbourImage]]:
    """Return the neighbours of each row; `show` includes their images."""
    encoded: dict[int, str] = {}

    def one(row: int, place: int) -> NeighbourImage:
        row_id, distance = int(found.ids[row, place]), float(found.distances[row, place])
        if show and row_id not in encoded:  # samples of one image share most of their neighbours
            encoded[row_id] = as_base64(found.images[row, place])
        return NeighbourImage(
            id=str(row_id),
            distance=None if np.isnan(distance) else round(distance, 4),
            image=encoded.get(row_id),
        )

    return [[one(row, place) for place in range(found.ids.shape[1])] for row in range(len(found.ids))]


def _warnings(outcome: Outcome) -> list[AnswerWarning]:
    warned = []
    if outcome.degraded:
        warned.append(
            AnswerWarning(
                code="unguided",
                message="the store was unavailable, so the pictures were translated without neighbours",
            )
        )
    if outcome.unlikeness > 1:
        warned.append(
            AnswerWarning(
                code="unlike_training",
                message=f"the image looks unlike the training images: {outcome.unlikeness:.1f} times as far from "
                "the nearest as is usual; the result may be poor",
            )
        )
    return warned
