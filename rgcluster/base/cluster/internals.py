"""What this package uses of other libraries' private parts, because the public ones have no equivalent.

Read in the sources of Ray 2.60, Starlette 1.10 and torch 2.14; each function says what to look for when another
version moves it.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from ray.data import DataContext
    from ray.data._internal.execution.execution_callback import ExecutionCallback

__all__ = [
    "autoscaler_node_groups",
    "cluster_version",
    "has_fast_bf16",
    "ids_from_the_system",
    "is_preempted",
    "last_cluster",
    "lerp_all",
    "num_cpus_here",
    "pack_directory",
    "pace_streams",
    "quiet_driver",
    "quiet_tokens",
    "routed_path",
    "run_exit_handlers",
    "shut_serve_down",
    "times_restarted",
    "uncompiled",
    "walk_directory",
    "without_helpers",
    "without_idle_actors",
]

_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
SERVE_ENDS_S = 30.0
"""How long Serve's controller may take to end."""


@contextmanager
def quiet_driver() -> Iterator[None]:
    """Keep the C++ part of a driver that connects within the body from printing internal messages.

    Ray reads the level from the environment, which the processes that `ray.init` starts get, too; theirs must stay.
    So it is set while `ray._private.worker.connect` runs, which comes after they were started. Ray says so in a
    line on stderr, which is left out.
    """
    from unittest import mock  # imports asyncio, for which `rgcluster --help` need not wait

    from ray._private import worker

    connect = worker.connect

    def quietly(*args: Any, **options: Any) -> Any:
        if _LOG_LEVEL in os.environ:
            return connect(*args, **options)
        with mock.patch.dict(os.environ, {_LOG_LEVEL: "fatal"}), _without_lines(_LOG_LEVEL.encode()):
            return connect(*args, **options)

    with mock.patch.object(worker, "connect", quietly):
        yield


@contextmanager
def _without_lines(mark: bytes) -> Iterator[None]:
    """Hold back what is written to the file descriptor of stderr; then write all lines but those with the mark."""
    try:
        sys.stderr.flush()
        real = os.dup(2)
    except OSError:  # a daemon without stderr
        yield
        return
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(real, 2)
                held.seek(0)
                lines = [line for line in held if mark not in line]
                if lines:
                    os.write(2, b"".join(lines))
    finally:
        os.close(real)


@contextmanager
def without_helpers(*, exporter: bool) -> Iterator[None]:
    """Leave out what `ray.init` within the body would start, and wait for, though a cluster of one machine has no use.

    That is the dashboard's process, which comes up even where no dashboard is wanted, the monitor of logs and the
    autoscaler's. Without `exporter` the node's agent is the one of a Ray without extras: it exports no metrics, and is
    there in a fraction of the time (`ray._private.node.Node`, `get_dashboard_dependency_error` in
    `ray._private.utils`).
    """
    from unittest import mock

    from ray._private import utils
    from ray._private.node import Node

    with ExitStack() as changes:
        for name in ("start_api_server", "start_log_monitor", "start_monitor"):
            if hasattr(Node, name):
                changes.enter_context(mock.patch.object(Node, name, lambda *_, **__: None))
        if not exporter and hasattr(utils, "get_dashboard_dependency_error"):
            left_out = ImportError("left out")
            changes.enter_context(
                mock.patch.object(utils, "get_dashboard_dependency_error", lambda: left_out)
            )
        yield


def num_cpus_here() -> float:
    """Return the CPUs that a cluster started on this machine would have (`ray._private.utils`)."""
    from ray._private.utils import get_num_cpus

    return float(get_num_cpus())


def last_cluster() -> str:
    """Return the address of the cluster that runs here or was started here last; ConnectionError where there is none.

    It may have ended: Ray leaves the address of a cluster that was killed behind (`ray._private.services`).
    """
    from ray._private.services import canonicalize_bootstrap_address

    address = canonicalize_bootstrap_address("auto")
    if address is None:
        raise ConnectionError("none was started")
    return address


def cluster_version(address: str, timeout_s: float) -> str:
    """Return the version of Ray of the cluster at `address`.

    PermissionError where it wants another token, ConnectionError where no cluster answers. `ray.init` would try for
    half a minute (`ray._private.grpc_utils`, `NodeInfoGcsService` in `ray.core.generated`).
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    with init_grpc_channel(address) as channel:
        try:
            answer = NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            refused = error.code() == grpc.StatusCode.UNAUTHENTICATED
            raise (PermissionError if refused else ConnectionError)(error.details()) from None
    return str(answer.ray_version)


def autoscaler_node_groups() -> list[Any]:
    """Return the kinds of machines that an autoscaler may add, none where there is no autoscaler.

    `ray.nodes()` knows only those that are there (`ray._private.state`).
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    return list(config.node_group_configs) if config is not None else []


def times_restarted(actor_id: str | None) -> int:
    """Return how often Ray restarted an actor; the public API tells only whether it did (`ray._private.state`)."""
    from ray._private.state import actors

    return int(actors(actor_id)["NumRestarts"])


def is_preempted() -> bool:
    """Return whether Ray told this Train worker that a machine of its group is about to be taken away.

    `ray.train.get_preemption_info` is a barrier over all workers, too slow for every step
    (`ray.train.v2._internal.execution.context`).
    """
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info is not None
    except (RuntimeError, ImportError, AttributeError):  # no worker of Ray Train, or of another version
        return False


