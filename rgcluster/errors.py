"""Every error that rgcluster raises on purpose.

    RGClusterError            exit status 1: the work failed
    ├── TrainingDiverged      a loss is NaN, infinite or beyond its limit
    ├── OutOfMemory           the networks and a batch do not fit in memory
    ├── ExportMismatch        an exported translator computes something else
    ├── CollectiveStalled     a worker waited too long for the others
    ├── ClusterUnavailable    Ray did not start on this machine
    ├── StoreUnavailable      a shard did not answer in time, or not at all
    │   └── StaleGeneration   the store was replaced meanwhile; the client asks again
    ├── SomeFailed            some of several inputs are at fault; the others are done
    ├── StorageError          no space, or no permission, to write a file
    │   └── WriterConflict    another process has the right to write
    ├── LeaseLost             another process took over what this one was changing
    ├── Terminated            the process was asked to end (exit status 143, as after SIGTERM)
    ├── EndpointError         an endpoint did not answer, or failed
    └── UserError             exit status 2: the input must change
        ├── ConfigError       a key or a value of the configuration
        │   └── TargetError   a target domain: UnknownAttribute, ContradictoryTarget
        ├── DataError         a folder, an attribute file, an image, a shard
        │   └── UnknownId     an id that the store does not hold
        ├── RequestRefused    an endpoint said what is wrong with a request
        ├── RunConflict       a run directory made by another configuration
        ├── LeaseHeld         another process is changing the same directory
        └── CheckpointError   missing, corrupt, or made for other networks
            └── StoreMismatch a store embedded by other networks
        └── TooFewNeighbours  more neighbours requested than the store has

A message is one line: what is wrong (file, row or key), then the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "CheckpointError",
    "ClusterUnavailable",
    "CollectiveStalled",
    "ConfigError",
    "ContradictoryTarget",
    "DataError",
    "EndpointError",
    "ExportMismatch",
    "LeaseHeld",
    "LeaseLost",
    "OutOfMemory",
    "RGClusterError",
    "RequestRefused",
    "RunConflict",
    "SomeFailed",
    "StorageError",
    "StaleGeneration",
    "StoreMismatch",
    "StoreUnavailable",
    "TargetError",
    "Terminated",
    "TooFewNeighbours",
    "TrainingDiverged",
    "UnknownAttribute",
    "UnknownId",
    "UserError",
    "WriterConflict",
    "causes",
    "cut",
    "quoted",
    "root_cause",
]

QUOTED = 60
"""Characters of a value that a message shows."""


class RGClusterError(Exception):
    """Base of every deliberate error."""

    exit_status = 1


class TrainingDiverged(RGClusterError):
    """A loss became NaN, infinite or larger than its limit."""


class OutOfMemory(RGClusterError):
    """The networks and a batch do not fit in the memory of the device or the machine."""


class ExportMismatch(RGClusterError):
    """An exported translator does not compute what the original does."""


class CollectiveStalled(RGClusterError):
    """A worker waited longer for the others than a collective may take."""


class ClusterUnavailable(RGClusterError):
    """Ray did not start on this machine."""


class StoreUnavailable(RGClusterError):
    """A shard of the store did not answer within the time-out."""


class StaleGeneration(StoreUnavailable):
    """The snapshot that a call meant is no longer served."""


class SomeFailed(RGClusterError):
    """Some of several inputs are at fault, each with its message; the others are done."""


class StorageError(RGClusterError):
    """A file could not be written."""


class WriterConflict(StorageError):
    """Another process has, or has taken over, the right to write."""


class LeaseLost(RGClusterError):
    """Another process took over what this one was changing."""


class Terminated(RGClusterError):
    """The process was asked to end, and ended in good order."""

    exit_status = 143


class EndpointError(RGClusterError):
    """An endpoint did not answer, or failed."""


class UserError(RGClusterError):
    """The input is at fault; the message names the remedy."""

    exit_status = 2


class ConfigError(UserError):
    """An unknown key or a value out of range."""


class TargetError(ConfigError):
    """A target domain does not fit the attributes; `reason` is the message without the option's name."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)  # both, so that the error can be pickled
        self.target, self.reason = target, reason

    def __str__(self) -> str:
        return f"--to {cut(self.target)}: {self.reason}"


class UnknownAttribute(TargetError):
    """A target names an attribute that the model does not have."""


class ContradictoryTarget(TargetError):
    """A target sets attributes that exclude each other, or sets and clears the same one."""


class DataError(UserError):
    """Missing, corrupt or unfitting data."""


class UnknownId(DataError):
    """The store does not hold an image with this id."""


class RequestRefused(UserError):
    """An endpoint found a request at fault; the message is its own, `field` the part of the request, if it says."""

    field: str | None = None


class RunConflict(UserError):
    """The run directory belongs to another configuration."""


class LeaseHeld(UserError):
    """Another process is changing the same directory."""


class CheckpointError(UserError):
    """A checkpoint is missing, corrupt or made for other networks."""


class StoreMismatch(CheckpointError):
    """The store was embedded by other networks than the loaded ones."""


class TooFewNeighbours(UserError):
    """More neighbours were requested than the store has."""


def quoted(value: object, limit: int = QUOTED) -> str:
    """Return a value as a message shows it: its representation, cut where it is long."""
    return cut(repr(value), limit)


def cut(text: str, limit: int = QUOTED) -> str:
    """Return a text as a message shows it: cut where it is long."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def root_cause(error: BaseException) -> BaseException:
    """Return the deliberate error inside `error`, else the first that is none of Ray's, or `error` itself.

    Ray wraps what a task, an actor or a Train worker raised, several layers
    deep; this walks causes, contexts and per-worker failures.
    """
    for inner in causes(error):
        # Ray makes a class that is both its own and ours, whose text is a traceback: take the one inside.
        if isinstance(inner, RGClusterError) and type(inner).__module__ == __name__:
            return inner
    return next((inner for inner in causes(error) if not type(inner).__module__.startswith("ray.")), error)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and every error inside it."""
    yield from _walk(error, set())


def _walk(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    failures = getattr(error, "worker_failures", None)
    wrapped = list(failures.values()) if isinstance(failures, dict) else []
    wrapped += [getattr(error, name, None) for name in ("cause", "base_exc")]
    for inner in [*wrapped, error.__cause__, error.__context__]:
        if isinstance(inner, BaseException):
            yield from _walk(inner, seen)
