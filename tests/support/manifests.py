"""KubeRay manifests, checked without a cluster: field by field against what KubeRay 1.6 and Kubernetes know.

The fields of `ray.io/v1` are listed here; pods are checked against the models of the Kubernetes client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes.client import models

__all__ = ["Bad", "check", "containers", "groups"]

CLUSTER: dict[str, Any] = {
    "rayVersion": str,
    "authOptions": {"mode": ("token", "disabled"), "secretName": str, "enableK8sTokenAuth": bool},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "resources": "V1ResourceRequirements",
        "image": str,
        "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
        "securityContext": "V1SecurityContext",
        "idleTimeoutSeconds": int,
        "upscalingMode": ("Default", "Conservative", "Aggressive"),
        "version": ("v1", "v2"),
        "env": "list[V1EnvVar]",
        "envFrom": "list[V1EnvFromSource]",
        "volumeMounts": "list[V1VolumeMount]",
    },
    "headServiceAnnotations": "dict(str, str)",
    "suspend": bool,
    "managedBy": str,
    "headGroupSpec": {
        "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"),
        "headService": "V1Service",
        "enableIngress": bool,
        "rayStartParams": "dict(str, str)",
        "template": "V1PodTemplateSpec",
    },
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "numOfHosts": int,
            "idleTimeoutSeconds": int,
            "suspend": bool,
            "rayStartParams": "dict(str, str)",
            "template": "V1PodTemplateSpec",
        }
    ],
}
JOB: dict[str, Any] = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "metadata": "dict(str, str)",
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    "submitterPodTemplate": "V1PodTemplateSpec",
    "submitterConfig": {"backoffLimit": int},
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "suspend": bool,
    "managedBy": str,
    "clusterSelector": "dict(str, str)",
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "rayClusterSpec": CLUSTER,
}
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB}
REQUIRED = {
    "RayCluster": ("headGroupSpec", "rayVersion"),
    "RayJob": ("entrypoint", "rayClusterSpec"),
}
PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
    "datetime": (str,),
}


class Bad(Exception):
    """A manifest that an API server would refuse, or the operator misread."""


def check(manifest: Mapping[str, Any]) -> None:
    """Raise Bad where the manifest is no RayCluster or RayJob of `ray.io/v1` with known fields alone."""
    if set(manifest) != {"apiVersion", "kind", "metadata", "spec"}:
        raise Bad(f"fields {sorted(manifest)}")
    if manifest["apiVersion"] != "ray.io/v1" or manifest["kind"] not in KINDS:
        raise Bad(f"{manifest['apiVersion']} {manifest['kind']}")
    if not manifest["metadata"].get("name"):
        raise Bad("metadata.name is missing")
    _model("V1ObjectMeta", manifest["metadata"], "metadata")
    spec = manifest["spec"]
    for name in REQUIRED[manifest["kind"]]:
        if name not in spec:
            raise Bad(f"spec.{name} is missing")
    _fields(KINDS[manifest["kind"]], spec, "spec")
    for name, group in groups(manifest):
        _group(name, group)


def groups(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and specification of the head and of every group of workers."""
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    yield "head", spec["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["groupName"], group


def containers(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of its group and every container."""
    for name, group in groups(manifest):
        for container in group["template"]["spec"]["containers"]:
            yield name, container


def _group(name: str, group: Mapping[str, Any]) -> None:
    if "rayStartParams" not in group:
        raise Bad(f"{name}: rayStartParams is missing")
    if name != "head" and not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
        raise Bad(f"{name}: minReplicas <= replicas <= maxReplicas does not hold")
    pod = group["template"]["spec"]
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        resources = container.get("resources", {})
        if not resources.get("requests") or resources.get("requests") != resources.get("limits"):
            raise Bad(f"{name}: a Ray container's requests and limits must be given and equal")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                raise Bad(f"{name}: no volume {mount['name']}")


def _fields(known: Mapping[str, Any], found: Any, where: str) -> None:
    if not isinstance(found, dict):
        raise Bad(f"{where}: expected fields")
    for name, value in found.items():
        if name not in known:
            raise Bad(f"{where}.{name}: no such field")
        _value(known[name], value, f"{where}.{name}")


def _value(kind: Any, value: Any, where: str) -> None:
    if isinstance(kind, dict):
        _fields(kind, value, where)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise Bad(f"{where}: expected a list")
        for number, item in enumerate(value):
            _value(kind[0], item, f"{where}[{number}]")
    elif isinstance(kind, tuple):
        if value not in kind:
            raise Bad(f"{where}: {value!r} is none of {', '.join(kind)}")
    elif isinstance(kind, type):
        _value(kind.__name__, value, where)
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind not in ("bool", "object")):
            raise Bad(f"{where}: {value!r} is no {kind}")
    elif inner := re.fullmatch(r"list\[(.*)\]", kind, re.IGNORECASE):
        _value([inner[1]], value, where)
    elif inner := re.fullmatch(r"dict[(\[]str, (.*)[)\]]", kind, re.IGNORECASE):
        if not isinstance(value, dict):
            raise Bad(f"{where}: expected names and values")
        for name, item in value.items():
            _value("str", name, where)
            _value(inner[1], item, f"{where}.{name}")
    else:
        _model(kind, value, where)


def _model(name: str, value: Any, where: str) -> None:
    """Check a value against a model of the Kubernetes client: its fields, their types, what must be there."""
    model = getattr(models, name)
    if not isinstance(value, dict):
        raise Bad(f"{where}: expected fields")
    own = {outside: inside for inside, outside in model.attribute_map.items()}
    for field, item in value.items():
        if field not in own:
            raise Bad(f"{where}.{field}: no such field of {name}")
        _value(model.openapi_types[own[field]], item, f"{where}.{field}")
    try:
        model(**{own[field]: item for field, item in value.items()})
    except ValueError as error:
        raise Bad(f"{where}: {error}") from None
