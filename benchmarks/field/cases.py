"""The questions as claims: the value that the thread reports, ours, and how exactly the thread knows it.

A claim's name is the number of the case and of the row. Tokens of KV cache that an engine logs are exact, so 3 %
apply; a rate read off a chat log or a chart is within 20 %. An order has to come out right.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from benchmarks.claim import Claims, Value
from plandsl.backends.cost.answers.estimate import Estimate
from plandsl.backends.cost.deployments.blocks import count_tokens
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_file, compile_text
from plandsl.spec.plan import ADAPTED

FOLDER = Path(__file__).resolve().parent
FIELD = Claims()
GIB = 1 << 30
LOGGED = 0.03
"""Tolerance of a count that an engine logged."""
READ = 0.2
"""Tolerance of a time or rate that somebody read off a log or a chart."""

IN_FLIGHT = (4, 16, 64, 256)
"""Requests in flight of case 11."""

SOURCES = {
    "F3": "vllm issue 6746",
    "F4": "vllm issue 10517",
    "F7": "vllm issue 6955",
    "F9": "vllm issue 17569",
    "F10": "tenstorrent/tt-inference-server issue 356",
    "F11": "TensorRT-LLM PR 11559",
    "F14": "mitchross/talos-argocd-proxmox PR 1995 and PR 2010",
    "F15": "TensorRT-LLM issue 1144",
    "F20": "predibase/lorax issue 333, vllm PR 11267",
    "F21": "vllm PR 23000",
    "F29": "a collective takes no less than one latency of its link",
    "F30": "fewer bytes are not slower",
    "F31": "model cards",
}
"""Case -> where it is from."""


@cache
def plans(name: str) -> dict[str, CompiledPlan]:
    """The plans of one file of this folder, by name."""
    return {p.name: p for p in compile_file(FOLDER / f"{name}.plan")}


@cache
def estimate(name: str, plan: str) -> Estimate:
    """The estimate of one plan of a file."""
    return plans(name)[plan].estimate()


def _codes(name: str) -> set[str]:
    """The codes of the errors in a file; empty if it compiles."""
    try:
        compile_file(FOLDER / f"{name}.plan")
    except PlanError as error:
        return {d.code for d in error.diagnostics}
    return set()


def _holds(found: Estimate, metric: str, seen: float) -> bool:
    """Whether the band of a metric holds the value that was seen."""
    band = found.band(metric)
    return band is not None and band[0] <= seen <= band[1]


def _parameters(config: str) -> float:
    """Parameters of a config, in 10^9."""
    text = f"""
        model m = hf("configs/{config}.json")
        plan p {{ model = m, node = h200_8, workload {{ input = 1000, output = 100, batch = 1 }} }}
    """
    (plan,) = compile_text(text, str(FOLDER / "parameters.plan"))
    return plan.estimate().parameters / 1e9


# ---- memory


@FIELD.add("F3.1", "405B fp8, tp 8: GiB of weights per GPU", 57.75, rel=0.01)
def _weights_405b() -> Value:
    return estimate("f03", "context").memory.weights / GIB


@FIELD.add("F3.2", "405B fp8, tp 8: tokens of KV cache", 79_392, rel=LOGGED, gated=False)
def _tokens_405b() -> Value:
    """Not gated: vLLM 0.5.3 logged it, and the engine here is 0.19; the difference is 1 GiB of 71."""
    return estimate("f03", "context").kv_capacity_tokens


@FIELD.add("F3.3", "405B fp8, tp 8: a context of 131,072 fits", False)
def _context_405b() -> Value:
    return estimate("f03", "context").kv_capacity_tokens >= 131_072


@FIELD.add("F4.1", "8B on 24 GB, steps of 20,000 tokens: tokens of KV cache", 31_232, rel=LOGGED)
def _steps_20k() -> Value:
    return estimate("f04", "at_20k").kv_capacity_tokens


@FIELD.add("F4.2", "8B on 24 GB, steps of 29,000 tokens: tokens of KV cache", 23_648, rel=LOGGED)
def _steps_29k() -> Value:
    return estimate("f04", "at_29k").kv_capacity_tokens


@FIELD.add("F4.3", "8B on 24 GB: contexts of 20,000 and 35,000 in chunks start, 29,000 does not", (True, False, True))
def _starts() -> Value:
    needs = {"at_20k": 20_000, "at_29k": 29_000, "chunks": 35_000}
    return tuple(estimate("f04", name).kv_capacity_tokens >= need for name, need in needs.items())


POOL = 4.99 * GIB
"""Bytes of KV memory on each card of case 14, as vLLM logged them."""


@FIELD.add("F14.1", "hybrid 27B fp8, tp 2: tokens of a block, raised to a state of a layer", 1568)
def _raised_block() -> Value:
    return plans("f14")["long"].cost.memory.block


@FIELD.add(
    "F14.2", "hybrid 27B fp8, tp 2: tokens in the pool, for requests of 131,072 and of 262,144", (302_921, 313_367)
)
def _pool_of_states() -> Value:
    """The prefix cache keeps a second state of each request."""
    memory = plans("f14")["long"].cost.memory
    layers, step = memory.layers(0), memory.profile.step
    return tuple(int(count_tokens(layers, POOL, memory.block, n, step)) for n in (131_072, 262_144))


@FIELD.add("F14.3", "hybrid 27B fp8, tp 2: a context of 262,144 fits")
def _context_of_states() -> Value:
    return estimate("f14", "long").start.longest >= 262_144


@FIELD.add("F14.4", "hybrid 27B fp8, tp 2: GiB of the pool on a card", 4.99, rel=LOGGED, gated=False)
def _pool() -> Value:
    """Not gated: the checkpoint has a vision encoder, whose weights and largest images take memory first."""
    return estimate("f14", "long").start.kv_bytes / GIB


# ---- stored formats


@FIELD.add("F9.1", "Qwen3-235B in blocks of 128, tp 8 is refused")
def _refused() -> Value:
    return bool(_codes("f09_refused"))


@FIELD.add("F9.2", "Qwen3-235B in blocks of 128, tp 4 and ep 8 compile")
def _runs() -> Value:
    return not _codes("f09")


for _number, (_config, _published) in enumerate(
    {"qwen3_235b_fp8": 235.0, "kimi_k2": 1026.0, "qwen2_5_14b": 14.8}.items(), 1
):
    FIELD.add(f"F31.{_number}", f"parameters of {_config}, 10^9", _published, rel=0.005)(
        lambda config=_config: _parameters(config)
    )

# ---- encoders


@FIELD.add("F21.1", "an encoder reads texts of 512 tokens on an H100 no slower than behind HTTP: 515,900 tok/s")
def _reads() -> Value:
    """A bound: the thread names no GPU, and its server is bound by HTTP, with 16 texts a request 2.4 times as fast as
    with one, while the GPU does the same.
    """
    return estimate("f21", "h100").throughput_tokens_per_s >= 515_900


@FIELD.add("F21.2", "the same, tok/s", 515_900.0, rel=READ, gated=False)
def _texts() -> Value:
    """Not gated: for the same reason."""
    return estimate("f21", "h100").throughput_tokens_per_s


@FIELD.add("F21.3", "its answer has texts/s and no TPOT")
def _no_tokens() -> Value:
    found = estimate("f21", "h100").as_json()
    return found["texts_per_s"] > 0 and not {"tpot_s", "kv_capacity_tokens", "decode"} & found.keys()


# ---- links


@FIELD.add("F7.1", "70B int4 over PCIe, one client: tok/s on two and four cards", (30.0, 46.0), rel=READ, gated=False)
def _one_client() -> Value:
    """Not gated: nobody measured kernels of 4-bit weights on these GPUs. GEMMs of fp16 stand for them, in which few
    rows take more arithmetic beside the bytes than in kernels that are made for 4 bits.
    """
    return tuple(1 / estimate("f07", name).tpot_s for name in ("two", "four"))


@FIELD.add("F7.2", "70B int4 over PCIe, five clients: tok/s on two and four cards", (121.0, 152.0), rel=READ)
def _five_clients() -> Value:
    return tuple(5 / estimate("f07", name).tpot_s for name in ("two_5", "four_5"))


@FIELD.add("F7.3", "70B int4 over PCIe, prompts: tok/s on two and four cards", (361.0, 386.0), rel=READ, gated=False)
def _prompts() -> Value:
    """Not gated: the rate is a mean over seconds in which the engine decodes too, of prompts of unknown length."""
    return tuple(2000 / estimate("f07", name).ttft_s for name in ("two", "four"))


@FIELD.add("F20.1", "7B on one L40S, one request: the band of TPOT with an adapter holds 1 / 35 tok/s")
def _tpot_with_adapter_in_band() -> Value:
    return _holds(estimate("f20", "adapted"), "tpot_s", 1 / 35)


@FIELD.add("F20.2", "7B on one A100, 128 requests: the band of the loss with an adapter holds 7.60 for 11.45 req/s")
def _loss_with_adapter_in_band() -> Value:
    base, adapted = (estimate("f20", name).throughput_tokens_per_s for name in ("many", "many_1"))
    return adapted / base / ADAPTED <= 7.60 / 11.45 <= adapted / base


@FIELD.add("F20.3", "one adapter costs time, four cost no less, and 64 of a high rank more")
def _order_of_adapters() -> Value:
    base, one, four, many = (estimate("f20", n).tpot_s for n in ("many", "many_1", "many_4", "many_64"))
    return base < one <= four < many


@FIELD.add("F29.1", "collectives over a link of 100 us a message take 100 us each, or more")
def _latency() -> Value:
    rows = estimate("f29", "at_100us").communication.rows
    return all(row.time_s / row.calls >= 100e-6 for row in rows)


# ---- small steps


@FIELD.add("F10.1", "R1 on 2 x 8 H100, tp 16, one request: TPOT, ms", 23.1, rel=READ, gated=False)
def _tpot_two_nodes() -> Value:
    return 1e3 * estimate("f10", "in_128").tpot_s


@FIELD.add("F10.2", "the same: the band of TPOT holds it")
def _tpot_two_nodes_in_band() -> Value:
    return _holds(estimate("f10", "in_128"), "tpot_s", 23.1e-3)


@FIELD.add("F10.3", "the same: TTFT at 128, 4096 and 8192 in, ms", (180.0, 200.0, 264.0), rel=READ, gated=False)
def _ttft_two_nodes() -> Value:
    return tuple(1e3 * estimate("f10", f"in_{n}").ttft_s for n in (128, 4096, 8192))


@FIELD.add("F10.4", "the same: the bands of TTFT hold them")
def _ttft_two_nodes_in_band() -> Value:
    seen = {128: 0.180, 4096: 0.200, 8192: 0.264}
    return all(_holds(estimate("f10", f"in_{n}"), "ttft_s", value) for n, value in seen.items())


@FIELD.add("F11.1", "GLM-4.7 on 8 H100, 4 to 256 in flight: TPOT, ms", (19.8, 26.1, 35.4, 55.8), rel=READ, gated=False)
def _tpot_glm() -> Value:
    """Not gated, as the two rows below: few requests at once take TensorRT-LLM a quarter to two fifths longer.

    Rows of other models with experts do not show why (docs/calibration.md).
    """
    return tuple(1e3 * estimate("f11", f"c{n}").tpot_s for n in IN_FLIGHT)


@FIELD.add("F11.2", "the same: tok/s", (199.0, 595.0, 1752.0, 4341.0), rel=READ, gated=False)
def _rate_glm() -> Value:
    return tuple(estimate("f11", f"c{n}").throughput_tokens_per_s for n in IN_FLIGHT)


@FIELD.add("F11.3", "the same: TTFT, ms", (354.0, 355.0, 412.0, 888.0), rel=READ, gated=False)
def _ttft_glm() -> Value:
    found = [estimate("f11", f"c{n}") for n in IN_FLIGHT]
    return tuple(1e3 * (e.simulated.ttft.mean.value if e.simulated else e.ttft_s) for e in found)


@FIELD.add("F11.4", "the same with 64 and 256 in flight: TPOT, ms", (35.4, 55.8), rel=READ)
def _tpot_glm_busy() -> Value:
    return tuple(1e3 * estimate("f11", f"c{n}").tpot_s for n in (64, 256))


@FIELD.add("F30.1", "235B of experts, one request: weights of 8 and 4 bits, unpacked first, are not slower than 16")
def _fewer_bits() -> Value:
    bits16, bits8, bits4 = (estimate("f30", name).tpot_s for name in ("bits16", "bits8_weights_only", "bits4"))
    return bits4 <= bits8 <= bits16


@FIELD.add("F30.2", "the same in 8 bits throughout: not slower, or a note names what was measured so")
def _fewer_bits_or_a_reason() -> Value:
    bits16, bits8 = estimate("f30", "bits16"), estimate("f30", "bits8")
    return bits8.tpot_s <= bits16.tpot_s or "N430" in {note.code for note in bits8.notes}


# ---- traffic


@cache
def _slowest_tenth() -> tuple[float, ...]:
    """The 90th percentile of latency by plan, in seconds."""
    return tuple(p.simulate(requests=300).simulation.summary.latency.p90 for p in plans("f15").values())


@FIELD.add("F15.1", "13B on 4 A100, 3 req/s: tp 4 answers before tp 2 x pp 2, and that before pp 4")
def _order_of_cuts() -> Value:
    tp4, mixed, pp4 = _slowest_tenth()
    return tp4 < mixed < pp4
