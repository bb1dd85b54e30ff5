"""What Kubernetes takes of the kinds that an export writes, as JSON schemas: the fields that are used, and no others.

Written anew after the definitions:
- LeaderWorkerSet: config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml of kubernetes-sigs/lws at 060ab4d;
  pods and containers are those of the Kubernetes API, which this file embeds.
- DynamoGraphDeployment `nvidia.com/v1beta1`: deploy/operator/api/v1beta1/common.go of ai-dynamo/dynamo at 02911c8
  (types of components, `multinode`), and its page "DynamoGraphDeployment" (`components`, `backendFramework`). The
  definition of `v1alpha1` at 29a131e says that it is deprecated.
"""

from __future__ import annotations

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
QUANTITY = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?([KMGTPE]i?|m)?$"}
TEXTS = {"type": "array", "items": {"type": "string"}}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


METADATA = _object("name", name=NAME)
LABELS = _object("labels", labels={"type": "object", "additionalProperties": {"type": "string"}})
CONTAINER = _object(
    "name",
    name=NAME,
    image={"type": "string"},
    command=TEXTS,
    args=TEXTS,
    env=_list(_object("name", name={"type": "string"}, value={"type": "string"})),
    resources=_object("", limits={"type": "object", "additionalProperties": QUANTITY}),
    ports=_list(_object("containerPort", containerPort={"type": "integer"})),
    readinessProbe=_object(
        "",
        httpGet=_object("port", path={"type": "string"}, port={"type": "integer"}),
        periodSeconds={"type": "integer", "minimum": 1},
    ),
    volumeMounts=_list(_object("name mountPath", name=NAME, mountPath={"type": "string"})),
)
VOLUME = _object(
    "name", name=NAME, emptyDir=_object("", medium={"enum": ["", "Memory"]}), configMap=_object("", name=NAME)
)
POD = _object("containers", containers=_list(CONTAINER), volumes=_list(VOLUME))
TEMPLATE = _object("", metadata=LABELS, spec=POD)


def _kind(api: str, kind: str, **more: Any) -> dict[str, Any]:
    return _object(
        f"apiVersion kind metadata {' '.join(more)}",
        apiVersion={"const": api},
        kind={"const": kind},
        metadata=METADATA,
        **more,
    )


SCHEMAS: dict[str, dict[str, Any]] = {
    "Deployment": _kind(
        "apps/v1",
        "Deployment",
        spec=_object(
            "selector template",
            replicas={"type": "integer", "minimum": 0},
            selector=_object("matchLabels", matchLabels={"type": "object", "additionalProperties": {"type": "string"}}),
            template=TEMPLATE,
        ),
    ),
    "LeaderWorkerSet": _kind(
        "leaderworkerset.x-k8s.io/v1",
        "LeaderWorkerSet",
        spec=_object(
            "leaderWorkerTemplate",
            replicas={"type": "integer", "minimum": 0},
            leaderWorkerTemplate=_object(
                "workerTemplate",
                size={"type": "integer", "minimum": 1},
                restartPolicy={"enum": ["Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]},
                leaderTemplate=TEMPLATE,
                workerTemplate=TEMPLATE,
            ),
        ),
    ),
    "Service": _kind(
        "v1",
        "Service",
        spec=_object(
            "ports",
            selector={"type": "object", "additionalProperties": {"type": "string"}},
            ports=_list(_object("port", port={"type": "integer"}, targetPort={"type": "integer"})),
        ),
    ),
    "ConfigMap": _kind("v1", "ConfigMap", data={"type": "object", "additionalProperties": {"type": "string"}}),
    "DynamoGraphDeployment": _kind(
        "nvidia.com/v1beta1",
        "DynamoGraphDeployment",
        spec=_object(
            "components",
            backendFramework={"enum": ["sglang", "vllm", "trtllm"]},
            components=_list(
                _object(
                    "name type",
                    name={"type": "string", "minLength": 1},
                    type={"enum": ["frontend", "worker", "prefill", "decode", "planner", "epp"]},
                    replicas={"type": "integer", "minimum": 0},
                    podTemplate=TEMPLATE,
                    multinode=_object("nodeCount", nodeCount={"type": "integer", "minimum": 2}),
                )
            ),
        ),
    ),
}
"""Schemas by `kind`."""
