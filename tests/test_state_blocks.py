"""Ranks that share the positions of a prompt hand on states: each scans its own block, and no positions travel."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.forms.recurrence import Shape, block_flops
from plandsl.backends.cost.time.mixed import Mix
from plandsl.backends.reference import states as reference
from plandsl.backends.reference.compute import Local
from plandsl.backends.reference.placement import Placement
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import Parts, compare
from plandsl.driver import CompiledPlan
from plandsl.ir.collectives import AllGather
from plandsl.ir.program import Program
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv
from plandsl.ir.text import read, show
from plandsl.ir.types import Mesh, Value, tensor
from tests.draws import draws
from tests.test_states import LAYERS, plan

TWO_AXES = "mesh a = 2, b = 2\n tokens -> a, b\n context -> a, b"
VALUES = "mesh seq = 2, values = 2\n tokens -> seq\n context -> seq\n state_dim -> values"
CASES = (
    ("gated delta net", "cp = 2"),
    ("Mamba-2", "cp = 4"),
    ("Mamba-1", "cp = 3, tp = 2"),
    ("lightning", "cp = 2, sp = 2, tp = 2"),
    ("gated delta net", TWO_AXES),
)


def ops_of(program: Program, *kinds: type) -> list[object]:
    return [op for region in program.regions for op in region.ops if isinstance(op, kinds)]


@pytest.mark.parametrize(("layer", "sharding"), CASES)
def test_blocks_of_positions_mean_what_the_whole_prompt_means(layer: str, sharding: str) -> None:
    made = plan(layer, sharding)
    verdict = made.verify(steps=2)
    assert verdict.ok, verdict.message
    assert not [d for d in made.findings if d.code == "N475"]


@pytest.mark.parametrize("layer", LAYERS)
def test_states_travel_and_positions_do_not(layer: str) -> None:
    made = plan(layer, "cp = 4, tp = 2")
    prefill = made.prefill.program.region("block.mixer").ops
    for op in (op for op in prefill if isinstance(op, ShortConv | Recurrence)):
        assert op.results[0].type.on("position") == ("context",)
        assert not any(x.type.on("position") for x in op.kept)
    gathers = [op for op in prefill if isinstance(op, AllGather)]
    assert gathers
    assert {op.dim for op in gathers} == {"blocks.context"}
    assert not ops_of(made.decode.program, BlockTail, BlockState)
    assert read(show(made.prefill.program)) == made.prefill.program


PLAIN = {layer: CompiledPlan(shrink(plan(layer, node="h100_1").spec), ()) for layer in LAYERS}


@draws(0.5)
@given(
    layer=st.sampled_from(list(LAYERS)),
    sharding=st.sampled_from(["cp = 2", "cp = 3", "cp = 4", TWO_AXES]),
    length=st.integers(1, 13),
    cut=st.integers(1, 12),
)
def test_law_blocks_may_be_shorter_than_a_convolution_or_empty(
    layer: str, sharding: str, length: int, cut: int
) -> None:
    plain = PLAIN[layer]
    axes = plan(layer, sharding).spec.sharding
    made = CompiledPlan(evolve(plain.spec, sharding=axes, node=plan(layer, sharding).spec.node), ())
    pairs = [(one.prefill.program, one.decode.program) for one in (made, plain)]
    parts = Parts((cut,) if cut < length else (), 1)
    verdict = compare(*pairs, {"batch": 2, "input": length}, steps=1, check=True, parts=parts)
    assert verdict.ok, f"{layer}, {sharding}, {length} tokens, {parts}: {verdict.message}"


@pytest.mark.parametrize("what", ["pass_block", "join_tails"])
def test_a_block_that_ignores_those_before_it_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan("gated delta net", "cp = 2")
    monkeypatch.setattr(reference, what, lambda before, *_: before)
    assert not made.verify(steps=1).ok


def test_a_decay_that_is_not_handed_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks: what the first adds decays in the second."""
    made = plan("Mamba-2", "cp = 3")
    monkeypatch.setattr(reference, "pass_block", lambda state, does, delta: state + does[..., : state.shape[-1]])
    assert not made.verify(steps=1).ok


def test_states_whose_values_are_split_are_told_that_each_rank_scans_all() -> None:
    made = plan("Mamba-2", VALUES)
    assert [d.code for d in made.findings if d.code == "N475"] == ["N475"]
    assert not ops_of(made.prefill.program, BlockState)
    assert ops_of(made.prefill.program, BlockTail)
    verdict = made.verify(steps=1)
    assert verdict.ok, verdict.message


