"""Submits a job to a Ray cluster after checks that cost seconds, follows its logs, and returns its status."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rgcluster import errors
from rgcluster.base.cluster.address import ANSWER_SECONDS, DASHBOARD_PORT, dashboard_address
from rgcluster.errors import ConfigError, EndpointError, RGClusterError
from rgcluster.submission.job import JobPlan

__all__ = ["follow", "submission_of", "submit"]

PROBE_SECONDS = 180.0
TOKEN_FILE = Path("~/.ray/auth_token")
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_REMEDY = f"give --address http://HOST:{DASHBOARD_PORT} of the head, through a tunnel if it is out of reach"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def submit(
    plan: JobPlan, directory: Path, address: str | None, max_upload_mib: float, say: Callable[[str], None]
) -> tuple[Any, str]:
    """Check, submit and return the client and the submission's id; one that runs already is returned as it is.

    ConfigError, StorageError or EndpointError says in a line what does not fit.
    """
    use_token()
    from rgcluster.submission.upload import pack_upload

    with tempfile.TemporaryDirectory(prefix="rgcluster-upload-") as temporary:
        package = Path(temporary) / "package.zip"
        pack_upload(directory, max_upload_mib, package)
        client = connect(address)
        with _answered(client.get_address()):
            name, running = submission_of(client.list_jobs(), plan)
            if running:
                say(f"{name} runs already: following it")
                return client, name
            environment = {"working_dir": str(package)}
            say("looking: does it fit, is the storage reached from every node?")
            _probe(client, plan, environment)
            client.submit_job(
                entrypoint=plan.entrypoint, submission_id=name, runtime_env=environment,
                metadata={"job": plan.job, "place": plan.places[0]},
            )  # fmt: skip
            say(f"submitted as {name} to {client.get_address()}")
            return client, name


def use_token() -> None:
    """Send the token where there is one, as the nodes of a cluster do: a client would not by itself.

    Read when Ray is first used in a process.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if "RAY_AUTH_MODE" not in os.environ and (given or TOKEN_FILE.expanduser().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"


def connect(address: str | None) -> Any:
    """Return a client of the cluster's dashboard; EndpointError where it does not answer, ConfigError for a token."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    given = {"--address": address} | {name: os.environ.get(name) for name in _VARIABLES}
    source, chosen = next(((name, value) for name, value in given.items() if value), ("", "auto"))
    where = dashboard_address(source, chosen)
    _require_answer(where)
    # Ray would prefer the environment to the option.
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    try:
        with _answered(where):
            return JobSubmissionClient(where)
    except EndpointError:
        if where != "auto":
            raise
        raise ConfigError(
            f"no Ray cluster runs on this machine; give --address http://HOST:{DASHBOARD_PORT} of the head"
        ) from None
    finally:
        os.environ.update({name: value for name, value in before.items() if value})


def _require_answer(address: str) -> None:
    """Raise ConfigError unless a web server answers soon at a dashboard's address; other addresses Ray looks up."""
    if not address.startswith(("http://", "https://")):
        return
    import requests

    try:
        response = requests.get(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS)
    except requests.exceptions.RequestException as error:
        raise ConfigError(
            f"{address}: no Ray dashboard answers there ({type(error).__name__}); {_REMEDY}"
        ) from None
    other = response.ok and "json" not in response.headers.get("Content-Type", "")
    if other or response.status_code == 404:
        raise ConfigError(f"{address}: the web server there is no Ray dashboard; {_REMEDY}")


def submission_of(jobs: list[Any], plan: JobPlan) -> tuple[str, bool]:
    """Return the id under which to submit, and whether that one is running; ConfigError where another is.

    The first is the plan's name, later ones get a number, since Ray never takes an id twice.
    """
    own = {
        job.submission_id: job
        for job in jobs
        if job.submission_id == plan.name or _number(job.submission_id, plan.name)
    }
    for job in jobs:
        if _changes_same_place(job, plan) and job.submission_id not in own and _state(job) not in ENDED:
            raise ConfigError(
                f"{job.submission_id} is at work on {plan.places[0]} ({job.entrypoint}); wait for it, end it with `ray "
                f"job stop {job.submission_id}`, or give another --run"
            )
    for name, job in own.items():
        if _state(job) in ENDED:
            continue
        if job.entrypoint != plan.entrypoint:
            raise ConfigError(
                f"{name} is at work on {plan.places[0]} with other options ({job.entrypoint}); wait for it, end it "
                f"with `ray job stop {name}`, or give another --run"
            )
        return name, True
    if not own:
        return plan.name, False
    return f"{plan.name}-{1 + max(_number(name, plan.name) or 1 for name in own)}", False


def follow(client: Any, name: str, write: Callable[[str], None]) -> int:
    """Pass on the job's logs until it ends; return its driver's exit status."""
    import aiohttp

    seen = 0

    async def tail() -> None:
        nonlocal seen
        at = 0  # a new connection begins with the first line
        async for text in client.tail_job_logs(name):
            at += len(text)
            if at > seen:
                write(text[-(at - seen) :] if at - len(text) < seen else text)
                seen = at

    while True:
        try:
            asyncio.run(tail())
        except (RuntimeError, OSError, aiohttp.ClientError):
            time.sleep(2.0)
        info = _info(client, name)
        if _state(info) in ENDED:
            break
        time.sleep(1.0)
    if _state(info) == "SUCCEEDED":
        return 0
    code = info.driver_exit_code
    if not code:
        print(f"{name}: {info.message or _state(info)}".splitlines()[0], file=sys.stderr)
        return 1
    return int(code) if code > 0 else 128 - int(code)


def _info(client: Any, name: str) -> Any:
    """Return what the dashboard says of a job; it may be away for a minute, the job is not."""
    for _ in range(12):
        try:
            with _answered(client.get_address()):
                return client.get_job_info(name)
        except EndpointError:
            time.sleep(5.0)
    with _answered(client.get_address()):
        return client.get_job_info(name)


def _changes_same_place(job: Any, plan: JobPlan) -> bool:
    about = getattr(job, "metadata", None) or {}
    reads = ("serve", None)
    return plan.job not in reads and about.get("job") not in reads and about.get("place") == plan.places[0]


def _state(job: Any) -> str:
    return str(getattr(job.status, "value", job.status))


def _number(submission: str | None, name: str) -> int | None:
    rest = (submission or "").removeprefix(f"{name}-") if (submission or "").startswith(f"{name}-") else ""
    return int(rest) if rest.isdigit() else None


def _probe(client: Any, plan: JobPlan, environment: dict[str, str]) -> None:
    from rgcluster.submission.probe import read_answer

    request = {
        "places": plan.places, "changes": plan.places if plan.job != "serve" else (), "run": plan.run,
        "preset": plan.preset, "overrides": plan.overrides,
    }  # fmt: skip
    name = client.submit_job(
        entrypoint=shlex.join(["python", "-m", "rgcluster.submission.probe", json.dumps(request)]),
        submission_id=f"{plan.name}-look-{uuid.uuid4().hex[:6]}",
        runtime_env=environment,
    )
    deadline = time.monotonic() + PROBE_SECONDS
    while _state(info := client.get_job_info(name)) not in ENDED:
        if time.monotonic() > deadline:
            client.stop_job(name)
            raise EndpointError(
                f"{client.get_address()}: a job that looks whether this one would work has not ended within "
                f"{PROBE_SECONDS:g} s (`ray job logs {name}` says why)"
            )
        time.sleep(0.5)
    answer = read_answer(client.get_job_logs(name))
    if answer is None:
        line = next((line for line in (info.message or "").splitlines() if line.strip()), "no message")
        raise EndpointError(
            f"{client.get_address()}: no job can be started there: {line.strip()} (`ray job logs {name}`)"
        )
    if answer:
        raise getattr(errors, answer["type"], RGClusterError)(answer["message"])


@contextmanager
def _answered(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into one line."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        known = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        what = (
            "asks for a token, and none was found"
            if "401" in str(error) or "required" in str(error)
            else ("refuses the token")
        )
        raise ConfigError(f"{address}: the cluster {what}; put the cluster's own in {known}") from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EndpointError(f"{address}: no Ray dashboard answers there ({line[:160]}); {_REMEDY}") from None
    except RuntimeError as error:
        if isinstance(error, RGClusterError):
            raise
        line = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise EndpointError(f"{address}: the dashboard failed: {line[:300]}") from None
