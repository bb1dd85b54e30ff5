"""Manifests of Kubernetes: Deployments, LeaderWorkerSets for servers of several nodes, and NVIDIA Dynamo's graphs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from plandsl.backends.engines.commands import (
    LAUNCH,
    PORTS,
    bench_words,
    environment,
    flag_words,
    launch_line,
    node_words,
    show_value,
    write_settings,
)
from plandsl.backends.engines.flags import MODEL_FLAG, SHOWN, Settings
from plandsl.backends.engines.server import Deployment, Server
from plandsl.backends.engines.yamls import show_yaml
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.origins import vendor_of
from plandsl.spec.scheduler import SchedulerName

IMAGES: dict[SchedulerName, str] = {
    "vllm": "vllm/vllm-openai:${TAG}",
    "sglang": "lmsysorg/sglang:${TAG}",
    "trtllm": "nvcr.io/nvidia/tensorrt-llm/release:${TAG}",
}
"""The image of each engine; its tag is a variable, which the user sets."""

DYNAMO: dict[SchedulerName, str] = {
    "vllm": "nvcr.io/nvidia/ai-dynamo/vllm-runtime:${TAG}",
    "sglang": "nvcr.io/nvidia/ai-dynamo/sglang-runtime:${TAG}",
}
"""The image of Dynamo's workers for each engine that they run."""

GPU = {"AMD": "amd.com/gpu"}
"""What Kubernetes calls a GPU, by its vendor; `nvidia.com/gpu` for any other."""

