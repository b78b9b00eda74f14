"""A job that looks before the job: do the stages fit on this cluster, does every node read and write the places?

    python -m rgcluster.submission.probe '{"places": [...], "changes": [...], "run": ..., "preset": ..., ...}'

Its last line is the result for the submitter.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from rgcluster.base.rundir import CONFIG
from rgcluster.config import Config, load_config
from rgcluster.errors import RGClusterError, root_cause

__all__ = ["MARK", "look", "read_answer"]

MARK = "rgcluster-probe:"


def look(request: dict[str, Any]) -> None:
    """Raise the error that the job would meet."""
    from rgcluster.base.locks.lease import refuse_held
    from rgcluster.base.session import placement, ray_session
    from rgcluster.base.storage import Location
    from rgcluster.train.preflight import check_storage

    for place in request["changes"]:
        refuse_held(Location(place))
    with ray_session():
        for place in request["places"]:
            check_storage(Location(place))
        if request["run"]:
            placement(_config(request))


def read_answer(logs: str) -> dict[str, str] | None:
    """Return the problem that the job's logs tell of, {} where all is well; None where they do not say."""
    lines = [line for line in logs.splitlines() if line.startswith(MARK)]
    return dict(json.loads(lines[-1].removeprefix(MARK))) if lines else None


def _config(request: dict[str, Any]) -> Config:
    from rgcluster.base.rundir import open_run
    from rgcluster.base.storage import Location
    from rgcluster.config import with_values

    if request["preset"] is None and (Location(request["run"]) / CONFIG).exists():
        config, _ = open_run(request["run"])
        return with_values(config, dict(_pair(override) for override in request["overrides"]))
    return load_config(request["preset"] or "celeba128", request["overrides"])


def _pair(override: str) -> tuple[str, Any]:
    from rgcluster.config import parse_override

    return parse_override(override)


def _told(cause: BaseException) -> dict[str, str]:
    """Return the error message for the submitter; the job's log has an unexpected error in full."""
    text = " ".join(str(cause).split()) or "no message"
    if isinstance(cause, RGClusterError):
        return {"type": type(cause).__name__, "message": text}
    traceback.print_exception(cause)
    return {"type": "RGClusterError", "message": f"{type(cause).__name__}: {text}"}


def _main() -> None:
    answer: dict[str, str] = {}
    try:
        look(json.loads(sys.argv[1]))
    except Exception as error:
        answer = _told(root_cause(error))
    print(f"{MARK}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    _main()
