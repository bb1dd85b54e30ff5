"""Shell scripts that start a plan's servers, and run its benchmark."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from plandsl.backends.engines.commands import (
    PORTS,
    bench_words,
    environment,
    flag_words,
    launch_line,
    node_words,
    write_settings,
)
from plandsl.backends.engines.flags import SHOWN, Settings
from plandsl.backends.engines.formats import DTYPES
from plandsl.backends.engines.server import Deployment, Server
from plandsl.backends.engines.yamls import show_yaml
from plandsl.spec.scheduler import SchedulerName

DEFAULTS: dict[SchedulerName, dict[str, str]] = {
    "vllm": {
        "max-model-len": "the longest request: the model's own",
        "max-num-seqs": "requests in a step: by the GPU",
        "gpu-memory-utilization": "share of memory: 0.92",
        "enable-prefix-caching": "reuse of earlier prompts: on",
        "enable-chunked-prefill": "prompts in parts beside decodes: on",
        "quantization": "format of weights: the checkpoint's",
    },
    "sglang": {
        "context-length": "the longest request: the model's own",
        "max-running-requests": "requests in a step: from the KV pool",
        "mem-fraction-static": "share of memory: from the GPU and the step",
        "chunked-prefill-size": "parts of prompts: by the GPU",
        "disable-radix-cache": "reuse of earlier prompts: on",
        "quantization": "format of weights: the checkpoint's",
    },
    "trtllm": {
        "max_seq_len": "the longest request: the model's own",
        "max_batch_size": "requests in a step: 2048",
        "enable_chunked_prefill": "prompts in parts beside decodes: off",
    },
}
"""What an engine decides by itself where an export leaves an argument out."""


def write_script(deployment: Deployment, engine: SchedulerName, connector: str) -> str:
    """A script of bash: ``serve`` (or ``prefill`` and ``decode``), and ``bench``."""
    return "\n".join(_lines(deployment, engine, connector)) + "\n"


def _lines(deployment: Deployment, engine: SchedulerName, connector: str) -> Iterator[str]:
    servers = deployment.servers
    names = [server.role or "serve" for server in servers]
    model = servers[0].model
    roles = [*names, *(["router"] if len(servers) > 1 else []), "bench"]
    yield "#!/usr/bin/env bash"
    about = f"# Plan {deployment.name} for {SHOWN[engine]}, written by planc."
    yield f"{about} Run it with one of {', '.join(roles)}."
    for remark in deployment.remarks:
        yield f"# {remark.message}"
    yield "set -euo pipefail"
    yield f"MODEL=${{MODEL:?a checkpoint of {model}, a folder or a name on the Hub}}"
    if any(server.nodes > 1 for server in servers):
        yield "NODE_RANK=${NODE_RANK:-0} HEAD=${HEAD:?the address of the first node}"
    yield "case ${1:-} in"
    for name, server in zip(names, servers, strict=True):
        yield f"{name})"
        yield from _server(deployment, engine, server, connector)
        yield "  ;;"
    if len(servers) > 1:
        yield "router)"
        yield from _router(engine, servers)
        yield "  ;;"
    yield "bench)"
    port = PORTS[engine] if len(servers) == 1 else 9000
    first, *rest = (" ".join(words) for words in bench_words(engine, deployment, port))
    yield "  " + " \\\n    ".join([first, *rest])
    yield "  ;;"
    yield f'*) echo "usage: $0 {"|".join(roles)}" >&2; exit 2 ;;'
    yield "esac"


def _server(deployment: Deployment, engine: SchedulerName, server: Server, connector: str) -> Iterator[str]:
    """The commands that start a server: one on each node, or one for each copy where the engine has no copies."""
    settings = write_settings(engine, server, deployment.plan, connector)
    copies, own = _copies(engine, server), server.degrees.ranks
    if server.nodes > 1:
        yield f"  # on each of {server.nodes} nodes, with NODE_RANK from 0"
    for name, text in DEFAULTS[engine].items():
        if name not in settings:
            yield f"  # left to the engine: {name} ({text})"
    if server.weights not in DTYPES and "quantization" not in settings:
        yield f"  # MODEL must be stored with weights in `{server.weights}`: the engine reads the format from it"
    if server.draft is not None and server.draft.kind == "model":
        yield f"  # {server.draft.model} is the plan's name of the draft: put a checkpoint of it in its place"
    port = PORTS[engine] + (server.role == "decode") * 100
    if engine == "trtllm":
        yield f"  cat > {_config(deployment, server)} <<'EOF'"
        yield from show_yaml({k: v for k, v in settings.items() if k != "served_model_name"}).rstrip().split("\n")
        yield "EOF"
    words = _words(deployment, engine, server, settings, str(port))
    set_ = "".join(f"{name}={shlex.quote(value)} " for name, value in environment(engine, server).items())
    if copies == 1:
        yield f"  {set_}" + " \\\n    ".join(words)
        return
    yield f"  REPLICAS={copies}"
    yield "  for ((i = 0; i < REPLICAS; i++)); do"
    words[-1] = f"--port $(({port} + i))"
    yield (
        f'    CUDA_VISIBLE_DEVICES="$(seq -s, $((i * {own})) $((i * {own} + {own} - 1)))" {set_}'
        + (" \\\n      ".join(words))
        + " &"
    )
    yield "  done"
    yield "  wait"


def _copies(engine: SchedulerName, server: Server) -> int:
    """How many servers are started: SGLang has copies in one server, vLLM has those of models without experts."""
    within = engine == "sglang" or (engine == "vllm" and not server.routed)
    return 1 if within else server.degrees.replicas


def _words(deployment: Deployment, engine: SchedulerName, server: Server, settings: Settings, port: str) -> list[str]:
    start = launch_line(engine)
    nodes = [" ".join(words) for words in node_words(engine, server)]
    if engine == "trtllm":
        mpi = f"mpirun -n {server.degrees.ranks} trtllm-llmapi-launch " if server.nodes > 1 else ""
        return [
            f"{mpi}{start}",
            f"--served_model_name {server.model}",
            f"--config {_config(deployment, server)}",
            f"--port {port}",
        ]
    return [start, *(" ".join(words) for words in flag_words(settings)), *nodes, f"--port {port}"]


def _config(deployment: Deployment, server: Server) -> str:
    """The file of TensorRT-LLM's arguments, as a word of a shell."""
    return f'"${{TMPDIR:-/tmp}}/{deployment.name}_{server.role or "serve"}.yaml"'


