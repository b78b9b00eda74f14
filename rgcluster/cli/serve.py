"""`rgcluster serve`: the endpoint on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from rgcluster.cli.early import require_cluster, require_run, workers_ahead

__all__ = ["serve"]

out = Console(highlight=False)


def serve(
    run: Annotated[
        list[str], typer.Option("--run", help="run directory, or NAME=DIRECTORY; may be given several times")
    ],
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 lets other machines in")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="host name that clients may use, besides localhost, IP addresses and --host; "
            "*.example.org allows its subdomains; may be given several times",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML of settings, as under `args` in serve.yaml")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, e.g. limits.samples=8")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the resolved settings, start nothing")
    ] = False,
) -> None:
    """Serve runs over HTTP, with a page to try them; Ctrl-C ends it.

    RGCLUSTER_API_KEY holds the API key that clients must send.
    """
    from rgcluster.base.cluster.job import refuse_relative
    from rgcluster.config import read_yaml
    from rgcluster.serve.settings import named_runs, settings_of, split_run, with_api_key

    for text in run:
        refuse_relative("--run", split_run(text)[1])
    tree = read_yaml(config) if config else {}
    tree["runs"] = {**tree.get("runs", {}), **named_runs(run)}
    if allowed_host:
        tree["allowed_hosts"] = [*tree.get("allowed_hosts", ()), *allowed_host]
    settings = with_api_key(settings_of(tree, set_ or (), str(config or "serve")))
    if dry_run:
        shown = settings.model_dump(mode="json")
        shown["api_key"] = "(set)" if settings.api_key else None
        out.print(yaml.safe_dump(shown, sort_keys=False), end="")
        return
    require_cluster()
    for directory in settings.runs.values():
        require_run(directory)
    out.print("starting; the first answer comes from warm networks", style="dim")
    with workers_ahead(serving=True):
        from rgcluster.serve.deploy.launch import serving, wait_for_signal

        with serving(settings, host, port) as endpoint:
            out.print(f"{endpoint.address}/ serves {', '.join(settings.runs)}; Ctrl-C ends it")
            wait_for_signal()
            out.print("finishing what is under way", style="dim")
