"""Where the stages' processes lie: sums, refusals, and what holds for any cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgcluster.base import session
from rgcluster.base.placement import Node, describe_nodes, pack, place, serving_claims
from rgcluster.config import Config, load_config
from rgcluster.errors import ConfigError


def smoke(*overrides: str) -> Config:
    return load_config("smoke", overrides)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "threads"),
    [
        ([2], 1, 1.0, 2),
        ([2], 2, 0.5, 1),
        ([2, 2, 2], 1, 1.0, 2),
        ([2, 2, 2], 3, 1.0, 2),
        ([8, 8], 4, 2.0, 4),
        ([64, 4], 2, 16.0, 32),
    ],
)
def test_a_workers_share_fits_on_one_machine(
    nodes: list[int], workers: int, cpus: float, threads: int
) -> None:
    placed = place(smoke(f"cluster.workers={workers}"), [Node(count) for count in nodes])
    share = placed.workers["translation"]
    assert (share.workers, share.cpus_per_worker, share.threads) == (workers, cpus, threads)


def test_two_cores_hold_every_stage() -> None:
    placed = place(smoke(), [Node(2)])
    assert {name: (plan.cpus, round(plan.left, 4)) for name, plan in placed.stages.items()} == {
        "translation": (1.0, 1.0),
        "retrieval": (1.0, 1.0),
        "store": (0.3, 1.7),
        "guidance": (1.0, 1.0),
        "evaluation": (1.0, 1.0),
    }
    # Stage 2's worker leaves a core to its generator, stage 3's leaves room to the store.
    assert [placed.workers[stage].threads for stage in ("translation", "retrieval", "guidance")] == [2, 1, 2]
    assert placed.workers["guidance"].cpus_per_worker == 0.8


def test_of_many_gpus_as_many_work_as_the_smallest_batch_has_rows() -> None:
    config = smoke("cluster.gpu=auto", "guidance.batch_size=3")
    assert place(config, [Node(64, 8)]).workers["translation"].workers == 3
    assert place(config, [Node(64, 2)]).workers["translation"].workers == 2


def test_generators_share_their_workers_gpu() -> None:
    placed = place(smoke("retrieval.generators=2"), [Node(8, 1), Node(8, 1)])
    retrieval = placed.workers["retrieval"]
    assert placed.gpu and retrieval.workers == 2
    assert (retrieval.gpus_per_worker, retrieval.gpus_per_generator) == (0.8, 0.1)
    assert retrieval.per_worker["GPU"] == 0.8 and placed.workers["guidance"].gpus_per_worker == 1.0
    many = place(smoke("retrieval.generators=20"), [Node(64, 1)]).workers["retrieval"]
    assert (many.gpus_per_worker, many.gpus_per_generator) == (0.6, 0.02)


def test_workers_with_gpus_take_no_cpus_that_only_other_machines_have() -> None:
    placed = place(smoke(), [Node(64), Node(8, 2)])
    assert placed.workers["translation"].cpus_per_worker == 2.0
    assert placed.workers["translation"].threads == 4


@pytest.mark.parametrize(
    ("nodes", "overrides", "message"),
    [
        (
            [Node(8, 2)],
            ["cluster.workers=4"],
            r"4 workers x 1 GPU = 4 GPUs, the cluster has 2; lower cluster.workers",
        ),
        (
            [Node(2)],
            ["store.shards=20"],
            r"guidance: .*20 store shards x 0.1 \+ 1 to read = 3.05 CPUs, .* 2 ",
        ),
        (
            [Node(2)],
            ["cluster.workers=40"],
            r"translation: 40 workers x 0.05 \+ 1 to read = 3 CPUs, the cluster has 2",
        ),
        ([Node(2)], ["retrieval.generators=9"], r"retrieval: .*9 triplet generators x 0.3"),
        ([], [], r"the cluster has 0"),
        (
            [Node(2)],
            ["cluster.gpu=always"],
            r"cluster.gpu = always: 1 GPUs are needed, the cluster has 0 \(1 node",
        ),
        ([Node(0, 4), Node(16)], [], r"translation: 4 workers"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_sum(
    nodes: list[Node], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        place(smoke(*overrides), nodes)
    assert len(str(told.value).splitlines()) == 1


def test_without_gpus_where_they_are_not_wanted() -> None:
    placed = place(smoke("cluster.workers=4", "cluster.gpu=never"), [Node(8, 2)])
    assert not placed.gpu and all(plan.gpus == 0 for plan in placed.stages.values())


def test_elastic_workers_need_only_the_fewest() -> None:
    config = smoke("cluster.workers=4", "cluster.min_workers=2")
    assert place(config, [Node(8, 2)]).workers["translation"].range == (2, 4)
    with pytest.raises(ConfigError, match="2 workers x 1 GPU"):
        place(config, [Node(8, 1)])


def test_serving_is_packed_like_everything_else() -> None:
    claims = serving_claims(runs=2, fronts=1, translators=1, cpus=0.5, gpus=0.5, shards=4)
    assert pack(claims, [Node(2, 1)]) is not None
    assert pack(claims, [Node(2)]) is None and pack(claims, [Node(1, 1)]) is None


def test_nodes_are_told_by_kind() -> None:
    assert (
        describe_nodes([Node(4), Node(8, 1), Node(8, 1)]) == "2 nodes of 8 CPUs and 1 GPU, 1 node of 4 CPUs"
    )
    assert describe_nodes([]) == "a cluster without CPUs"


NODES = st.lists(
    st.builds(Node, st.integers(0, 64).map(float), st.integers(0, 8).map(float)), min_size=1, max_size=6
)


@given(
    nodes=NODES,
    workers=st.integers(0, 6),
    shards=st.integers(1, 12),
    replicas=st.integers(1, 3),
    generators=st.integers(1, 5),
    trials=st.integers(1, 3),
)
def test_claims_never_exceed_the_cluster(
    nodes: list[Node], workers: int, shards: int, replicas: int, generators: int, trials: int
) -> None:
    config = smoke(
        f"cluster.workers={workers}", f"store.shards={shards}", f"store.replicas={replicas}",
        f"retrieval.generators={generators}",
    )  # fmt: skip
    try:
        placed = place(config, nodes, trials)
    except ConfigError as error:
        assert "lower" in str(error) and len(str(error).splitlines()) == 1
        return
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    for name, plan in placed.stages.items():
        given_ = pack(plan.claims, nodes)
        assert given_ is not None
        for at, node in enumerate(nodes):
            assert (
                sum(claim.cpus * row[at] for claim, row in zip(plan.claims, given_, strict=True))
                <= node.cpus + 1e-6
            )
            assert (
                sum(claim.gpus * row[at] for claim, row in zip(plan.claims, given_, strict=True))
                <= node.gpus + 1e-6
            )
        assert [sum(row) for row in given_] == [claim.count for claim in plan.claims]
        assert plan.cpus <= cpus + 1e-6 and plan.gpus <= gpus + 1e-6
        assert plan.left >= (0.2 if name == "evaluation" else min(1.0, cpus / 2)) - 1e-6
    for share in placed.workers.values():
        assert not share.gpu or share.gpus_per_worker > 0.5
        assert share.threads >= 1 and share.cpus_per_worker > 0


def test_machines_of_the_cluster_and_those_that_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    label = {"ray.io/node-group": "gpu"}
    nodes: list[dict[str, Any]] = [
        {"Alive": True, "Resources": {"CPU": 4.0}, "Labels": {}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}, "Labels": label},
        {"Alive": False, "Resources": {"CPU": 64.0}, "Labels": {}},
        {"Alive": True, "Resources": {}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr(session, "autoscaler_node_groups", lambda: [])
    assert session.cluster_nodes() == [Node(4), Node(8, 1)]
    group = SimpleNamespace(name="gpu", max_count=3, resources={"CPU": 8, "GPU": 1, "memory": 10})
    monkeypatch.setattr(session, "autoscaler_node_groups", lambda: [group])
    assert session.cluster_nodes() == [Node(4), Node(8, 1), Node(8, 1), Node(8, 1)]


def test_this_machine_can_be_planned_for() -> None:
    (node,) = session.this_machine()
    assert node.cpus >= 1 and node.gpus >= 0
