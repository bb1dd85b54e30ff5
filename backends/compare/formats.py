"""Result files of load generators, as data: how each is recognised, and where it keeps loads and results.

Read from: vLLM 0.19 to 0.33 (`vllm/benchmarks/serve.py`), SGLang 0.5 (`python/sglang/bench_serving.py`), AIPerf 0.10
to 0.14 (page "profile_export_aiperf.json Schema", `common/models/export_models.py`), GuideLLM 0.6
(`schemas/statistics.py`, `scheduler/strategies.py`), InferenceX (`utils/process_result.py`).
"""

from __future__ import annotations

from typing import NamedTuple

Path = tuple[str, ...]
"""The keys that lead to a value; a number is the place in a list, and ``name=word`` picks the item that says so."""

METRICS = ("ttft", "tpot", "itl", "latency")
"""Latencies of requests: TTFT, TPOT, gaps between chunks, and the time of the whole request."""

RATES = ("throughput", "request_throughput", "total_throughput")
"""Output tokens, requests, and tokens of both ways in a second."""


class Place(NamedTuple):
    """Where a latency stands: ``scale`` seconds are its unit (0: the file says the unit beside it).

    Flat files have keys such as ``mean_NAME`` and ``p99_NAME``; else ``path`` leads to an object of statistics.
    """

    name: str = ""
    path: Path = ()
    scale: float = 1e-3


class Format(NamedTuple):
    """One load generator. Each field has the places to look at, the first one that is there counts.

    ``marks``: a run has all keys of one of these groups. ``each``: the list of runs in a file. ``shape``: of gaps
    between requests, as `Steady` has it (None: equal gaps). ``rescaled``: all times are stretched so that the last
    request is sent at its expected time. ``per_gpu``: throughputs are those of a GPU. ``nominal``: lengths are drawn
    from this share of the stated length to all of it. ``window``: throughput is that of the middle of the run.
    """

    name: str
    title: str
    marks: tuple[tuple[Path, ...], ...]
    times: dict[str, tuple[Place, ...]]
    rates: dict[str, tuple[Path, ...]]
    each: Path = ()
    model: tuple[Path, ...] = ()
    requests: tuple[Path, ...] = ()
    failed: tuple[Path, ...] = ()
    input: tuple[Path, ...] = ()
    output: tuple[Path, ...] = ()
    input_total: tuple[Path, ...] = ()
    output_total: tuple[Path, ...] = ()
    concurrency: tuple[Path, ...] = ()
    rate: tuple[Path, ...] = ()
    pattern: tuple[Path, ...] = ()
    shape: tuple[Path, ...] = ()
    label: tuple[Path, ...] = ()
    gpus: tuple[tuple[Path, ...], ...] = ()  # for each way to state them, the paths of the numbers to multiply
    settings: tuple[tuple[str, tuple[Path, ...]], ...] = ()
    duration: tuple[Path, ...] = ()
    rescaled: bool = False
    per_gpu: bool = False
    nominal: float = 0.0
    window: bool = False


def _keys(*names: str) -> tuple[Path, ...]:
    return tuple((name,) for name in names)


_FLAT_RATES = {
    "throughput": _keys("output_throughput"),
    "request_throughput": _keys("request_throughput"),
    "total_throughput": _keys("total_token_throughput", "total_throughput"),
}

VLLM = Format(
    name="vllm",
    title="vllm bench serve",
    marks=(_keys("num_prompts", "request_rate"), _keys("total_token_throughput", "completed")),
    times={
        "ttft": (Place("ttft_ms"),),
        "tpot": (Place("tpot_ms"),),
        "itl": (Place("itl_ms"),),
        "latency": (Place("e2el_ms"),),
    },
    rates=_FLAT_RATES,
    model=_keys("model_id"),
    requests=_keys("completed"),
    failed=_keys("failed"),
    input_total=_keys("total_input_tokens"),
    output_total=_keys("total_output_tokens"),
    concurrency=_keys("max_concurrency"),
    rate=_keys("request_rate"),
    shape=_keys("burstiness"),
    label=_keys("label"),
    # `--metadata KEY=VALUE` adds keys of the user's own
    gpus=tuple(_keys(name) for name in ("num_gpus", "gpus", "n_gpu", "tensor_parallel_size", "tp")),
    duration=_keys("duration"),
    rescaled=True,
)

SGLANG = Format(
    name="sglang",
    title="SGLang bench_serving",
    marks=(_keys("mean_e2e_latency_ms", "completed"), _keys("server_info", "request_rate")),
    times={
        "ttft": (Place("ttft_ms"),),
        "tpot": (Place("tpot_ms"),),
        "itl": (Place("itl_ms"),),
        "latency": (Place("e2e_latency_ms"),),
    },
    rates=_FLAT_RATES,
    model=(("model_id",), ("server_info", "model_path"), ("server_info", "served_model_name")),
    requests=_keys("completed"),
    input_total=_keys("total_input_tokens"),
    output_total=_keys("total_output_tokens"),
    concurrency=_keys("max_concurrency"),
    rate=_keys("request_rate"),
    label=_keys("tag"),
    gpus=((("server_info", "tp_size"), ("server_info", "pp_size")), (("server_info", "tp_size"),)),
    settings=(
        ("max_requests", (("server_info", "max_running_requests"),)),
        ("step_tokens", (("server_info", "chunked_prefill_size"),)),
        ("memory_fraction", (("server_info", "mem_fraction_static"),)),
    ),
    duration=_keys("duration"),
)

