"""Connections to remote file systems: patient with faults that pass, brief about those that stay.

Credentials come from where the cloud's own tools look for them (environment, files, the machine's role),
never from an address, which is written into runs and shown in messages.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pyarrow import ArrowException, fs

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
    parts = urlsplit(uri)
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
        found, path = fs.FileSystem.from_uri(uri)
        return found, path
    except (ArrowException, ValueError) as error:
        raise ConfigError(f"{uri}: {_first_line(error)}") from None
    except OSError as error:
        raise StorageError(explain(uri, error)) from None


def persistently(action: Callable[[], T]) -> T:
    """Do it, and again where Arrow gave up on a fault that passes; the action must bear being repeated."""
    for pause in (0.1, 0.4, 1.6):
        try:
            return action()
        except OSError as error:
            if not any(text in str(error) for text in _GIVEN_UP_AT_ONCE):
                raise
        time.sleep(pause)
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
    """Put an object where there is none, in one conditional request; return False if there is one.

    `content` must differ from any other process's: where the answer to a request is lost, it tells whose object
    there is. Arrow sends no conditional requests, so botocore does. Stores other than S3 are asked first whether
    the object exists, which two processes can be told at once.
    """
    if not isinstance(files, _S3):
        if files.get_file_info(path).type != fs.FileType.NotFound:
            return False
        with files.open_output_stream(path) as stream:
            stream.write(content)
        return True
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError

    bucket, _, key = path.partition("/")
    for attempt in range(files.attempts):
        if attempt:
            time.sleep(min(0.025 * 2 ** (attempt - 1), 8.0))
        try:
            files.client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
            return True
        except (HTTPClientError, ResponseParserError) as error:  # no answer, or half of one
            failure = _first_line(error)
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status == 412:
                with files.open_input_stream(path) as stream:
                    return bool(stream.read() == content)
            failure = f"{error.response.get('Error', {}).get('Code', '')}, HTTP {status}"
            if 400 <= status < 500 and status not in (409, 429):  # 409: another request for the same object
                break
        except BotoCoreError as error:
            failure = _first_line(error)
            break
    raise OSError(failure)


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
