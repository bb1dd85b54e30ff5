"""Rows of serving.csv as plans and loads: who served what on which GPUs, and what was asked of them.

What a row does not say is taken from how the engines are run by default; `kv_dtype` has the one guess that matters.
"""

from __future__ import annotations

import re

import numpy as np

from plandsl.backends.accuracy.lengths import FIXED, read_jitter
from plandsl.backends.accuracy.names import PRECISION, Known, engine_of, find_gpu, find_model, precision_of
from plandsl.backends.accuracy.row import ENDLESS, NEVER, ROUNDS, Cells, Row, degree, number, text
from plandsl.backends.accuracy.spread import Refused, Served, Spread, plan_text, pools_text

LOADS = (
    (r"closed.*|concurren.*", "closed_concurrency"),
    (r"static.*", "static_batch"),
    (r"offline.*|saturat.*", "offline_all_at_once"),
    (r"burst.*", "burst_all_at_once"),
    (r"open.*|poisson.*", "open_poisson"),
)
"""Kinds of load by what a row calls them."""

QUEUED = ((256, 30_000), (3072, 3000), (12_288, 1500), (float("inf"), 1000))
"""Requests that are queued where a row does not say how many, by the tokens of a request, both ways.

Source: NVIDIA, TensorRT-LLM performance overview, "Preparing a Dataset" (30,000 of 128 + 128 tokens; 3,000 of
1024 + 1024; 1,500 of 8192 + 1024; 1,000 of 32768 + 1024).
"""


LONGEST = 1 << 21
"""The most tokens of a request. Tables of steps end there too; no benchmark asks for more."""

WHOLE, WHOLE_TOKENS = "trtllm", 8192
"""An engine that does not cut prompts, and the tokens of its steps by default.

Benchmarks raise them where the longest prompt does not fit beside a token of each request in flight, up to whole
multiples of 64 (InferenceX's scripts: `max_num_tokens` of concurrency + input + 64; trtllm-bench, where prompts are not
cut: the longest input + `max_batch_size`, bench/benchmark/utils/general.py); else such a prompt would wait for others
to end.
"""

MOST_RUNNING = 4096
"""The most requests that trtllm-bench lets run at once, however many wait (bench/build/tuning.py)."""


def serving_row(row: Cells, known: Known) -> Row:
    """The plan and the load of a row. Raises `Refused` where there is none."""
    plan, pools = _plan(row, known)
    low, high = read_jitter(text(row, "length_jitter"))
    mean = (low + high) / 2
    isl, osl = number(row, "isl_tokens") * mean, number(row, "osl_tokens") * mean
    if np.isnan(isl + osl):
        raise Refused("lengths are not stated")
    if isl < 1 or osl < 1:
        raise Refused("a length is less than one token")
    if isl + osl > LONGEST:
        raise Refused(f"a request has more than {LONGEST:,} tokens")
    spread = FIXED if low == high else (low / mean, high / mean)
    kind = load_kind(row)
    clients, requests = _load(row, kind, isl + osl, jitter=low < high)
    medians = tuple(m for m in ("ttft", "tpot") if text(row, f"{m}_stat").lower() in ("median", "p50"))
    if pools and kind == "static_batch":
        kind = "burst_all_at_once"
    return Row(
        plan, kind, input=isl, output=osl, clients=clients, requests=requests,
        rate=number(row, "request_rate_per_s", 0.0), spread=spread, medians=medians, pools=1 + pools,
    )  # fmt: skip


def load_kind(row: Cells) -> str:
    """The kind of a row's load; where it says none, what its concurrency or its rate implies."""
    said = text(row, "load_kind").lower()
    if found := next((kind for pattern, kind in LOADS if re.fullmatch(pattern, said)), ""):
        return found
    if not said and number(row, "concurrency") > 0:
        return "closed_concurrency"
    if not said and number(row, "request_rate_per_s") > 0:
        return "open_poisson"
    raise Refused(f"no load is known that is {said or 'not stated'}")


