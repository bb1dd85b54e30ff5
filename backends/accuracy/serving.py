"""Rows of serving.csv and mlperf.csv as plans: who served what on which GPUs, and how fast we think it was.

A row becomes a plan (model, precision, GPUs, degrees, engine) and a load. Rows of one plan are evaluated at once.
What a row does not say is taken from how the engines are run by default; `kv_dtype` has the one guess that matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from attrs import evolve, frozen

from plandsl.backends.accuracy.answer import Answer, Floats, Texts
from plandsl.backends.accuracy.lengths import JITTER
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.diagnostics import PlanError

Compile = Callable[[str], Deployment]
Known = Callable[[str, str], bool]
Cells = Mapping[str, float | str]
"""One row of a file, by column."""

ROUNDS = 10
"""Benchmarks with such lengths send this many requests for each one in flight (InferenceX, `--num-prompts`)."""

ENDLESS = 100_000.0
"""In flight where a row says that all requests were queued, and not how many."""

NEVER = 1e9
"""Requests of a load that does not end."""

ENGINES = (
    (r"tensorrt.*|trtllm.*", "trtllm"),
    (r".*vllm.*", "vllm"),
    (r"sglang.*", "sglang"),
    (r"atom.*", "atom"),
)
"""Engines of the catalog by the name that a row gives."""

WHOLE, WHOLE_TOKENS = "trtllm", 8192
"""An engine that does not cut prompts, and the tokens of its steps by default.