AIPERF = Format(
    name="aiperf",
    title="AIPerf",
    marks=((("request_latency",), ("request_throughput", "avg")), (("time_to_first_token", "avg"),)),
    times={
        "ttft": (Place(path=("time_to_first_token",), scale=0.0),),
        # one number for each request, the time behind the first chunk over its tokens: TPOT
        "tpot": (Place(path=("inter_token_latency",), scale=0.0),),
        "latency": (Place(path=("request_latency",), scale=0.0),),
    },
    rates={
        "throughput": (("output_token_throughput", "avg"),),
        "request_throughput": (("request_throughput", "avg"),),
        "total_throughput": (("total_token_throughput", "avg"),),
    },
    model=(
        ("input_config", "endpoint", "model_names", "0"),
        ("input_config", "models", "items", "0", "name"),
    ),
    requests=(("request_count", "avg"),),
    failed=(("error_request_count", "avg"),),
    input=(("input_sequence_length",),),
    output=(("output_sequence_length",),),
    concurrency=(
        ("input_config", "loadgen", "concurrency"),
        ("input_config", "phases", "name=profiling", "concurrency"),
    ),
    rate=(
        ("input_config", "loadgen", "request_rate"),
        ("input_config", "phases", "name=profiling", "request_rate"),
    ),
    pattern=(
        ("input_config", "loadgen", "arrival_pattern"),
        ("input_config", "loadgen", "request_rate_mode"),
    ),
    duration=(("benchmark_duration", "avg"),),
)

_DONE = ("successful",)

GUIDELLM = Format(
    name="guidellm",
    title="GuideLLM",
    marks=((("metrics", "time_to_first_token_ms"),), (("metrics", "requests_per_second"),)),
    each=("benchmarks",),
    times={
        "ttft": (Place(path=("metrics", "time_to_first_token_ms", *_DONE)),),
        # (last - first) / (output - 1) of each request: TPOT; its own TPOT divides the whole time by all tokens
        "tpot": (Place(path=("metrics", "inter_token_latency_ms", *_DONE)),),
        "latency": (Place(path=("metrics", "request_latency", *_DONE), scale=1.0),),
    },
    rates={
        "throughput": (("metrics", "output_tokens_per_second", *_DONE, "mean"),),
        "request_throughput": (("metrics", "requests_per_second", *_DONE, "mean"),),
        "total_throughput": (("metrics", "tokens_per_second", *_DONE, "mean"),),
    },
    model=(("config", "backend", "model"), ("..", "args", "model"), ("..", "args", "backend_kwargs", "model")),
    requests=(("metrics", "request_totals", "successful"),),
    failed=(("metrics", "request_totals", "errored"),),
    input=(("metrics", "prompt_token_count", *_DONE),),
    output=(("metrics", "output_token_count", *_DONE),),
    concurrency=(("config", "strategy", "streams"), ("config", "strategy", "max_concurrency")),
    rate=(("config", "strategy", "rate"),),
    pattern=(("config", "strategy", "type_"),),
    duration=(("duration",),),
    window=True,
)

INFERENCEX = Format(
    name="inferencex",
    title="InferenceX",
    marks=(_keys("tput_per_gpu", "conc"),),
    times={
        "ttft": (Place("ttft", scale=1.0),),
        "tpot": (Place("tpot", scale=1.0),),
        "itl": (Place("itl", scale=1.0),),
        "latency": (Place("e2el", scale=1.0),),
    },
    rates={"throughput": _keys("output_tput_per_gpu"), "total_throughput": _keys("tput_per_gpu")},
    model=_keys("model"),
    input=_keys("isl"),
    output=_keys("osl"),
    concurrency=_keys("conc"),
    gpus=(_keys("tp"),),
    per_gpu=True,
    nominal=0.8,
)

FORMATS = (GUIDELLM, INFERENCEX, AIPERF, SGLANG, VLLM)
"""All of them, those with the most special marks first."""

CLOSED, OPEN, AT_ONCE = "closed loop", "open loop", "all at once"
"""Kinds of loads: requests that replace one another, that arrive by themselves, or that are all sent at the start."""

PATTERNS = {
    "synchronous": CLOSED, "concurrent": CLOSED, "throughput": AT_ONCE, "constant": OPEN, "poisson": OPEN,
    "concurrency_burst": CLOSED, "gamma": OPEN,
}  # fmt: skip
"""Kinds of loads by the words for them in `Format.pattern`."""

EQUAL_GAPS = ("constant",)
"""Patterns whose requests arrive at equal distances."""

ROUNDS = {"inferencex": 10}
"""Requests for each one in flight, where a file does not say how many (InferenceX: `--num-prompts $((CONC * 10))`)."""
