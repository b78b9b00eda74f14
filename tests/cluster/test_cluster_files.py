"""The files for clusters, without one: Ray's own schema, KubeRay's and Kubernetes' fields, the image."""

from __future__ import annotations

import copy
import fnmatch
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lines import BadLine, job_command
from manifests import Bad, check, containers, groups
from packaging.requirements import Requirement
from places import PROJECT

CLUSTER = PROJECT / "docs" / "cluster"
LAUNCHERS = [PROJECT / "cluster.yaml", CLUSTER / "local.yaml", CLUSTER / "gcp.yaml"]
MANIFESTS = [CLUSTER / "kuberay-raycluster.yaml", CLUSTER / "kuberay-rayjob.yaml"]

INSTRUCTIONS = {
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER",
    "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip

Mapping = dict[str, Any]


def load(path: Path) -> Mapping:
    return yaml.safe_load(path.read_text())


def validate(config: Mapping) -> Mapping:
    """What `ray up` does with a file before it asks the provider for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def commands_of(config: Mapping) -> str:
    return " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])


# --- Ray's launcher


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_launcher_files_pass_rays_own_schema(path: Path) -> None:
    prepared = validate(load(path))
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config.update(max_worker=3),
        lambda config: config["provider"].update(type="amazon"),
        lambda config: config.update(setup_commands="pip install ray"),
        lambda config: config["auth"].update(user="me"),
    ],
    ids=["unknown key", "unknown provider", "no list", "unknown key below"],
)
def test_a_spoilt_launcher_file_fails(path: Path, spoil: Callable[[Mapping], None]) -> None:
    config = load(path)
    spoil(config)
    with pytest.raises(Exception):  # noqa: B017 - jsonschema's, Ray's or a KeyError
        validate(config)


@pytest.mark.parametrize("path", [LAUNCHERS[0], LAUNCHERS[2]], ids=lambda path: path.name)
def test_clouds_have_a_head_without_gpu_and_workers_that_scale_and_come_back(path: Path) -> None:
    prepared = validate(load(path))
    types = dict(prepared["available_node_types"])
    head = types.pop(prepared["head_node_type"])
    assert not head["resources"].get("GPU")
    assert sum(kind["max_workers"] for kind in types.values()) <= prepared["max_workers"]
    assert all(kind["min_workers"] < kind["max_workers"] for kind in types.values())
    spot = types["gpu-spot"]["node_config"]
    assert (
        spot.get("InstanceMarketOptions") == {"MarketType": "spot"}
        or {"preemptible": True} in spot["scheduling"]
    )
    assert spot.get("InstanceType") == types["gpu"]["node_config"].get("InstanceType")
    bad = copy.deepcopy(load(path))
    bad["head_node_type"] = "heads"
    with pytest.raises(ValueError, match="head_node_type"):
        validate(bad)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_clusters_start_with_a_token_and_a_dashboard_that_only_the_head_reaches(path: Path) -> None:
    config = load(path)
    starts = [line for line in re.split(r"[;]|&&", commands_of(config)) if "ray start" in line]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in commands_of(config) and "0.0.0.0" not in commands_of(config)
    assert "~/.ray/auth_token" in config["file_mounts"].values()


def test_options_of_ray_start_exist() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for path in LAUNCHERS:
        used = set(re.findall(r"(--[a-z-]+)", commands_of(load(path))))
        assert used and used <= known, used - known
    assert "--metrics-export-prot" not in known


def test_what_to_change_is_said() -> None:
    for path in (*LAUNCHERS, *MANIFESTS):
        assert path.read_text().count("change:") >= 3
    text = LAUNCHERS[0].read_text()
    for word in ("region", "InstanceType", "ImageId", "bucket", "instance-profile", "RAY_AUTH_MODE=token"):
        assert word in text


def test_machines_get_the_wheel_that_make_builds() -> None:
    recipe = re.search(r"^wheel:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    mounted = load(LAUNCHERS[0])["file_mounts"]["/home/ubuntu/dist"]
    assert recipe and f"--wheel-dir {mounted} " in recipe[1]
    extras = set(re.findall(r"whl\)\[(\w+)\]", LAUNCHERS[0].read_text()))
    assert extras == {"cpu", "gpu"} <= set(project()["optional-dependencies"])


# --- KubeRay


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_hold_known_fields_alone(path: Path) -> None:
    check(load(path))
    assert any(name != "head" for name, _ in groups(load(path)))


def cluster_of(manifest: Mapping) -> Mapping:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


def head_container(manifest: Mapping) -> Mapping:
    return cluster_of(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]


def worker(manifest: Mapping) -> Mapping:
    return cluster_of(manifest)["workerGroupSpecs"][0]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.update(apiVersion="ray.io/v1alpha1"), "v1alpha1"),
        (lambda m: m.update(kind="RayService"), "RayService"),
        (lambda m: m["metadata"].pop("name"), "metadata.name"),
        (lambda m: m["spec"].update(entryPoint="x"), "no such field"),
        (lambda m: cluster_of(m).pop("headGroupSpec"), "headGroupSpec|KeyError"),
        (lambda m: cluster_of(m)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "is no str"),
        (lambda m: cluster_of(m)["authOptions"].update(mode="tokens"), "none of token"),
        (lambda m: head_container(m).pop("name"), "name"),
        (lambda m: head_container(m).update(imagePullpolicy="Always"), "no such field of V1Container"),
        (lambda m: head_container(m)["ports"][0].update(containerPort="6379"), "is no int"),
        (lambda m: head_container(m)["resources"]["limits"].update(cpu="4"), "equal"),
        (lambda m: head_container(m)["volumeMounts"][0].update(name="shmem"), "no volume"),
        (lambda m: worker(m)["template"]["spec"]["containers"][0].pop("resources"), "equal"),
        (lambda m: worker(m).update(replicas=99), "minReplicas"),
        (lambda m: worker(m)["template"]["spec"]["tolerations"][0].update(efect="x"), "V1Toleration"),
    ],
)  # fmt: skip
def test_a_spoilt_manifest_fails(path: Path, spoil: Callable[[Mapping], None], words: str) -> None:
    manifest = copy.deepcopy(load(path))
    spoil(manifest)
    with pytest.raises((Bad, KeyError)) as caught:
        check(manifest)
    assert re.search(words, f"{caught.type.__name__} {caught.value}")


def test_all_pods_run_one_image_and_only_workers_have_gpus() -> None:
    found = [item for path in MANIFESTS for item in containers(load(path))]
    assert len({container["image"] for _, container in found}) == 1
    for name, container in found:
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name != "head")
    assert found[0][1]["image"] == load(CLUSTER / "gcp.yaml")["docker"]["image"]


def test_ray_is_the_version_that_the_project_allows() -> None:
    ray = next(
        requirement
        for requirement in map(Requirement, project()["dependencies"])
        if requirement.name == "ray"
    )
    for path in MANIFESTS:
        version = cluster_of(load(path))["rayVersion"]
        assert version in ray.specifier
        assert version.rsplit(".", 1)[0] == next(s.version for s in ray.specifier if s.operator == ">=")
    assert "2.59.1" not in ray.specifier and "3.0.0" not in ray.specifier


def test_the_job_is_one_of_ours_and_lies_in_the_image() -> None:
    entrypoint = load(MANIFESTS[1])["spec"]["entrypoint"]
    assert job_command(entrypoint) == "demo"
    folder = Path(shlex.split(entrypoint)[1]).parent
    assert ["jobs", str(folder)] in [words for name, words in instructions(dockerfile()) if name == "COPY"]
    for bad in (entrypoint.replace("pipeline", "pipelines"), entrypoint.replace("--preset", "--prest")):
        with pytest.raises(BadLine):
            job_command(bad)


# --- the image


def project() -> Mapping:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def dockerfile() -> str:
    return (CLUSTER / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, list[str]]]:
    """The instructions of a Dockerfile and their words; ValueError where a line is none."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        name, _, rest = line.partition(" ")
        if name not in INSTRUCTIONS or not rest.strip():
            raise ValueError(f"not an instruction: {line}")
        found.append((name, shlex.split(rest)))
    if [name for name, _ in found if name != "ARG"][:1] != ["FROM"]:
        raise ValueError("does not begin with FROM")
    return found


def let_in(path: str, ignore: str) -> bool:
    """Whether a .dockerignore lets a path below the root into the build: the last rule that fits decides."""
    kept = True
    for rule in filter(None, (line.strip() for line in ignore.splitlines() if not line.startswith("#"))):
        pattern = rule.lstrip("!").removeprefix("**/")
        parents = [path, *map(str, Path(path).parents)]
        names = Path(path).parts if rule.lstrip("!").startswith("**/") else parents
        if any(fnmatch.fnmatch(name, pattern) for name in names if name != "."):
            kept = rule.startswith("!")
    return kept


def test_the_dockerfile_parses_and_copies_what_exists() -> None:
    found = instructions(dockerfile())
    ignore = (PROJECT / ".dockerignore").read_text()
    sources = [word for name, words in found if name == "COPY" for word in words[:-1] if word[:2] != "--"]
    assert len(sources) == 5
    for source in sources:
        assert (PROJECT / source).exists() and let_in(source, ignore), source
    for bad in ("FORM python:3.11\n", "RUN\n", "COPY a b\nFROM x\n"):
        with pytest.raises(ValueError):
            instructions(bad)


def test_the_image_is_slim_holds_an_extra_and_belongs_to_no_root() -> None:
    found = instructions(dockerfile())
    names = [name for name, _ in found]
    assert dict(found)["FROM"] == ["python:${PYTHON}-slim"]
    arguments = dict(word.split("=") for name, words in found if name == "ARG" for word in words)
    assert arguments["EXTRA"] in project()["optional-dependencies"]
    python = Requirement(f"python{project()['requires-python']}")
    assert f"{arguments['PYTHON']}.0" in python.specifier
    assert [words for name, words in found if name == "RUN" and "/tmp/source[${EXTRA}]" in words]
    users = [words for name, words in found if name == "USER"]
    assert users == [["rgcluster"]] and "RUN" not in names[names.index("USER") :]


def test_no_data_enters_the_image() -> None:
    ignore = (PROJECT / ".dockerignore").read_text()
    for path in (
        "runs/demo/config.yaml",
        "data/x.jpg",
        ".git/config",
        "tests/conftest.py",
        ".venv/bin/python",
    ):
        assert not let_in(path, ignore), path
    assert not let_in("rgcluster/__pycache__/x.pyc", ignore)
    assert let_in("rgcluster/presets/demo.yaml", ignore) and let_in("runs/x", "data\n")
    copied = {word for name, words in instructions(dockerfile()) if name == "COPY" for word in words}
    assert "." not in copied