Benchmarks raise them where the longest prompt does not fit beside a token of each request in flight, up to whole
multiples of 64 (InferenceX's scripts: `max_num_tokens` of concurrency + input + 64); else such a prompt would wait for
others to end.
"""

PRECISION = {
    "bf16": ("bf16", "bf16"),
    "fp16": ("fp16", "fp16"),
    "fp8": ("fp8", "fp8"),
    "fp4": ("nvfp4", "fp8"),
    "nvfp4": ("nvfp4", "fp8"),
    "mxfp4": ("mxfp4", "fp8"),
    "mxfp4 w, fp8 a/kv": ("mxfp4", "fp8"),
    "int8": ("int8", "fp16"),
    "int4": ("int4", "fp16"),
}
"""Weights and KV cache that a precision stands for."""

METRICS = {"serving": ("ttft_s", "tpot_s", "output_tok_per_s"), "mlperf": ("tokens_per_s",)}

LOADS = ("closed_concurrency", "static_batch", "offline_all_at_once", "burst_all_at_once", "open_poisson")


@frozen
class Row:
    """One deployment and its load: a plan's text without numbers of the load, and those numbers.

    ``others`` are plans that may have been run instead, where a row does not state its degrees: the fastest was.
    """

    plan: str
    kind: str
    input: float
    output: float
    clients: float
    requests: float
    rate: float = 0.0
    others: tuple[str, ...] = ()


class Refused(Exception):
    """Why a row has no plan."""


def group(table: Table) -> Texts:
    """Engine and model of each row, or the benchmark where that is what a row names."""
    if "bench" in table.columns:
        return np.char.add(np.char.add(table.texts("bench"), "/"), np.char.lower(table.texts("scenario")))
    pairs = zip(table.texts("framework"), table.texts("gpu"), strict=True)
    engines = np.array([engine_of(f, g) or f or "unnamed" for f, g in pairs])
    return np.char.add(np.char.add(engines, "/"), table.texts("model"))


def predict(table: Table, file: str, compile_: Compile, known: Known) -> dict[str, Answer]:
    """Answers by metric. ``compile_`` makes the cost model of a plan's text, ``known`` says what the catalog has."""
    read = _mlperf_row if file == "mlperf" else _serving_row
    rows, reasons = read_rows(table, read, known)
    for at, row in rows.items():
        if row.others:
            rows[at] = evolve(row, plan=fastest(row, compile_))
    n = len(table)
    found = {m: np.full((3, n), np.nan) for m in METRICS[file]}
    for (text, _), of in by_load(rows).items():
        try:
            model = compile_(text)
        except PlanError as error:
            reasons |= dict.fromkeys(of, error.diagnostics[0].message)
            continue
        m = answer_loads(model, [rows[at] for at in of])
        fits = np.broadcast_to(m.fits, len(of))
        reasons |= dict.fromkeys(np.array(of)[~fits].tolist(), "the plan does not fit the GPUs' memory")
        _fill(found, model, m, of)
    reason = np.array([reasons.get(at, "") for at in range(n)], dtype=np.str_)
    out = {}
    for metric, values in found.items():
        values[:, reason != ""] = np.nan
        out[metric] = Answer(values[0], values[1], values[2], reason)
    return out


def read_rows(table: Table, read: Callable[[Cells, Known], Row], known: Known) -> tuple[dict[int, Row], dict[int, str]]:
    """The rows that have a plan, and the reasons of those that have none."""
    columns = {name: table[name] for name in table.columns}
    rows: dict[int, Row] = {}
    reasons: dict[int, str] = {}
    for at in range(len(table)):
        try:
            rows[at] = read({name: column[at] for name, column in columns.items()}, known)
        except Refused as why:
            reasons[at] = str(why)
    return rows, reasons


def by_load(rows: dict[int, Row]) -> dict[tuple[str, str], list[int]]:
    """Rows that share a plan and a kind of load, which are evaluated at once."""
    out: dict[tuple[str, str], list[int]] = {}
    for at, row in rows.items():
        out.setdefault((row.plan, row.kind), []).append(at)
    return out


def fastest(row: Row, compile_: Compile) -> str:
    """The plan of a row with the highest throughput, of those that may have been run."""
    rates = {}
    for text in (row.plan, *row.others):
        try:
            rates[text] = float(np.max(answer_loads(compile_(text), [row]).throughput))
        except PlanError:
            rates[text] = 0.0
    return max(rates, key=lambda text: rates[text])


def answer_loads(model: Deployment, loads: list[Row]) -> Metrics:
    """Metrics of rows of one plan and one kind of load, as arrays."""
    i, o, n, r = (np.array([getattr(x, name) for x in loads]) for name in ("input", "output", "clients", "requests"))
    if loads[0].kind == "static_batch":
        return model.evaluate(batch=n, input=i, output=o)
    if loads[0].kind == "open_poisson":
        n = in_flight(model, i, o, np.array([x.rate for x in loads]))
    return model.evaluate(concurrency=n, input=i, output=o, requests=r)


def in_flight(model: Deployment, input_: Floats, output: Floats, rate: Floats) -> Floats:
    """Requests in flight at which a closed system serves ``rate`` requests/s; as many as it can where that is less."""
    counts = np.unique(np.round(2 ** np.linspace(0, 10, 61)))
    out = np.empty(len(rate))
    for at, (i, o, wanted) in enumerate(zip(input_, output, rate, strict=True)):
        m = model.evaluate(concurrency=counts, input=np.full(len(counts), i), output=np.full(len(counts), o))
        served = np.maximum.accumulate(np.asarray(m.throughput / o))
        out[at] = np.interp(wanted, served, counts)
    return out


def _fill(found: dict[str, Floats], model: Deployment, m: Metrics, of: list[int]) -> None:
    """Predictions of some rows into the sheets of all, with the bands that their engine has."""
    names = {"ttft_s": ("ttft", m.ttft), "tpot_s": ("tpot", m.tpot)}
    for metric, values in found.items():
        name, value = names.get(metric, ("throughput", m.throughput))
        values[0, of] = value
        if band := model.plan.engine_band(name):
            values[1, of], values[2, of] = value * band[0], value * band[1]


# ---- a row


def engine_of(framework: str, gpu: str) -> str:
    """The engine of the catalog that a row's framework is; empty for one that the catalog lacks."""
    found = next((name for pattern, name in ENGINES if re.fullmatch(pattern, framework.lower())), "")
    return "vllm_rocm" if found == "vllm" and gpu.startswith("mi") else found


def kv_dtype(engine: str, gpu: str, weights: str, cache: str) -> str:
    """How the KV cache is stored.

    vLLM stores it at 16 bits unless it is told otherwise, and on Hopper and before the published recipes do not tell
    it; checkpoints for TensorRT-LLM name the 8 bits themselves, as recipes do for Blackwell and AMD.
    """
    if engine in ("vllm", "sglang") and weights == "fp8" and gpu.startswith(("h1", "h2", "h8", "gh", "l40", "rtx_4")):
        return "bf16"
    return cache


def _number(row: Cells, name: str, default: float = np.nan) -> float:
    try:
        value = float(row.get(name, default))
    except ValueError:
        return default
    return default if np.isnan(value) else value


def _plan(row: Cells, model: str, precision: str, spread: Spread, engine: str, known: Known) -> str:
    gpu = str(row["gpu"])
    weights, cache = PRECISION[precision]
    cache = kv_dtype(engine, gpu, weights, cache)
    kept = "" if model.startswith(MIXED) else f"weights = {weights}, "
    node = f"{gpu}_8" if spread.gpus <= 8 else f"{gpu}_8 with {{ count = {spread.gpus} }}"
    lines = [
        f"model = {model} with {{ {kept}kv_cache = {cache} }}",
        f"node = {node}",
        spread.sharding(lambda dim: known("dimension", f"{model}.{dim}")),
        "workload { input = 1000, output = 100 }",
        f"engine = {engine}" if engine else "",
    ]
    return "plan row {\n" + "".join(f"  {line}\n" for line in lines if line) + "}\n"


MIXED = ("gpt_oss",)
"""Models whose checkpoints store experts otherwise than the rest: the catalog's entry says how."""


@frozen
class Spread:
    """How an engine's ranks share a model: ``tp`` or ``attn_dp`` ranks hold attention, ``ep`` groups the experts.

    With both tensor and expert parallelism the same ranks are meant: attention is split over all of them, and experts
    over ``ep`` groups of them. With data-parallel attention requests are split instead.
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1
    attn_dp: int = 1
    ep: int = 1

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.dp * self.pp * max(self.tp, self.attn_dp)

    def sharding(self, has: Callable[[str], bool]) -> str:
        """The sharding as a plan says it, for a model that ``has`` some dimensions; nothing for one GPU."""
        degrees = [f"{name} = {n}" for name, n in (("dp", self.dp), ("pp", self.pp)) if n > 1]
        ranks = max(self.tp, self.attn_dp)
        if ranks > 1 and self.attn_dp == 1 and self.ep == 1:
            degrees.append(f"tp = {self.tp}")
        elif ranks > 1:
            groups, rest = self.ep, ranks // self.ep
            wanted = ("batch",) if self.attn_dp > 1 else tuple(filter(has, ("heads", "kv_heads", "ffn", "vocab")))
            rules = ["experts -> group", "expert_ffn -> rest", f"{', '.join(wanted)} -> group, rest"]
            degrees += [f"mesh group = {groups}, rest = {rest}", *rules]
        return "sharding { " + "; ".join(degrees) + " }" if degrees else ""


def catalog_name(model: str) -> str:
    """How the catalog spells a published name."""
    return re.sub(r"[-. ]", "_", model)


def _model(name: str, known: Known) -> str:
    model = catalog_name(name)
    if not known("model", model):
        raise Refused(f"the catalog has no model {name}")
    return model


def _gpu(row: Cells, known: Known) -> str:
    gpu = str(row["gpu"])
    if not known("node", f"{gpu}_8"):
        raise Refused(f"the catalog has no node of eight {gpu}")
    return gpu


RACKS = ("gb200", "gb300")
"""GPUs whose links reach past eight: 72 in one NVLink domain."""


def _serving_row(row: Cells, known: Known) -> Row:
    """A row of serving.csv."""
    mode = str(row.get("serving_mode", "aggregated"))
    if mode != "aggregated":
        raise Refused(f"{mode}: only servers with one pool are compared")
    kind = str(row.get("load_kind", ""))
    if kind not in LOADS:
        raise Refused(f"no model of a load that is {kind or 'not stated'}")
    gpu, model = _gpu(row, known), _model(str(row["model"]), known)
    precision = str(row.get("precision", ""))
    if precision not in PRECISION:
        raise Refused(f"no meaning is known for the precision {precision or '(none)'}")
    spread = _spread(row)
    if spread.gpus > (72 if gpu in RACKS else 8):
        raise Refused("more GPUs than one node has")
    jitter = JITTER if "uniform" in str(row.get("length_jitter", "")) else 1.0
    isl, osl = _number(row, "isl_tokens") * jitter, _number(row, "osl_tokens") * jitter
    clients, rate = _number(row, "concurrency"), _number(row, "request_rate_per_s")
    if np.isnan(isl + osl):
        raise Refused("lengths are not stated")
    if np.isnan(clients) and kind == "offline_all_at_once":
        clients = ENDLESS
    if kind == "open_poisson" and np.isnan(rate):
        raise Refused("the rate of requests is not stated")
    if kind != "open_poisson" and np.isnan(clients):
        raise Refused("the number of requests in flight is not stated")
    requests = clients * ROUNDS if kind == "closed_concurrency" and jitter < 1 else NEVER
    if kind in ("offline_all_at_once", "burst_all_at_once"):
        requests = clients
    engine = engine_of(str(row.get("framework", "")), gpu)
    tokens = int(-(-(_number(row, "isl_tokens") + clients / spread.dp) // 64) + 1) * 64 if np.isfinite(clients) else 0
    if WHOLE in engine and kind != "offline_all_at_once" and tokens > WHOLE_TOKENS:
        engine += f" with {{ step_tokens = {tokens} }}"
    text = _plan(row, model, precision, spread, engine=engine, known=known)
    return Row(text, kind, input=isl, output=osl, clients=clients, requests=requests, rate=rate)


def _spread(row: Cells) -> Spread:
    """The degrees of a row; without experts of their own ranks they are split like the rest."""
    dp, pp, tp, attn, ep = (int(_number(row, n, 1)) for n in ("replicas", "pp", "tp", "attn_dp", "ep"))
    if attn > 1 and tp not in (1, attn):
        raise Refused("data-parallel attention over groups of tensor parallelism is not modelled")
    ranks = max(tp, attn)
    if ranks % ep:
        raise Refused("the ranks do not make whole groups of experts")
    return Spread(dp, pp, 1 if attn > 1 else tp, attn, ep)


BENCHES = {
    "llama2-70b": ("llama_2_70b", 294.0, 294.0),
    "llama3.1-405b": ("llama_3_1_405b", 9428.0, 684.0),
    "llama3.1-8b": ("llama_3_1_8b", 778.0, 128.0),
    "llama3_1-70b": ("llama_3_1_70b", 294.0, 289.0),
    "mixtral-8x7b": ("mixtral_8x7b", 294.0, 145.0),
    "deepseek-r1": ("deepseek_r1", 1000.0, 3880.0),
}
"""Model and mean lengths of MLPerf Inference's benchmarks (its datasets: OpenOrca, CNN-DailyMail, and others)."""

DEGREES = (1, 2, 4, 8)
"""Of tensor parallelism, that a submission may have run where it does not state one."""


def _mlperf_row(row: Cells, known: Known) -> Row:
    """A row of mlperf.csv. Every submission quantises: what it names is the checkpoint where it says 16 bits."""
    bench = str(row["bench"])
    name, isl, osl = next((v for k, v in BENCHES.items() if bench.startswith(k)), ("", 0.0, 0.0))
    if not name:
        raise Refused(f"no model is known for the benchmark {bench}")
    if str(row["scenario"]).lower() != "offline":
        raise Refused("the highest rate within a limit on the 99th percentile takes a simulation request by request")
    gpu = _gpu(row, known)
    if not known("model", name):
        raise Refused(f"the catalog has no model {name}")
    dtype = "fp8" if "fp8" in bench else str(row.get("weight_dtype", ""))
    if dtype not in PRECISION or dtype in ("fp16", "bf16"):
        dtype = "fp4" if gpu.startswith(("b", "gb", "rtx_pro")) else "fp8"
    pp, gpus = int(_number(row, "pp", 1)), int(_number(row, "n_gpu", 1))
    stated = _number(row, "tp")
    degrees = [n for n in (DEGREES if np.isnan(stated) else (int(stated),)) if gpus % (n * pp) == 0]
    if not degrees:
        raise Refused("the GPUs do not make whole replicas")
    engine = engine_of(str(row.get("framework", "")), gpu)
    plans = [_plan(row, name, dtype, Spread(gpus // (tp * pp), pp, tp), engine=engine, known=known) for tp in degrees]
    most = _number(row, "max_batch", ENDLESS) * (gpus // (degrees[0] * pp))
    osl = _number(row, "mean_osl_tokens", osl)
    return Row(
        plans[0], "offline_all_at_once", input=isl, output=osl, clients=most, requests=NEVER, others=tuple(plans[1:])
    )


def serving_groups(table: Table, compile_: Compile, known: Known) -> Iterator[tuple[Deployment, list[Row], list[int]]]:
    """Rows of serving.csv by plan and kind of load, compiled: what engines are fitted to."""
    rows, _ = read_rows(table, _serving_row, known)
    for (text, _), of in by_load(rows).items():
        yield compile_(text), [rows[at] for at in of], of


def read_serving_rows(table: Table, known: Known) -> tuple[dict[int, Row], dict[int, str]]:
    """Rows of a `serving.csv` that have a plan, by their place, and the reasons of those that have none."""
    return read_rows(table, _serving_row, known)