def _router(engine: SchedulerName, servers: tuple[Server, ...]) -> Iterator[str]:
    """What stands in front of two pools and sends each request to both."""
    first, then = PORTS[engine], PORTS[engine] + 100
    yield '  : "${PREFILL:?host of the prefill pool}" "${DECODE:?host of the decode pool}"'
    if engine == "sglang":
        yield "  python3 -m sglang_router.launch_router --pd-disaggregation \\"
        yield f'    --prefill "http://$PREFILL:{first}" --decode "http://$DECODE:{then}" --port 9000'
    elif engine == "vllm":
        yield "  # vLLM has a proxy among its tests: tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"
        yield "  python3 toy_proxy_server.py --port 9000 \\"
        yield f'    --prefiller-hosts "$PREFILL" --prefiller-ports {first} \\'
        yield f'    --decoder-hosts "$DECODE" --decoder-ports {then}'
    else:
        yield '  cat > "${TMPDIR:-/tmp}/disaggregated.yaml" <<EOF'
        body = {"hostname": "0.0.0.0", "port": 9000,
                "context_servers": {"num_instances": 1, "urls": [f"$PREFILL:{first}"]},
                "generation_servers": {"num_instances": 1, "urls": [f"$DECODE:{then}"]}}  # fmt: skip
        yield from show_yaml(body).rstrip().split("\n")
        yield "EOF"
        yield '  trtllm-serve disaggregated -c "${TMPDIR:-/tmp}/disaggregated.yaml"'
