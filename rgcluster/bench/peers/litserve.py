"""LitServe: a worker process with batches behind an HTTP process. As a program it serves a run."""

# Without postponed annotations: LitServe reads those of the hooks.

import signal
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import Request, Response

from rgcluster.base.rundir import open_run, snapshot_of
from rgcluster.bench.peers.server import ServerPeer, end_with_parent
from rgcluster.serve.engine import Engine
from rgcluster.serve.http.answers import translation_png
from rgcluster.serve.http.pictures import read_picture
from rgcluster.serve.http.targets import parse
from rgcluster.serve.settings import ServeSettings
from rgcluster.store.local import LocalStore
from rgcluster.translate.finished import style_noise
from rgcluster.translate.jobs import Job, Outcome
from rgcluster.translate.variants import Guidance

try:
    from litserve import LitAPI, LitServer
except ImportError:  # an extra; a missing one is skipped before anything here is used
    LitAPI = object  # type: ignore[assignment, misc]

__all__ = ["LitServe", "TranslatorAPI"]

PATH = "/predict"


class LitServe(ServerPeer):
    """LitServe as it is by default: one worker, batches of what waits, the queue of multiprocessing.

    Its worker searches the store's snapshot itself, without actors.
    """

    library, name = "litserve", "LitServe"
    module, ready = __name__, "/health"

    def request(self, image: bytes, target: str, kind: Guidance, seed: int) -> bytes:
        edge = uuid.uuid4().hex
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in (("target", target), ("guidance", kind), ("seed", seed))
        ]
        about = 'form-data; name="image"; filename="image.png"\r\nContent-Type: image/png'
        parts.append(f"--{edge}\r\nContent-Disposition: {about}\r\n\r\n".encode() + image + b"\r\n")
        body = b"".join(parts) + f"--{edge}--\r\n".encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {urlsplit(self.address).netloc}\r\n"
            f"Content-Type: multipart/form-data; boundary={edge}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class TranslatorAPI(LitAPI):
    """The hooks around a run's translators: each does what the endpoint does at its place."""

    def __init__(self, settings: ServeSettings) -> None:
        super().__init__(max_batch_size=settings.batch_rows, api_path=PATH)
        self._settings = settings

    def setup(self, device: str) -> None:
        run = next(iter(self._settings.runs.values()))
        self._config, location = open_run(run)
        self._translators = Engine(run, LocalStore(snapshot_of(location)), self._settings).translators

    def decode_request(self, request: Request) -> Job:
        form: Any = request  # parsed already
        pixels = read_picture(form["image"].file.read(), self._config.data, "auto", self._settings.limits)
        target = parse(form["target"], self._config.data, "target")[None]
        seed = int(form["seed"])
        noise = style_noise(seed, 1, self._config.style_size)
        return Job(pixels, target, np.ones((1, 1), np.float32), noise, None, form["guidance"], seed)

    def predict(self, jobs: Job | list[Job]) -> Any:
        if isinstance(jobs, Job):  # where batches are of one
            return self._translators.run([jobs])[0]
        return self._translators.run(jobs)

    def encode_response(self, outcome: Outcome | Exception) -> Response:
        if isinstance(outcome, Exception):
            raise outcome
        content, headers = translation_png(outcome)
        return Response(content, headers=headers, media_type="image/png")


if __name__ == "__main__":
    end_with_parent()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # LitServe ends its processes after Ctrl+C alone
    settings = ServeSettings.model_validate_json(sys.argv[1])
    server = LitServer(TranslatorAPI(settings), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