def test_ops_without_what_other_blocks_hand_on_are_found() -> None:
    made = plan("Mamba-2", "cp = 2").prefill.program
    for op in ops_of(made, Recurrence):
        assert isinstance(op, Recurrence)
        alone = evolve(op, more=op.more[:-1], roles=op.roles.removesuffix(" blocks"))
        assert [d.code for d in alone.verify()] == ["E390"]
        assert not list(op.verify())
    for op in ops_of(made, ShortConv):
        assert isinstance(op, ShortConv)
        other = evolve(op, parts=(*op.parts[:2], op.tails[-1], *op.parts[3:]))
        assert {d.code for d in other.verify()} == {"E390"}
        assert not list(op.verify())


# ---- times


@pytest.mark.parametrize("layer", LAYERS)
def test_each_rank_scans_its_share_and_all_states_travel(layer: str) -> None:
    flops = []
    for sharding in ("", "cp = 4"):
        phase = plan(layer, sharding).cost.pools[0].main.prefill
        at = phase.bound_sizes({"batch": 1, "input": 4000, "context": 4000})
        works = phase.work["block.mixer"]
        flops += [w.demand(at).arithmetic * w.demand(at).rate for w in works if isinstance(w.op, Recurrence)]
    assert flops[0] == pytest.approx(4 * flops[1])
    (gather,) = (w for w in works if isinstance(w.op, AllGather) and w.op.x.type.dtype == "fp32")
    (op,) = (w.op for w in works if isinstance(w.op, BlockState))
    sizes = phase.extents.sizes
    n, values = sizes[op.k.type.names[-1]], op.v.type.names[3:]
    p = sizes[values[0]] if values else 1
    assert op.columns.split(".")[:-1] == [op.k.type.names[-1], *values], "named after all that they are made of"
    assert sizes[op.columns] == p + (n if op.delta else 1)
    wanted = 4 * 4 * sizes[op.v.type.names[2]] * n * (p + (n if op.delta else 1))
    assert gather.demand(at).payload == wanted


def test_a_block_counts_the_products_of_its_chunks() -> None:
    """The products of `pre_process_fwd_kernel_merged` in fla, for one chunk of 64 tokens and one head."""
    c, n, p = 64, 128, 96
    shape = Shape(heads=1, groups=1, n=n, p=p, chunk=c, item=2, state=4, delta=True)
    takes_in, adds, own_matrix, matrices = c * n * p, c * n * p, c * n * n, n**3
    assert c * block_flops(shape) == 2 * (takes_in + adds + own_matrix + matrices)
    assert c * block_flops(shape._replace(delta=False)) == 2 * adds


def test_a_step_with_decodes_hands_on_the_states_of_its_prompts_alone() -> None:
    program = plan("Mamba-2", "cp = 2", "chunked_prefill = 512").cost.pools[0].main
    works = program.prefill.work["block.mixer"]
    found = []
    for decodes in (1, 64):
        (kind,) = program.mixer.kinds
        times = kind.seconds(Mix(chunk=512, before=0, prompts=1, decodes=decodes, context=1000))["block.mixer"]
        found.append([s for s, w in zip(times, works, strict=True) if "blocks.context" in w.op.results[0].type.names])
    assert len(found[0]) == 8  # of three convolutions and a recurrence, each with an all_gather
    assert found[0] == found[1]


def test_the_matrix_of_a_block_is_the_product_of_its_tokens() -> None:
    rng = np.random.default_rng(1)
    state, does = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 9))
    wanted = np.einsum("bhnm,bhmp->bhnp", does[..., 5:], state) + does[..., :5]
    assert np.allclose(reference.pass_block(state, does, True), wanted)


def test_heads_with_slopes_forget_at_fixed_rates_and_others_nothing() -> None:
    """Head h of n keeps `exp(-2^(-8 (h + 1) / n))` of its state at each token, head 0 the least."""
    heads, positions = 4, 6
    place = Placement(Mesh(()), {"batch": 1, "position": positions, "heads": heads, "n": 2, "p": 3})
    k = Value("k", tensor("bf16", ("batch", "position", "heads", "n")))
    v = Value("v", tensor("bf16", ("batch", "position", "heads", "p")))
    parts = {x.name: {0: np.ones(place.shape(x.type, 0))} for x in (k, v)}
    here = Local(0, place, parts, past=0, ids=np.zeros((1, positions), int), requests=np.arange(1))
    kept = [reference.hand_on(BlockState(k, k, v, (), slopes=slopes), here)[0, 0, :, 0, -1] for slopes in (True, False)]
    assert np.allclose(kept[0], np.exp(-positions * 2.0 ** (-8 * np.arange(1, heads + 1) / heads)))
    assert kept[1].tolist() == [1.0] * heads
