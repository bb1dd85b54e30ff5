"""Laws of monotony on what ships: models, GPUs and engines of the catalog, under any load.

Kernels are fitted, and fitted forms have tiles, splits and thresholds. A request more may cost a tile, but no form
loses more than a tenth of the throughput at one size, and better hardware never makes a request wait longer.
"""

from __future__ import annotations

from hypothesis import assume, example, given
from hypothesis import strategies as st

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.grammar.modules import CATALOG
from plandsl.testing.laws import assert_law
from plandsl.testing.laws_cost import better_hardware_is_never_slower
from plandsl.testing.laws_relations import more_requests_hardly_lower_throughput

MODELS = sorted(path.stem for path in (CATALOG / "models").glob("*.plan"))
NVIDIA = ("a100_sxm", "h100_sxm", "h200_sxm", "h20", "b200_sxm", "gb300", "l40s", "rtx_pro_6000", "rtx_4090", "a40")
AMD = ("mi300x", "mi325x", "mi355x")
FORMATS = ("", " with { weights = fp8, kv_cache = fp8 }", " with { weights = fp8_128x128 }")
DEALT = "mesh g = {}\n experts -> g\n batch -> g"
"""Each rank attends for requests of its own, and holds experts of its own."""


def wrote(model: str, gpu: str, engine: str | None, sharding: str, *, load: str, chunked: int | None = None) -> str:
    more = (f"  engine = {engine} with {{ fusions = [] }}\n" if engine else "") + (
        f"  chunked_prefill = {chunked}\n" if chunked else ""
    )
    what = f"  model = {model}\n  node = {gpu}_8\n  sharding {{ {sharding} }}\n  workload {{ {load} }}\n"
    return f"plan p {{\n{what}{more}}}"


@st.composite
def shipped(draw: st.DrawFn) -> CompiledPlan:
    """A plan with a model, a GPU and mostly an engine of the catalog."""
    gpu = draw(st.sampled_from(NVIDIA + AMD))
    engines = ("vllm_rocm", "atom", "sglang") if gpu in AMD else ("vllm", "trtllm", "sglang", "trtllm_1_0_0rc3")
    engine = draw(st.sampled_from((None, *engines)))
    ranks = draw(st.sampled_from((1, 2, 4, 8)))
    split = draw(st.sampled_from((f"tp = {ranks}", f"tp = {ranks}", f"tp = {max(ranks // 2, 1)}, pp = 2", DEALT)))
    input_, output = (round(2 ** draw(st.floats(low, high))) for low, high in ((4, 13.5), (1, 11)))
    kind = draw(st.sampled_from(("batch", "concurrency") if engine else ("batch",)))
    text = wrote(
        draw(st.sampled_from(MODELS)) + draw(st.sampled_from(FORMATS)), gpu, engine, split.format(ranks),
        load=f"input = {input_}, output = {output}, {kind} = {draw(st.integers(1, 300))}",
        chunked=draw(st.sampled_from((None, None, 512, 1024, 2048, 8192))),
    )  # fmt: skip
    try:
        (made,) = compile_text(text)
    except PlanError:
        assume(False)
    return made


def compiled(
    model: str, gpu: str, engine: str, sharding: str, *, load: str, chunked: int | None = None
) -> CompiledPlan:
    return compile_text(wrote(model, gpu, engine, sharding, load=load, chunked=chunked))[0]


BESIDE = compiled(
    "qwen2_5_72b", "h100_sxm", "sglang", "tp = 4", load="input = 464, output = 5, concurrency = 2", chunked=512
)
"""Requests that decode would take the whole budget of a step, if as many decoded as are in flight."""

WAITING = compiled("mistral_nemo", "h100_sxm", "trtllm", "tp = 8", load="input = 8659, output = 153, concurrency = 227")
"""Prompts that come back the faster, the faster the tokens are made."""


@given(made=shipped())
@example(made=BESIDE)
def test_law_more_requests_hardly_lower_throughput(made: CompiledPlan) -> None:
    assert_law(more_requests_hardly_lower_throughput, made)


@given(made=shipped())
@example(made=WAITING)
@example(
    made=compiled("llama_3_2_3b", "rtx_4090", "trtllm", "tp = 2", load="input = 197, output = 42, concurrency = 34")
)
def test_law_better_hardware_makes_no_request_wait(made: CompiledPlan) -> None:
    better_hardware_is_never_slower(made)