SHM: list[dict[str, object]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
"""Shared memory of a pod: the default, 64 MB, is too little for the ranks of a node."""


class Files(NamedTuple):
    """What a ConfigMap holds: texts by the names of files."""

    data: dict[str, str]


def write_k8s(deployment: Deployment, engine: SchedulerName, connector: str) -> str:
    """A manifest: of each server a Deployment, or a LeaderWorkerSet where a copy takes several nodes, and a Service.

    Raises `PlanError` (E503) for TensorRT-LLM on several nodes, which starts by MPI.
    """
    _check_alike(deployment)
    documents: list[dict[str, object]] = []
    for server in deployment.servers:
        name = _resource(deployment, server)
        settings = _settings(deployment, engine, server, connector)
        if engine == "trtllm":
            documents.append(_config(name, settings))
        if server.nodes == 1:
            documents.append(_deployment(name, engine, server, settings, deployment))
        elif engine == "trtllm":
            why = "TensorRT-LLM starts on several nodes by MPI, which a LeaderWorkerSet does not do"
            hint = "`--to trtllm` writes the command for mpirun"
            raise PlanError([Diagnostic("E503", why, deployment.plan.span, hint=hint)])
        else:
            documents.append(_group(name, engine, server, settings, deployment))
        documents.append(_service(name, engine, server))
    return "\n".join([*_head(deployment, engine), "---\n".join(map(show_yaml, documents))])


def write_dynamo(deployment: Deployment, engine: SchedulerName, connector: str) -> str:
    """A DynamoGraphDeployment: a frontend, and a worker for each server.

    Raises `PlanError` (E503) for TensorRT-LLM, whose worker takes a file that the graph cannot hold.
    """
    if engine not in DYNAMO:
        why = "Dynamo's worker for TensorRT-LLM takes its arguments from a file in its image"
        hint = "`--to trtllm`, or `--set engine=vllm`"
        raise PlanError([Diagnostic("E503", why, deployment.plan.span, hint=hint)])
    _check_alike(deployment)
    frontend = _component("Frontend", "frontend", 1, {"image": DYNAMO[engine]})
    components = [frontend]
    for server in deployment.servers:
        settings = _settings(deployment, engine, server, connector)
        components.append(_worker(engine, server, settings, deployment))
    body = {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": {"name": _plan_name(deployment)},
            "spec": {"backendFramework": engine, "components": components}}  # fmt: skip
    return "\n".join([*_head(deployment, engine), show_yaml(body)])


def _check_alike(deployment: Deployment) -> None:
    """Raise `PlanError` (E503) for unlike GPUs: a pod says how many it takes, and not of which kind."""
    plan = deployment.plan
    if any(len({kind.node.gpu.name for kind in pool.kinds}) > 1 for pool in plan.pools):
        why = "a pod of Kubernetes gets GPUs by their number, and those of the plan are unlike"
        raise PlanError([Diagnostic("E503", why, plan.span, hint="a script starts them: `--to vllm`")])


def _head(deployment: Deployment, engine: SchedulerName) -> Iterator[str]:
    yield f"# Plan {deployment.name} for {SHOWN[engine]}, written by planc. MODEL is a checkpoint: put yours there."
    yield "# TAG is that of an image with this release: `TAG=... envsubst '${TAG}' < FILE | kubectl apply -f -`."
    for remark in deployment.remarks:
        yield f"# {remark.message}"
    port = PORTS[engine]
    words = " ".join(" ".join(one) for one in bench_words(engine, deployment, port))
    yield f"# the plan's load: {words}"


def _plan_name(deployment: Deployment) -> str:
    """The plan's name as Kubernetes takes names: lower case, with dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", deployment.name).strip("-").lower() or "plan"


def _resource(deployment: Deployment, server: Server) -> str:
    return f"{_plan_name(deployment)}-{server.role}" if server.role else _plan_name(deployment)


def _settings(deployment: Deployment, engine: SchedulerName, server: Server, connector: str) -> Settings:
    """Arguments of one copy: Kubernetes makes the others."""
    alone = server._replace(degrees=server.degrees._replace(replicas=1))
    return write_settings(engine, alone, deployment.plan, connector)


def _container(engine: SchedulerName, server: Server, settings: Settings, deployment: Deployment) -> dict[str, object]:
    name = _resource(deployment, server)
    own = server.degrees.ranks // server.nodes
    given = {"MODEL": server.model, **environment(engine, server)}
    out: dict[str, object] = {
        "name": "engine",
        "image": IMAGES[engine],
        "env": [{"name": key, "value": value} for key, value in given.items()],
    }
    if server.nodes > 1:
        flags = [*flag_words(settings), *node_words(engine, server), ("--port", str(PORTS[engine]))]
        where = 'NODE_RANK="$LWS_WORKER_INDEX"; HEAD="$LWS_LEADER_ADDRESS"'
        script = [where, " \\\n  ".join([launch_line(engine), *map(" ".join, flags)])]
        out |= {"command": ["sh", "-c"], "args": ["\n".join(script) + "\n"]}
    else:
        out |= {"command": list(LAUNCH[engine]), "args": _arguments(engine, server, settings, name)}
    out["resources"] = {"limits": {_resource_of(server, deployment): str(own)}}
    out["ports"] = [{"containerPort": PORTS[engine]}]
    out["readinessProbe"] = {"httpGet": {"path": "/health", "port": PORTS[engine]}, "periodSeconds": 10}
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]  # ranks of a node exchange through it
    if engine == "trtllm":
        mounts.append({"name": "config", "mountPath": "/config"})
    return out | {"volumeMounts": mounts}


def _resource_of(server: Server, deployment: Deployment) -> str:
    """What Kubernetes calls the GPUs of a server."""
    gpu = server.pool(deployment.plan).node.gpu
    return GPU.get(vendor_of((gpu.name, *gpu.bases)), "nvidia.com/gpu")


def _arguments(engine: SchedulerName, server: Server, settings: Settings, name: str) -> list[str]:
    if engine == "trtllm":
        return ["$(MODEL)", f"--served_model_name={server.model}", f"--config=/config/{name}.yaml",
                f"--port={PORTS[engine]}"]  # fmt: skip
    model = ["$(MODEL)"] if engine == "vllm" else ["--model-path=$(MODEL)"]
    return [*model, *_flags(settings), f"--port={PORTS[engine]}"]


def _flags(settings: Settings) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        else:
            yield f"--{name}={show_value(value)}"


def _pod(
    name: str, engine: SchedulerName, server: Server, settings: Settings, deployment: Deployment
) -> dict[str, object]:
    volumes = list(SHM)
    if engine == "trtllm":
        volumes.append({"name": "config", "configMap": {"name": f"{name}-config"}})
    containers = [_container(engine, server, settings, deployment)]
    return {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers, "volumes": volumes}}


def _deployment(
    name: str, engine: SchedulerName, server: Server, settings: Settings, deployment: Deployment
) -> dict[str, object]:
    pod = _pod(name, engine, server, settings, deployment)
    spec = {"replicas": server.degrees.replicas, "selector": {"matchLabels": {"app": name}}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def _group(
    name: str, engine: SchedulerName, server: Server, settings: Settings, deployment: Deployment
) -> dict[str, object]:
    pod = _pod(name, engine, server, settings, deployment)
    container = _container(engine, server, settings, deployment)
    del container["readinessProbe"]  # the first node alone answers requests
    worker = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], "volumes": SHM}}
    template = {"size": server.nodes, "restartPolicy": "RecreateGroupOnPodRestart", "leaderTemplate": pod,
                "workerTemplate": worker}  # fmt: skip
    return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name},
            "spec": {"replicas": server.degrees.replicas, "leaderWorkerTemplate": template}}  # fmt: skip


def _service(name: str, engine: SchedulerName, server: Server) -> dict[str, object]:
    selector = {"app": name}
    if server.nodes > 1:
        selector["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    spec = {"selector": selector, "ports": [{"port": PORTS[engine], "targetPort": PORTS[engine]}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _config(name: str, settings: Settings) -> dict[str, object]:
    """The file of TensorRT-LLM's arguments."""
    about: dict[str, object] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-config"}}
    return about | Files({f"{name}.yaml": show_yaml(settings)})._asdict()


def _component(name: str, kind: str, replicas: int, container: dict[str, object]) -> dict[str, object]:
    """A part of a graph of Dynamo, whose own container is called `main`."""
    pod = {"spec": {"containers": [{"name": "main", **container}]}}
    return {"name": name, "type": kind, "replicas": replicas, "podTemplate": pod}


def _worker(engine: SchedulerName, server: Server, settings: Settings, deployment: Deployment) -> dict[str, object]:
    """A worker of Dynamo: its module takes the engine's arguments, and Dynamo sets those about nodes."""
    kind = {"vllm": "Vllm", "sglang": "Sglang"}[engine]
    given = {"MODEL": server.model, **environment(engine, server)}
    arguments = [f"--{MODEL_FLAG[engine]}=$(MODEL)", *_flags(settings)]
    if server.role and engine == "vllm":
        arguments.append(f"--disaggregation-mode={server.role}")
    container: dict[str, object] = {
        "image": DYNAMO[engine],
        "command": ["python3", "-m", f"dynamo.{engine}"],
        "args": arguments,
        "env": [{"name": name, "value": value} for name, value in given.items()],
        "resources": {"limits": {_resource_of(server, deployment): str(server.degrees.ranks // server.nodes)}},
    }
    name = f"{kind}{server.role.capitalize()}Worker"
    out = _component(name, server.role or "worker", server.degrees.replicas, container)
    return out | ({"multinode": {"nodeCount": server.nodes}} if server.nodes > 1 else {})
