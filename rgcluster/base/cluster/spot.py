"""The notice that a cloud gives before it takes a spot machine away, from the machine's metadata service."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CLOUDS", "MetadataService", "metadata_service"]

SECONDS = 1.0
VENDOR = Path("/sys/class/dmi/id/sys_vendor")
TOKEN_SECONDS = 21600


@dataclass(frozen=True)
class MetadataService:
    """The endpoint at which a cloud announces the preemption of a machine.

    `notice` answers 404 as long as nothing is planned, unless it answers with `nothing`. Where `token` is set, a
    token must be fetched there first.
    """

    notice: str
    headers: dict[str, str] = field(default_factory=dict)
    nothing: str = ""
    token: str = ""

    def is_preempted(self) -> bool:
        """Return whether the machine is about to be taken away; OSError where the service does not respond."""
        headers = dict(self.headers)
        if self.token:
            seconds = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            headers["X-aws-ec2-metadata-token"] = _request(self.token, seconds, "PUT")
        try:
            answer = _request(self.notice, headers, "GET")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return answer.strip() != self.nothing if self.nothing else "Preempt" in answer or "action" in answer


CLOUDS = {
    "Amazon EC2": MetadataService(
        "http://169.254.169.254/latest/meta-data/spot/instance-action",
        token="http://169.254.169.254/latest/api/token",
    ),
    "Google": MetadataService(
        "http://169.254.169.254/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}, "FALSE"
    ),
    "Microsoft Corporation": MetadataService(
        "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"}
    ),
}
"""Metadata services by what the firmware says of the machine's maker."""


def metadata_service() -> MetadataService | None:
    """Return the metadata service of this machine's cloud; None outside of the known ones."""
    try:
        return CLOUDS.get(VENDOR.read_text().strip())
    except OSError:
        return None


def _request(url: str, headers: dict[str, str], method: str) -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # A proxy of the environment is not on this machine.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=SECONDS
    ) as answer:
        return str(answer.read(65536).decode())
