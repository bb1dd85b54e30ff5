"""Command lines of engines, from settings: the words of a launch, and of the benchmark that matches a load."""

from __future__ import annotations

import json
import shlex
from math import inf

from plandsl.backends.engines.flags import MODEL_FLAG, Settings
from plandsl.backends.engines.sent import sent_lengths
from plandsl.backends.engines.server import Deployment, Server
from plandsl.backends.engines.sglang import write_sglang
from plandsl.backends.engines.trtllm import write_trtllm
from plandsl.backends.engines.vllm import write_vllm
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.scheduler import SchedulerName
from plandsl.spec.traffic import (
    Arrivals,
    SessionsSpec,
    Steady,
    TrafficSpec,
    Uniform,
    Varying,
    mean_of,
    mean_rate,
)
from plandsl.values import sum_up

LAUNCH: dict[SchedulerName, tuple[str, ...]] = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python3", "-m", "sglang.launch_server"),
    "trtllm": ("trtllm-serve",),
}
"""The words that start each engine."""

PORTS: dict[SchedulerName, int] = {"vllm": 8000, "sglang": 30000, "trtllm": 8000}
CONNECTOR: dict[SchedulerName, str] = {"vllm": "nixl", "sglang": "mooncake", "trtllm": "nixl"}
"""What moves the KV cache between two pools where nothing is said."""


def write_settings(engine: SchedulerName, server: Server, plan: PlanSpec, connector: str) -> Settings:
    """The arguments of one server. Raises `PlanError` at the plan's words for what the engine cannot do."""
    pool = server.pool(plan)
    match engine:
        case "vllm":
            return write_vllm(server, pool, connector)
        case "sglang":
            return write_sglang(server, pool, connector)
        case "trtllm":
            return write_trtllm(server, pool, connector)


def launch_line(engine: SchedulerName) -> str:
    """The words that start an engine on the checkpoint in the variable MODEL of a shell."""
    model = '"$MODEL"' if engine != "sglang" else f'--{MODEL_FLAG[engine]} "$MODEL"'
    return f"{' '.join(LAUNCH[engine])} {model}"


def show_value(value: object) -> str:
    """A value as a word of a command line; an object or a list as JSON."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, dict | list) else str(value)


def flag_words(settings: Settings) -> list[tuple[str, ...]]:
    """The flags of settings, each with its value as words for a shell."""
    out: list[tuple[str, ...]] = []
    for name, value in settings.items():
        if value is True:
            out.append((f"--{name}",))
        elif isinstance(value, list):
            out.append((f"--{name}", *(shlex.quote(str(one)) for one in value)))
        elif value is False:
            out.append((f"--no-{name}",))
        else:
            out.append((f"--{name}", shlex.quote(show_value(value))))
    return out


def environment(engine: SchedulerName, server: Server) -> dict[str, str]:
    """Variables that the engine reads beside its arguments."""
    out = {}
    if engine == "vllm" and server.degrees.sequence > 1:
        out["ARCTIC_INFERENCE_ENABLED"] = "1"
    if server.degrees.layers and engine != "trtllm":
        name = {"vllm": "VLLM_PP_LAYER_PARTITION", "sglang": "SGLANG_PP_LAYER_PARTITION"}[engine]
        out[name] = ",".join(map(str, server.degrees.layers))
    return out


def node_words(engine: SchedulerName, server: Server) -> list[tuple[str, ...]]:
    """Flags of a server on several nodes: each node runs the command with its own rank."""
    if server.nodes == 1 or engine == "trtllm":
        return []
    if engine == "sglang":
        return [("--nnodes", str(server.nodes)), ("--node-rank", '"$NODE_RANK"'),
                ("--dist-init-addr", '"$HEAD:20000"')]  # fmt: skip
    if server.degrees.attention > 1:
        return [("--data-parallel-address", '"$HEAD"'), ("--data-parallel-rpc-port", "13345"),
                ("--data-parallel-start-rank",
                 f'"$((NODE_RANK * {max(1, server.degrees.attention // server.nodes)}))"')]  # fmt: skip
    return [("--nnodes", str(server.nodes)), ("--node-rank", '"$NODE_RANK"'), ("--master-addr", '"$HEAD"'),
            ('$([ "$NODE_RANK" = 0 ] || echo --headless)',)]  # fmt: skip


# ---- the load


def bench_words(engine: SchedulerName, deployment: Deployment, port: int) -> list[tuple[str, ...]]:
    """The benchmark that sends the plan's load: SGLang's own for SGLang, else vLLM's."""
    load, sglang = deployment.load, engine == "sglang"
    words: list[tuple[str, ...]] = (
        [("python3", "-m", "sglang.bench_serving")] if sglang else [("vllm", "bench", "serve")]
    )
    backend = "sglang" if sglang else "vllm" if engine == "vllm" else "openai"
    if load.encodes:
        words += [("--backend", "sglang-embedding")] if sglang else [
            ("--backend", "openai-embeddings"), ("--endpoint", "/v1/embeddings")]  # fmt: skip
    else:
        words.append(("--backend", backend))
    words.append(("--model", '"$MODEL"'))
    words.append(("--served-model-name", deployment.servers[0].model))
    words.append(("--port", str(port)))
    words += _lengths(load, sglang)
    words += _arrivals(deployment, sglang)
    if load.encodes and not sglang:
        words += [("--percentile-metrics", "e2el"), ("--save-result",)]
    elif not sglang:
        words += [("--ignore-eos",), ("--percentile-metrics", "ttft,tpot,itl,e2el"), ("--save-result",)]
    return words