@contextmanager
def uncompiled(network: torch.nn.Module) -> Iterator[None]:
    """Let calls of the network run its own code, though `network.compile` was called (`_compiled_call_impl`).

    `torch.compiler.set_stance` would concern every thread.
    """
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    try:
        yield
    finally:
        network._compiled_call_impl = compiled


def without_idle_actors(trainer: Any, *, by_driver: bool) -> None:
    """Keep Ray Train from starting actors that have nothing to do, whose imports take seconds of the workers' cores.

    One is for data sets, of which the trainer was given none; its callback also gives the driver's `DataContext` to
    the workers, where this package configures its own. Another frees the workers' placement group after a controller
    that was killed: where a driver itself fits the trainer, it ends with that error, and Ray frees the group
    (`DataParallelTrainer._create_default_callbacks`, `ray.train.v2._internal.callbacks`).
    """
    with suppress(ImportError, AttributeError):
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

        idle = (DatasetsCallback, PlacementGroupCleanerCallback) if by_driver else DatasetsCallback
        create = trainer._create_default_callbacks
        trainer._create_default_callbacks = lambda: [
            callback for callback in create() if not isinstance(callback, idle)
        ]


def quiet_tokens() -> None:
    """Keep Ray from saying on every start that its tokens are on (`ray._private.authentication`)."""
    name = "ray._private.authentication.authentication_token_setup"
    logging.getLogger(name).setLevel(logging.ERROR)


_packaging_log = logging.getLogger("rgcluster.upload")
_packaging_log.setLevel(logging.ERROR)


def walk_directory(directory: Path, note: Callable[[Path], None], gitignore: bool) -> None:
    """Call `note` with every path that Ray would upload of a job's directory (`ray._private.runtime_env.packaging`)."""
    from ray._private.runtime_env import packaging

    packaging._dir_travel(directory, [], note, include_gitignore=gitignore, logger=_packaging_log)


def pack_directory(directory: Path, target: Path, gitignore: bool) -> None:
    """Write what Ray would upload of a job's directory as a zip file (`ray._private.runtime_env.packaging`)."""
    from ray._private.runtime_env import packaging

    packaging.create_package(str(directory), target, include_gitignore=gitignore, logger=_packaging_log)


def routed_path(scope: Mapping[str, Any]) -> str:
    """Return the path that Starlette's router compares, without the root path (`starlette._utils`)."""
    from starlette._utils import get_route_path

    return get_route_path(scope)  # type: ignore[arg-type]


def shut_serve_down() -> None:
    """Shut Serve down without a line of Ray's on the controller, which ends during the call that asks it to.

    Ray would say that it retries the call for ever, so the call is made without retries before Serve's own
    (`ray.serve._private.client.ServeControllerClient.shutdown`), which finds the controller gone.
    """
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        client.shutdown_cached_handles()
        ending = client._controller.graceful_shutdown.options(max_task_retries=0).remote()
        with suppress(ray.exceptions.RayActorError, TimeoutError):
            ray.get(ending, timeout=SERVE_ENDS_S)
    serve.shutdown()


@contextmanager
def ids_from_the_system() -> Iterator[None]:
    """Let classes that become actors within the body take their ids from the system, not from Ray's generator.

    A process that forks must not have used that generator: its forks would all go on with the same numbers, and give
    the same ids to what they make (`ray.actor.ActorClassID`).
    """
    actor = sys.modules.get("ray.actor")
    ids: Any = getattr(actor, "ActorClassID", None)
    if ids is None:
        yield
        return

    class FromSystem:
        @staticmethod
        def from_random() -> Any:
            return ids(os.urandom(ids.size()))

    vars(actor)["ActorClassID"] = FromSystem
    try:
        yield
    finally:
        vars(actor)["ActorClassID"] = ids


def run_exit_handlers() -> None:
    """Call what was registered with `atexit`, in a process that will end without it (`atexit._run_exitfuncs`)."""
    atexit._run_exitfuncs()


def pace_streams(context: DataContext, seconds: float) -> None:
    """Make the control loops of Ray Data begin a round at most every `seconds`.

    A loop waits for output of its tasks. Where all of them have some that it may not read yet, since the consumer is
    slower, that wait ends at once, and the loop takes half a core and Python's lock from the training beside it
    (`process_completed_tasks` in `ray.data._internal.execution.streaming_executor_state`).
    """
    pace, classes = _pace(seconds), context.custom_execution_callback_classes
    if pace not in classes:
        classes.append(pace)


@functools.cache
def _pace(seconds: float) -> type[ExecutionCallback]:
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Pace(ExecutionCallback):
        begun = 0.0

        def on_execution_step(self, executor: object) -> None:
            time.sleep(max(0.0, self.begun + seconds - time.monotonic()))
            self.begun = time.monotonic()

    return Pace


def has_fast_bf16() -> bool:
    """Return whether this CPU multiplies bf16 itself, with AMX or AVX-512 (`torch.cpu`)."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def lerp_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], weight: float) -> None:
    """Move every target in place towards its source by a share, in one call for all (`torch._foreach_lerp_`)."""
    import torch

    torch._foreach_lerp_(list(targets), list(sources), weight)
