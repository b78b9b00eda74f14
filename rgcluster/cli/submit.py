"""`rgcluster submit`: checks and submits a job to a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["submit"]

messages = Console(stderr=True, highlight=False)


def submit(
    job: Annotated[str, typer.Argument(help="name of a file in jobs/, e.g. pipeline")],
    options: Annotated[
        list[str] | None, typer.Argument(help="options of the job; after -- where submit has them, too")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="address of the dashboard, http://HOST:8265; by default RAY_API_SERVER_ADDRESS or RAY_ADDRESS"
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="submission id; by default made from the job and its run")
    ] = None,
    max_upload_mib: Annotated[
        float, typer.Option(help="largest working directory to upload", min=0.01)
    ] = 64.0,
    working_dir: Annotated[Path, typer.Option(help="directory that is uploaded with the job")] = Path("."),
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the logs until the job ends")] = True,
) -> None:
    """Submit a job: rgcluster submit pipeline -- --run s3://bucket/run. The same command continues or follows it."""
    from rgcluster.cli.jobs import plan_job
    from rgcluster.submission import submit as work

    plan = plan_job(job, options or (), working_dir.resolve(), name)
    client, submission = work.submit(
        plan,
        working_dir.resolve(),
        address,
        max_upload_mib,
        lambda text: messages.print(text, style="dim", soft_wrap=True),
    )
    if not wait:
        return

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        status = work.follow(client, submission, write)
    except KeyboardInterrupt:
        messages.print(f"{submission} continues; `ray job stop {submission}` would end it", soft_wrap=True)
        raise
    raise typer.Exit(status)
