"""Laws: what holds of every plan, however it is sharded, and that no text does worse than a diagnostic."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from plandsl.backends.cost.machine import links
from plandsl.backends.cost.time.pipeline import play_pipeline, play_sends
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.ir.types import shard_range
from plandsl.spec.hardware import LinkSpec
from plandsl.spec.plan import PlanSpec
from plandsl.testing import (
    LAWS,
    assert_law,
    assert_laws,
    compiled,
    deployments,
    laws_bounds,
    laws_cost,
    laws_growth,
    laws_schedule,
    laws_text,
    mixtures,
    plan_texts,
    plans,
    programs,
    same,
    show_plan,
)
from plandsl.testing import links as any_links
from plandsl.testing.known import Law
from plandsl.testing.laws_schedule import period_excess
from tests.draws import draws, pick, some

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.plan"))


# ---- every plan

ASKS_EACH_FIGURE = laws_cost.shares_follow_their_figures
"""The slowest law: it asks the model again for each figure."""

MAKE_OTHERS = (
    *(law for law in LAWS if law.__module__ in (laws_growth.__name__, laws_text.__name__)),
    laws_bounds.one_gpu_sends_nothing,
)
"""Laws that compile other plans, to compare them with the one that they are asked of."""

TOLD_APART = {
    "programs": [law for law in LAWS if law.__module__ != laws_cost.__name__ and law not in MAKE_OTHERS],
    "costs": [law for law in LAWS if law.__module__ == laws_cost.__name__ and law != ASKS_EACH_FIGURE],
}
"""Laws that share the plans that are drawn; to draw and compile a plan takes longer than most of them."""


@pytest.mark.parametrize("about", TOLD_APART)
@draws(1 / 2)
@given(plan=deployments())
def test_law(about: str, plan: PlanSpec) -> None:
    made = compiled(plan)
    for law in TOLD_APART[about]:
        assert_law(law, made)


@draws(1 / 3)
@given(plan=deployments(), law=st.sampled_from(MAKE_OTHERS))
def test_law_of_other_plans(plan: PlanSpec, law: Law) -> None:
    assert_law(law, compiled(plan))


@draws(1 / 3)
@given(plan=deployments())
def test_law_shares_follow_their_figures(plan: PlanSpec) -> None:
    assert_law(ASKS_EACH_FIGURE, compiled(plan))


@pytest.mark.parametrize("path", [p for p in EXAMPLES if "\nplan " in p.read_text("utf-8")], ids=lambda path: path.stem)
def test_law_holds_for_examples(path: Path) -> None:
    from plandsl.driver import compile_file

    made = compile_file(path)
    quick = [law for law in LAWS if law != ASKS_EACH_FIGURE and law not in MAKE_OTHERS]
    for plan in some(made, 3, path.stem):
        for law in some(quick, 2, path.stem, plan.name):
            assert_law(law, plan)
    for plan in some(made[:4], 4, path.stem, "others"):
        assert_law(MAKE_OTHERS[pick(len(MAKE_OTHERS), path.stem)], plan)
    for plan in some(made, 4, path.stem, "figures"):
        assert_law(ASKS_EACH_FIGURE, plan)


def test_each_law_says_what_it_is() -> None:
    assert all(law.__doc__ and law.__doc__.strip().endswith(".") for law in LAWS)
    assert len({law.__name__ for law in LAWS}) == len(LAWS)


def test_broken_law_is_named() -> None:
    (plan,) = compile_text(
        "plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, workload { input = 8, output = 8 } }"
    )
    plan.prefill = evolve(plan.prefill, program=evolve(plan.prefill.program, stages=()))
    with pytest.raises(AssertionError) as caught:
        assert_laws(plan)
    assert any("the law: " in note for note in caught.value.__notes__)


# ---- who holds what


@given(
    name=st.sampled_from(("batch", "position", "context")),
    size=st.integers(1, 40),
    axes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
)
def test_law_padded_dimension_is_cut_without_gap_or_overlap(name: str, size: int, axes: list[int]) -> None:
    held = [shard_range(name, size, list(zip(at, axes, strict=True))) for at in np.ndindex(*axes)]
    count = np.zeros(size, dtype=int)
    for start, stop in held:
        count[start:stop] += 1
    assert (count == 1).all()
    assert max(b - a for a, b in held) == -(-size // int(np.prod(axes)))
    assert held == sorted(held)


@given(heads=st.integers(1, 16), copies=st.integers(1, 8))
def test_law_key_heads_fewer_than_shards_have_equally_many_copies(heads: int, copies: int) -> None:
    held = [shard_range("kv_heads", heads, [(i, heads * copies)]) for i in range(heads * copies)]
    assert held == [(i // copies, i // copies + 1) for i in range(heads * copies)]


@given(program=programs())
def test_law_programs_of_any_pass_are_sound(program: object) -> None:
    from plandsl.ir.program import Program, verify

    assert isinstance(program, Program)
    assert list(verify(program)) == []


# ---- links


@given(link=any_links(8), ranks=st.integers(2, 64), payload=st.floats(1, 1e12))
def test_law_on_a_ring_all_reduce_costs_reduce_scatter_and_all_gather(
    link: LinkSpec, ranks: int, payload: float
) -> None:
    f = links.fabric(link, 0.8)

    def ring(ways: list[links.Algorithm]) -> float:
        return float(links.seconds([w for w in ways if w.name == "ring"], payload))

    apart = ring(links.reduce_scatter(f, ranks)) + ring(links.all_gather(f, ranks))
    assert ring(links.all_reduce(f, ranks)) == pytest.approx(apart, rel=1e-12)


@given(link=any_links(8), ranks=st.integers(2, 64), payload=st.floats(1, 1e12), more=st.floats(1, 100))
@pytest.mark.parametrize("collective", links.COLLECTIVES)
def test_law_more_bytes_take_no_less_time(
    collective: str, link: LinkSpec, ranks: int, payload: float, more: float
) -> None:
    ways = links.COLLECTIVES[collective](links.fabric(link, 0.8), ranks)
    assert links.seconds(ways, payload * more) >= links.seconds(ways, payload)


# ---- any text


VOCABULARY = """
model gpu node sharding workload plan let use with in mesh require vary block head embedding layers heads kv_heads
ffn vocab tokens batch context hidden tensor stage seq a b tp pp sp dp cp ep 0 1 2 3 8 1000 1e9 0.5 -1 80 %
9999999999999 GB GB/s TFLOP/s us ms s -> = == <= >= < > + - * / @ .. . , ; ( ) [ ] { } # " "x" bf16 fp8 fp4 true
false none and or not by attention rms_norm rope silu llama_3_1_8b h100_8 mi325x_8 ttft tpot memory throughput
experts ring gather hop_tensors kv_residency step_tokens memory_fraction
"""
WORDS = ("\n", *VOCABULARY.split())


@cache
def tokens_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s+|[A-Za-z_]\w*|[0-9.]+|\W", text))


def no_worse_than_a_diagnostic(text: str) -> None:
    """Compile, cost and report; anything but `PlanError` is ours."""
    try:
        found = compile_text(text)
    except PlanError as error:
        wrong = error
    else:
        for plan in found:
            plan.estimate().as_json()
        return
    assert wrong.diagnostics
    assert all(re.fullmatch(r"[EW]\d{3}", d.code) for d in wrong.diagnostics)
    assert str(wrong)


@st.composite
def mutated(draw: st.DrawFn, text: str, most: int = 4) -> str:
    """``text`` with some of its words exchanged, doubled, dropped or added."""
    words = list(tokens_of(text))
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(words) - 1))
        word = draw(st.sampled_from(WORDS) | st.sampled_from(words))
        match draw(st.sampled_from(("exchange", "drop", "add", "move"))):
            case "exchange":
                words[at] = word
            case "drop":
                del words[at : at + draw(st.integers(1, 6))]
            case "add":
                words.insert(at, word)
            case _:
                words[at : at + 2] = words[at : at + 2][::-1]
        words = words or ["x"]
    return "".join(words)


@draws(3)
@given(text=st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
@example(text="plan p { sharding { tp = 2 } }")
@example(text="")
def test_fuzz_words_compile_or_yield_diagnostics(text: str) -> None:
    no_worse_than_a_diagnostic(text)


@draws(3)
@given(data=st.data())
def test_fuzz_mutated_examples_compile_or_yield_diagnostics(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(EXAMPLES))
    no_worse_than_a_diagnostic(data.draw(mutated(path.read_text(encoding="utf-8"))))


@draws(3)
@given(data=st.data())
def test_fuzz_mutated_plans_compile_or_yield_diagnostics(data: st.DataObject) -> None:
    no_worse_than_a_diagnostic(data.draw(mutated(data.draw(plan_texts()))))


@given(text=st.text(max_size=200))
def test_fuzz_any_characters_yield_diagnostics(text: str) -> None:
    no_worse_than_a_diagnostic(text)


# ---- plandsl.testing itself


WHOLE = {"plans": plans(), "guesses": plans(speculate=True), "mixtures": mixtures(), "deployments": deployments()}


@draws(1 / 2)
@given(text=plan_texts())
def test_law_drawn_text_compiles_to_one_plan(text: str) -> None:
    (plan,) = compile_text(text)
    assert show_plan(plan.spec) == text


@pytest.mark.parametrize("strategy", WHOLE.values(), ids=WHOLE)
@draws(1 / 2)
@given(data=st.data())
def test_law_drawn_plans_are_legal_and_read_back(strategy: SearchStrategy[PlanSpec], data: st.DataObject) -> None:
    spec = data.draw(strategy)
    (again,) = compile_text(show_plan(spec))
    assert same(compiled(spec).spec, again.spec)


@draws(1 / 2)
@given(a=plans(), b=plans())
def test_law_plans_with_unequal_text_are_not_the_same(a: PlanSpec, b: PlanSpec) -> None:
    assert same(a, a)
    assert same(a, b) == (show_plan(a) == show_plan(b))


def test_without_hypothesis_strategies_say_what_to_install_and_laws_work() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; from plandsl.testing import laws, plans"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: plandsl.testing.plans needs hypothesis: pip install 'plandsl[testing]'"
    )


# ---- pipelines


@pytest.mark.parametrize("tie", [0.0, 1e-12, 1e-8, 1e-5, 1e-3, -1e-8, -1e-4])
def test_law_of_pipelines_needs_no_settling_where_two_circuits_nearly_tie(tie: float) -> None:
    """Five batches behind a slow stage take as long as one takes to pass, but for ``tie``."""
    spans, hops, batches = [1.0, 3.0 * (1 + tie), 2.0, 2.5], [2.5, 2.0, 2.0], 5
    through, around = sum(spans) + sum(hops), batches * max(*spans, *hops)
    period, state = max(through, around), 2 * len(spans) - 1 + batches
    runs = play_pipeline(spans, hops, batches, laws_schedule.ROUNDS + state)
    sends = play_sends(runs, hops)
    assert abs(period_excess(runs, sends, state, period)) < 1e-9 * period
    for wrong in (period * (1 - 1e-9), period * (1 + 1e-9)):
        assert abs(period_excess(runs, sends, state, wrong)) > 1e-9 * period


TURNS = """
model m {
  layers = 2, hidden = 1024, heads = 16, kv_heads = 16, head_dim = 64, ffn = 8192, vocab = 1024, weights = bf16
  embedding w_embed[vocab, hidden]
  block wide [layers = 0..1] x[tokens, hidden] {
    h = rms_norm(x)
    q = h @ w_q[hidden, heads, head_dim]
    k = h @ w_k[hidden, kv_heads, head_dim]
    x = x + attention(q, k, h @ w_v[hidden, kv_heads, head_dim], window = 8) @ w_o[heads, head_dim, hidden]
    x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  block long [layers = 1..2] x[tokens, hidden] {
    h = rms_norm(x)
    q = h @ w_q[hidden, heads, head_dim]
    k = h @ w_k[hidden, kv_heads, head_dim]
    x = x + attention(q, k, h @ w_v[hidden, kv_heads, head_dim]) @ w_o[heads, head_dim, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
plan p {
  model = m, node = h100_8, sharding { pp = 2 }
  workload { input = 8, output = 2000, batch = 16, in_flight = 8 }
}
"""


def test_law_of_pipelines_is_about_single_steps() -> None:
    """As the context grows the second stage becomes the slower one: the mean period is longer than mean stages give."""
    (plan,) = compile_text(TURNS)
    steps = [times for _, times in laws_schedule.single_steps(plan)]
    assert [times.slowest for times in steps[1:]] == [0, 1]
    mean = plan.cost.evaluate().decode
    assert mean.period > 1.01 * plan.decode.in_flight * max(s.span for s in mean.stages)
    laws_schedule.pipeline_settles_at_its_period(plan)