def _lengths(load: WorkloadSpec, sglang: bool) -> list[tuple[str, ...]]:
    """Lengths of requests. A range ratio of 0 is an exact length in vLLM, and 1 in SGLang."""
    traffic = load.traffic
    if traffic is not None and traffic.trace is not None:
        return [("--dataset-name", "mooncake" if sglang else "timed_trace"),
                ("--dataset-path", shlex.quote(traffic.trace.file.shown))]  # fmt: skip
    sent = sent_lengths(load)
    out: list[tuple[str, ...]] = [
        ("--dataset-name", "random"),
        ("--random-input-len", str(sent.new + (sent.earlier if sglang else 0))),
        ("--random-output-len", str(sent.output)),
        ("--random-range-ratio", "1" if sglang else range_ratio(load)),
    ]
    return out if sglang or not sent.earlier else [*out, ("--random-prefix-len", str(sent.earlier))]


def range_ratio(load: WorkloadSpec) -> str:
    """The half-width of the lengths, as a share of their mean; 0 where they are all equal or not uniform."""
    lengths = load.traffic.lengths if load.traffic is not None else None
    if lengths is None:
        return "0"
    match lengths.input, lengths.output:
        case Uniform(low, high), Uniform(first, last):
            shares = {round((b - a) / (b + a), 4) for a, b in ((low, high), (first, last))}
            return str(shares.pop()) if len(shares) == 1 else "0"
        case _:
            return "0"


def _arrivals(deployment: Deployment, sglang: bool) -> list[tuple[str, ...]]:
    """When requests are sent: all that may be in flight at once, at a mean rate, or all at once."""
    load, traffic = deployment.load, deployment.load.traffic
    if traffic is not None and traffic.trace is not None:
        return [("--num-prompts", str(load.requests or PROMPTS))]
    if traffic is not None and load.concurrency is None:
        return _open_loop(load, traffic, sglang)
    degrees = deployment.servers[-1].degrees
    together = (load.concurrency or load.batch * (load.in_flight or degrees.pipeline)) * degrees.replicas
    count = load.requests or (together if load.concurrency is None else 10 * together)
    return [("--num-prompts", str(count)), ("--max-concurrency", str(together))]


PROMPTS = 1000
"""Requests that are sent where neither a number nor a duration says how many: the default of SGLang's bench_serving."""


def _open_loop(load: WorkloadSpec, traffic: TrafficSpec, sglang: bool) -> list[tuple[str, ...]]:
    """Requests at the mean rate of the load, as many as come in its duration; without a rate, all at once.

    SGLang's benchmark sends a Poisson process. Source: sgl-project/sglang, python/sglang/bench_serving.py
    (`--request-rate`); it has no `--burstiness`.
    """
    rate = _request_rate(traffic)
    lasting = PROMPTS if traffic.duration is None or not rate else max(1, round(rate * traffic.duration))
    words: list[tuple[str, ...]] = [("--num-prompts", str(load.requests or lasting))]
    if not rate:
        return [*words, ("--request-rate", "inf")]
    shape = traffic.arrivals.shape if isinstance(traffic.arrivals, Steady) else 1.0
    words.append(("--request-rate", f"{rate:g}"))
    return words if sglang or shape in (1.0, None) else [*words, ("--burstiness", f"{shape:g}")]


def _request_rate(traffic: TrafficSpec) -> float:
    """Mean requests per second, of all classes; each turn of a conversation is a request. 0 where no rate is stated."""
    parts = [(1.0, traffic.arrivals, traffic.sessions)]
    if traffic.classes:
        parts = [(one.share or 1.0, one.arrivals or traffic.arrivals, one.sessions) for one in traffic.classes]
    return sum_up(
        share * (_mean_rate(arrivals, traffic.duration) or 0.0) * _turns(sessions)
        for share, arrivals, sessions in parts
    )


def _turns(sessions: SessionsSpec | None) -> float:
    """Mean requests of an arrival; 1 where only a file says how many turns a conversation has."""
    return 1.0 if sessions is None else mean_of(sessions.turns) or 1.0


def _mean_rate(arrivals: Arrivals | None, duration: float | None) -> float | None:
    """Mean arrivals per second in the first ``duration`` seconds, or in the long run; None as of `mean_rate`."""
    if isinstance(arrivals, Varying) and duration is not None and duration < (arrivals.every or inf):
        arrivals = Varying(tuple(step for step in arrivals.steps if step[0] < duration), duration)
    return mean_rate(arrivals)