def _load(row: Cells, kind: str, tokens: float, jitter: bool) -> tuple[float, float]:
    """Requests in flight and in all, of ``tokens`` tokens each."""
    clients = number(row, "concurrency")
    if kind == "open_poisson":
        if not number(row, "request_rate_per_s") > 0:
            raise Refused("the rate of requests is not stated")
        return clients, NEVER
    if np.isnan(clients) and kind == "offline_all_at_once":
        clients = queued(tokens)
    if not 1 <= clients <= ENDLESS:
        raise Refused("the number of requests in flight is not stated")
    if kind == "closed_concurrency":
        return clients, clients * ROUNDS if jitter else NEVER
    return clients, NEVER if kind == "static_batch" else clients


def queued(tokens: float) -> float:
    """Requests that are queued, where a row does not say how many, if each has so many tokens."""
    return float(next((count for most, count in QUEUED if tokens <= most), np.nan))


# ---- what was run


def _plan(row: Cells, known: Known) -> tuple[str, bool]:
    """The text of a plan, and whether it has two pools."""
    gpu = find_gpu(text(row, "gpu"), known)
    if not gpu:
        raise Refused(f"the catalog has no GPU {text(row, 'gpu') or '(none)'}")
    named = text(row, "model")
    model = find_model(named, known) or find_model(text(row, "checkpoint"), known)
    if not model:
        raise Refused(f"the catalog has no model {named or '(none)'}")
    said = text(row, "precision")
    precision = precision_of(said, text(row, "checkpoint"))
    if not precision:
        raise Refused(f"no meaning is known for the precision {said}")
    weights, cache = PRECISION[precision]
    served = Served(model, gpu, weights=weights, cache=cache, engine=_engine(row, gpu))
    mode = text(row, "serving_mode").lower()
    if mode.endswith("only"):
        raise Refused(f"{mode}: one pool by itself, without the requests that it would get from the other")
    if mode.startswith("disagg") or (not mode and number(row, "decode_workers") > 0):
        prefill, decode = (_pool(row, name) for name in ("prefill", "decode"))
        return pools_text(served, prefill, decode, known), True
    return plan_text(served, _spread(row), known), False


def _engine(row: Cells, gpu: str) -> str:
    """The engine as a plan names it, with the tokens of its steps where the benchmark raised them."""
    engine = engine_of(text(row, "framework"), gpu)
    isl, osl = number(row, "isl_tokens"), number(row, "osl_tokens")
    clients = number(row, "concurrency")
    if load_kind(row) == "offline_all_at_once":
        clients = min(queued(isl + osl) if np.isnan(clients) else clients, MOST_RUNNING)
    longest = isl + clients / degree(row, "replicas") + 64
    if WHOLE not in engine or np.isnan(longest):
        return engine
    tokens = int(-(-longest // 64)) * 64
    return f"{engine} with {{ step_tokens = {tokens} }}" if tokens > WHOLE_TOKENS else engine


def _spread(row: Cells) -> Spread:
    """The degrees of a row with one pool; without experts of their own ranks they are split like the rest.

    With data-parallel attention, ``tp`` counts the ranks of a group of attention; or all ranks, as SGLang has it, where
    ``n_gpu`` says that there are no more.
    """
    pp, tp, attn, ep = (degree(row, name) for name in ("pp", "tp", "attn_dp", "ep"))
    gpus = number(row, "n_gpu")
    engines = degree(row, "replicas") * pp
    if attn > 1 and tp > 1 and tp % attn == 0 and gpus != tp * attn * engines:
        tp //= attn
    dp = degree(row, "replicas")
    if np.isnan(number(row, "replicas")) and gpus > tp * attn * pp and gpus % (tp * attn * pp) == 0:
        dp = int(gpus) // (tp * attn * pp)
    return checked(Spread(dp, pp, tp, attn, ep))


def _pool(row: Cells, name: str) -> Spread:
    """The degrees of a pool: workers of ``tp attn_dp`` GPUs."""
    dp, tp, attn, ep = (degree(row, f"{name}_{of}") for of in ("workers", "tp", "attn_dp", "ep"))
    return checked(Spread(dp=dp, tp=tp, attn_dp=attn, ep=ep))


def checked(spread: Spread) -> Spread:
    """The same degrees. Raises `Refused` where the experts do not fill the ranks."""
    if spread.ranks % spread.ep:
        raise Refused(f"{spread.ranks} ranks do not make whole groups of {spread.ep} ranks of experts")
    return spread
