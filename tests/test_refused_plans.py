"""Mistakes that few plans have are told with what to write, and parts of one plan may stand for those of another."""

from __future__ import annotations

import pytest

from plandsl import limits
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, compile_text

LOAD = "input = 100, output = 10, batch = 8"
OVER_TIME = "input = 100, output = 10, rate = 3 req/s"
OTHER = "plan q { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, workload { input = 7, output = 3 } }\n"
SIZES = "layers = 2, hidden = 64, ffn = 128, vocab = 96, state_heads = 4, state_width = 8, state_dim = 16"


def plan(more: str = "", load: str = LOAD, node: str = "h100_8") -> str:
    return f"plan p {{ model = llama_3_1_8b, node = {node}, {more} workload {{ {load} }} }}\n"


def block(text: str) -> str:
    """A model with this block, and a plan of it."""
    return f"""model m {{
  {SIZES}, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{
    h = rms_norm(x)
    {text}
  }}
  head rms_norm(x) @ w_head[hidden, vocab]
}}
""" + plan().replace("llama_3_1_8b", "m")


def recurrence(
    q: str = "state_width", k: str = "state_width", v: str = "h @ w_v[hidden, state_heads, state_dim]"
) -> str:
    return block(f"""y = recurrence(h @ w_q[hidden, {q}], h @ w_k[hidden, {k}], {v}, slopes = true)
    x = x + y @ w_o[state_heads, state_dim, hidden]""")


def gpu(fields: str) -> str:
    return f"""gpu g = h100_sxm with {{ {fields} }}
node n {{ gpu = g, count = 8, link {{ topology = switch, bandwidth = 450 GB/s, latency = 2 us }} }}
""" + plan(node="n")


def found(text: str, **bounds: int) -> list[Diagnostic]:
    with limits.override(bounds), pytest.raises(PlanError) as raised:
        compile_text(text)
    return list(raised.value.diagnostics)


def one(text: str) -> CompiledPlan:
    return compile_text(text)[-1]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (recurrence(v="w_v[hidden, state_heads, state_dim]"), "E475", "are computed for each token"),
        (recurrence(v="h @ w_v[hidden, state_heads, state_dim, ffn]"), "E475", "at most one more"),
        (recurrence(q="state_dim", k="state_dim"), "E475", "both have the dimension `state_dim`"),
        (recurrence(q="nope"), "E201", "no dimension `nope`"),
        (block("x = 2 * 3"), "E213", "expected a tensor, found a number"),
        (plan("sharding { dp = 2; heads -> data },"), "E308", "`data` counts independent replicas"),
        (plan("sharding { mesh a = 2; in attention { layers -> a } },"), "E308", "not inside attention"),
        (plan(node="v100_8"), "E304", "`v100` lists no bf16 peak"),
        (plan(load=OVER_TIME + ", sessions { turns = 3, think = vllm_range(9) }"), "E241", "draws lengths, not times"),
        (
            plan(load=OVER_TIME + ", sessions { turns = 3, think = zipf(2, max = 9) }"),
            "E241",
            "whole numbers, not times",
        ),
        (plan(load=OVER_TIME.replace("100", 'empirical("x.csv", column = 3)')), "E210", "`column` must be a string"),
        ('let f = "no.csv"\n' + plan(load=OVER_TIME.replace("100", "empirical(f)")), "E209", "not read from a folder"),
        (OTHER + plan("sharding = q.nope,"), "E201", "there is no sharding named `q.nope`"),
        (OTHER + plan("sharding = q.sharding.tp.x,"), "E201", "there is no sharding named `q.sharding.tp.x`"),
        (OTHER + plan("sharding = q.sharding.x.y,"), "E201", "there is no sharding named `q.sharding.x.y`"),
        (plan("sharding = min(1, 2).sharding,"), "E210", "expected the name of a sharding"),
        (plan('"abc",'), "E210", "does not belong in a plan"),
    ],
)
def test_a_seldom_mistake_has_its_code(text: str, code: str, words: str) -> None:
    (mistake,) = found(text)
    assert mistake.code == code
    assert words in mistake.message
    assert mistake.span is not None


def test_a_format_that_a_gpu_lacks_is_replaced_as_the_hint_says() -> None:
    (mistake,) = found(plan(node="v100_8"))
    assert "`model = llama_3_1_8b with { weights = fp16, activations = fp16 }`" in mistake.hint
    model = mistake.hint.split("`")[1].removeprefix("model = ")
    assert one(plan(node="v100_8").replace("llama_3_1_8b", model)).estimate().ok


def test_chains_of_declarations_are_bounded_wherever_they_are_entered() -> None:
    chain = "sharding s0 { tp = 4 }\n" + "".join(f"sharding s{n} = s{n - 1}\n" for n in range(1, 5))
    first, last = plan("sharding = s1,").replace("plan p", "plan first"), plan("sharding = s4,")
    for text in (chain + last, chain + first + last):
        assert {d.code for d in found(text, expansion=3)} == {"E208"}
    whole = "".join(f" with {{ tp = {n} }}" for n in (2, 4, 8))
    (mistake,) = found("sharding s0 { pp = 1 }\n" + plan(f"sharding = s0{whole},"), expansion=2)
    assert (mistake.code, mistake.message) == ("E208", "more than 2 `with` on one value")


def test_a_part_of_a_plan_stands_for_the_same_part_of_another() -> None:
    taken = one(OTHER + "plan p { model = llama_3_1_8b, node = h100_8, sharding = q.sharding, workload = q.workload }")
    written = compile_text(OTHER)[0].spec.sharding
    assert (taken.spec.sharding.axes, taken.spec.sharding.rules) == (written.axes, written.rules)
    assert (taken.spec.workload.input, taken.spec.workload.output) == (7, 3)
    more = one(OTHER + plan("sharding = q.sharding with { pp = 2 },"))
    assert more.spec.sharding.ranks == 4
    assert one(OTHER + plan().replace("workload {", "workload = q.workload with {")).spec.workload.input == 100


@pytest.mark.parametrize("swap", [False, True])
def test_what_is_assumed_of_a_section_stands_below_what_is_known(swap: bool) -> None:
    parts = ["assumed { compute { bf16 = 4 TFLOP/s, fp8 = 3 TFLOP/s } }", "compute { bf16 = 2 TFLOP/s }"]
    peaks = one(gpu("\n".join(parts[::-1] if swap else parts))).spec.common_gpu
    assert (peaks.peak("bf16"), peaks.peak("fp8")) == (2e12, 3e12)


def test_numbers_multiply_one_another_before_a_tensor() -> None:
    texts = [block(f"x = x + {factor} * h") for factor in ("2 * 3", "6")]
    first, second = (one(text).estimate().as_json() for text in texts)
    assert first == second
