"""The Grafana dashboard: every metric it draws is one that the code declares, or one of Ray's own."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import ray
from places import PROJECT

import rgcluster

FILE = PROJECT / "docs" / "cluster" / "grafana.json"

FROM_RAY = {
    "ray_data_output_rows",
    "ray_node_cpu_count",
    "ray_node_cpu_utilization",
    "ray_node_gpus_available",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_mem_total",
    "ray_node_mem_used",
    "ray_node_network_send_speed",
    "ray_object_store_memory",
    "ray_serve_deployment_replica_healthy",
}
"""Ray's metrics that the dashboard draws; Ray's own dashboards draw them, too."""

SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


@lru_cache
def dashboard() -> dict:
    return json.loads(FILE.read_text())


def panels() -> list[dict]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def declared(sources: Iterator[str]) -> set[str]:
    """Names under which Ray exports what the sources declare as Counter, Gauge or Histogram."""
    names = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            kind = getattr(getattr(node, "func", None), "id", None) or getattr(
                getattr(node, "func", None), "attr", None
            )
            if not isinstance(node, ast.Call) or kind not in SUFFIXES or not node.args:
                continue
            name = getattr(node.args[0], "value", None)
            assert isinstance(name, str), f"a {kind} whose name is no plain string: {ast.unparse(node)}"
            names |= {f"ray_{name}{suffix}" for suffix in SUFFIXES[kind]}
    return names


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\bray_[a-z0-9_]+", expression))


def unknown(expressions: Iterator[str], known: set[str]) -> set[str]:
    return {name for expression in expressions for name in metrics_of(expression)} - known


def ours() -> set[str]:
    sources = (path.read_text() for path in Path(rgcluster.__file__).parent.rglob("*.py"))
    return declared(source for source in sources if "ray.util.metrics" in source)


def expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def test_every_metric_is_declared_by_the_code_or_rays() -> None:
    assert not unknown(expressions(), ours() | FROM_RAY)
    assert unknown(iter(["rate(ray_rgcluster_queue_total[1m])", "ray_nodes"]), ours() | FROM_RAY) == {
        "ray_rgcluster_queue_total",
        "ray_nodes",
    }


def test_rays_metrics_are_those_that_its_own_dashboards_draw() -> None:
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    drawn = {name for path in folder.glob("*.py") for name in metrics_of(path.read_text())}
    assert drawn >= FROM_RAY and "ray_nodes_total" not in drawn
    assert FROM_RAY <= {name for text in expressions() for name in metrics_of(text)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "Training",
            ("train_step", "train_steps", "images_per_second", "train_loss", "wait_seconds", "peak_memory"),
        ),
        ("Store", ("queries", "search_seconds", "vectors", "memory", "restarts", "request_seconds")),
        ("Serving", ("request_seconds", "batch_rows", "queue", "errors")),
        ("Machines", ("cpu_utilization", "gpus_utilization", "mem_used", "object_store")),
    ],
)
def test_rows_hold_what_an_operator_watches(row: str, words: tuple[str, ...]) -> None:
    drawn: dict[str, str] = {}
    title = ""
    for panel in dashboard()["panels"]:
        title = panel["title"] if panel["type"] == "row" else title
        drawn[title] = drawn.get(title, "") + " ".join(t["expr"] for t in panel.get("targets", []))
    for word in words:
        assert word in drawn[row]


def test_panels_have_ids_places_and_variables_that_exist() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    known = {variable["name"] for variable in dashboard()["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", FILE.read_text())) <= known | {"__all"}
    for expression in expressions():
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count(
            "}"
        )
