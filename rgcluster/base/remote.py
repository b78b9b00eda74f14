"""Connections to remote file systems: patient with faults that pass, brief about those that stay.

Credentials come from where the cloud's own tools look for them (environment, files, the machine's role),
never from an address, which is written into runs and shown in messages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from pyarrow import ArrowException, fs
from tenacity import (
    Retrying,
    retry,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from rgcluster.errors import ConfigError, StorageError

__all__ = ["connect", "create_object", "explain", "persistently"]

T = TypeVar("T")

ATTEMPTS = 11
"""Of a request: pauses double from 25 ms, so a store may fail for 25 s."""
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 20.0
"""Seconds without progress of a response before the request is repeated."""

_GIVEN_UP_AT_ONCE = ("Failed to flush response stream", "CompleteMultipartUpload", "CompletedMultipartUpload")
"""Arrow treats an error body longer than the requested range, and one that ends an upload, as final."""

_S3_OPTIONS = ("region", "endpoint_override", "scheme", "attempts")


def connect(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of `uri` and the path in it; ConfigError where the address is wrong."""
    parts = urlsplit(uri, allow_fragments=False)  # a name may hold #
    if parts.username and not (parts.scheme in ("gs", "gcs") and parts.username == "anonymous"):
        shown = uri.replace(parts.netloc, parts.netloc.rpartition("@")[2])
        raise ConfigError(
            f"{shown}: credentials do not belong in an address, which is written into files; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or the machine's role"
        )
    try:
        if parts.scheme == "s3":
            if not parts.netloc:
                raise ConfigError(f"{uri}: no bucket; write s3://BUCKET/PATH")
            return _s3(parts.netloc, parts.query), f"{parts.netloc}{parts.path}".rstrip("/")
        found, path = fs.FileSystem.from_uri(uri.replace(parts.path, quote(parts.path), 1))
        return found, path
    except (ArrowException, ValueError) as error:
        raise ConfigError(f"{uri}: {_first_line(error)}") from None
    except OSError as error:
        raise StorageError(explain(uri, error)) from None


def _passes(error: BaseException) -> bool:
    """Return whether Arrow gave up on a fault that may pass."""
    return isinstance(error, OSError) and any(text in str(error) for text in _GIVEN_UP_AT_ONCE)


@retry(
    retry=retry_if_exception(_passes),
    stop=stop_after_attempt(4),
    wait=wait_exponential(0.1, exp_base=4),
    reraise=True,
)
def persistently(action: Callable[[], T]) -> T:
    """Run an idempotent action, and again after 0.1, 0.4 and 1.6 s where Arrow gave up on a fault that may pass."""
    return action()


def explain(place: str, error: OSError) -> str:
    """Return one line on what a remote file system said."""
    text = _first_line(error)
    code = re.search(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?", text)
    what = text
    if code:
        name, status = code.groups()
        detail = text.partition("operation: ")[2].split(" (Request ID")[0].strip()
        what = name.lower().replace("_", " ") + (f", HTTP {status}" if status else "")
        what += f": {detail[:160]}" if detail else ""
    return (
        f"{place}: the store does not answer as it should ({what}); see to it and run the same command again"
    )


def create_object(files: fs.FileSystem, path: str, content: bytes) -> bool:
    """Put an object on S3 where there is none, in one conditional request; return False if there is one.

    `content` must differ from any other process's: where the answer to a request is lost, it tells whose object
    there is. Arrow sends no conditional requests, so botocore does.
    """
    assert isinstance(files, _S3)
    client, (bucket, _, key) = files.client, path.partition("/")

    def put() -> bool:
        client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        return True

    def is_ours() -> bool:
        return bool(client.get_object(Bucket=bucket, Key=key)["Body"].read() == content)

    attempts = Retrying(
        retry=retry_if_exception_type(_Passing),
        stop=stop_after_attempt(files.attempts),
        wait=wait_exponential(0.025, max=8.0),
        reraise=True,
    )
    return attempts(_answered, put) or attempts(_answered, is_ours)


class _Passing(OSError):
    """A fault of a request that may pass."""


def _answered(action: Callable[[], bool]) -> bool:
    """Run an action of botocore; return False where it finds an object, or none, against its condition."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NotConnected
    from botocore.parsers import ResponseParserError

    try:
        return action()
    except (NotConnected, HTTPClientError, IncompleteReadError, ResponseParserError) as error:
        raise _Passing(_first_line(error)) from None  # no answer, or half of one
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if status == 412 or code == "NoSuchKey":
            return False
        stays = 400 <= status < 500 and status not in (409, 429)  # 409: another request for the same object
        raise (OSError if stays else _Passing)(f"{code}, HTTP {status}") from None
    except BotoCoreError as error:
        raise OSError(_first_line(error)) from None


class _S3(fs.S3FileSystem):
    """S3 whose copies in other processes are as patient as the first."""

    _settings: dict[str, Any]

    def __reduce__(self) -> Any:
        return _make, (self._settings,)

    @property
    def attempts(self) -> int:
        return int(self._settings["attempts"])

    @cached_property
    def client(self) -> Any:
        """botocore's client of the same store, with the same credentials."""
        from botocore.config import Config
        from botocore.session import get_session

        endpoint = self._settings.get("endpoint_override")
        return get_session().create_client(
            "s3", region_name=self._settings.get("region"),
            endpoint_url=endpoint and f"{self._settings.get('scheme', 'https')}://{endpoint}",
            config=Config(
                connect_timeout=CONNECT_SECONDS, read_timeout=SILENCE_SECONDS,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )  # fmt: skip


def _make(settings: dict[str, Any]) -> _S3:
    settings = dict(settings)
    attempts = settings.pop("attempts")
    made = _S3(
        **settings, connect_timeout=CONNECT_SECONDS, request_timeout=SILENCE_SECONDS,
        allow_delayed_open=True,  # a small file is one request then
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=attempts),
    )  # fmt: skip
    made._settings = {**settings, "attempts": attempts}
    return made


@lru_cache(maxsize=64)
def _s3(bucket: str, query: str) -> _S3:
    """One connection a process for every bucket and set of options."""
    options = dict(parse_qsl(query))
    unknown = sorted(set(options) - set(_S3_OPTIONS))
    if unknown:
        raise ConfigError(
            f"s3://{bucket}?{query}: unknown option {unknown[0]}; known: {', '.join(_S3_OPTIONS)}"
        )
    attempts = options.pop("attempts", str(ATTEMPTS))
    if not attempts.isdigit() or not int(attempts):
        raise ConfigError(f"s3://{bucket}?{query}: attempts={attempts} is no whole number of 1 or more")
    known = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not known and "endpoint_override" not in options:
        known = fs.resolve_s3_region(bucket)
    if known:
        options["region"] = known
    return _make({**options, "attempts": int(attempts)})


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
