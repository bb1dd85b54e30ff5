"""Steps that the schedulers of engines compose, in tiny scenes worked out by hand from what is known of the engines.

A scene is requests (`name input+output @arrival [ids of blocks]`) on a server whose steps take a second, and the steps:
`a` decodes, `a4` are four tokens of its prompt, `a~` is in the step though it has all its tokens, `-a` goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State, finish
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from tests.serving import steps


class Scene(NamedTuple):
    tells: str
    policy: Policy
    requests: str
    steps: str
    server: Mapping[str, Any] = MappingProxyType({})


def vllm(budget: int = 100, **limits: Any) -> Vllm:
    return Vllm(budget, ahead=limits.pop("ahead", False), **limits)


VLLM = [
    Scene("a prompt that fits is one step, then comes a token a step", vllm(8), "a 4+3", "a4 | a | a"),
    Scene("who runs comes first, a prompt has the rest of the budget", vllm(8), "a 4+4, b 10+2 @1",
          "a4 | a b7 | a b3 | a b"),
    Scene("the prompt admitted last is cut", vllm(8), "a 5+1, b 6+1", "a5 b3 | b3"),
    Scene("a prompt that was cut keeps its place before later ones", vllm(4), "a 6+1, b 3+1", "a4 | a2 b2 | b1"),
    Scene("decodes behind a cut prompt have what it leaves", vllm(4), "a 2+3, b 9+1", "a2 b2 | a b3 | a b3 | b1"),
    Scene("a prompt that is not cut waits for a step that holds it", vllm(12, chunked=False), "a 8+2, b 6+1, c 1+1",
          "a8 | a b6 c1"),
    Scene("the first that finds no blocks stops the scan", vllm(), "a 8+4, b 12+1, c 2+1",
          "a8 | a | a | a | b12 c2", {"blocks": 4}),
    Scene("no more run than may", vllm(max_running=2), "a 2+2, b 2+2, c 2+2", "a2 b2 | a b | c2 | c"),
    Scene("all of a prompt needs room, not its first chunk alone", vllm(4), "a 4+3, b 14+1 @1",
          "a4 | a | a | b4 | b4 | b4 | b2", {"blocks": 4}),
    Scene("without that rule its first chunk is enough", vllm(4, whole_prompt=False), "a 4+3, b 14+1 @1",
          "a4 | a b3 | a b3 | b4 | b4", {"blocks": 4}),
    Scene("who was admitted last goes back to the front, and nobody is admitted then", vllm(),
          "a 6+8, b 6+4, c 2+1 @1", "a6 b6 | a b | a b | a -b | a | a | a | a | b9 c2", {"blocks": 4}),
    Scene("who comes back computes what the prefix cache has lost", vllm(), "a 6+4, b 6+4",
          "a6 b6 | a b | a b | a -b | b5", {"blocks": 4}),
    Scene("without a prefix cache all of it", vllm(), "a 6+4, b 6+4", "a6 b6 | a b | a b | a -b | b9",
          {"blocks": 4, "caching": False}),
    Scene("who goes back is not admitted in the same step", vllm(5, whole_prompt=False), "a 4+6, b 4+8",
          "a4 b1 | a b3 | a b | a b | a b | a -b | b5 | b3 | b | b | b", {"blocks": 4, "caching": False}),
    Scene("who comes back needs room for what it had made, too", vllm(5), "a 4+9, b 4+8",
          "a4 b1 | a b3 | a b | a b | a b | a b | a -b | a | a | b5 | b4 | b | b", {"blocks": 5, "caching": False}),
    Scene("a request may send itself back", vllm(), "a 4+4, b 8+2", "a4 b8 | a -b | a | a | b1", {"blocks": 4}),
    Scene("a shared prefix is computed once", vllm(), "a 10+1 [1 2 3], b 10+1 [1 2 9]", "a10 b2"),
    Scene("other blocks behind an unlike one are not the same", vllm(), "a 10+1 [1 2], b 10+1 [7 2]", "a10 b10"),
    Scene("a prompt that is all known computes its last block", vllm(), "a 8+1 [1 2], b 8+1 @1 [1 2]", "a8 | b4"),
    Scene("long prompts have a limit in each step", vllm(10, long_prompt=3), "a 8+1, b 2+2", "a3 b2 | b a3 | a2"),
    Scene("not so a request that is alone", vllm(10, long_prompt=3), "a 8+1", "a8"),
    Scene("an adaptive limit is an equal share at least", vllm(12, long_prompt=2, adaptive=True), "a 8+1, b 8+1",
          "a6 b6 | a2 b2"),
    Scene("a watermark of blocks stays free at admission", vllm(watermark=0.25), "a 16+2, b 12+1",
          "a16 | a | b12", {"blocks": 8}),
    Scene("not so while nothing runs", vllm(watermark=0.25), "a 30+1", "a30", {"blocks": 8}),
    Scene("ahead: who is done by its own word is in one more step", vllm(ahead=True, capped=False), "a 4+2, b 4+4",
          "a4 b4 | a b | b a~ | b | b~"),
    Scene("ahead: who is done by its limit only keeps its place", vllm(ahead=True, max_running=2),
          "a 4+2, b 4+4, c 2+1", "a4 b4 | a b | b | b c2"),
    Scene("ahead: who arrives during a step is in the one after the next", vllm(ahead=True), "a 4+4, b 4+1 @0.5",
          "a4 | a | a b4 | a"),
    Scene("of two stages each has a batch of its own", vllm(4), "a 4+2, b 4+2", "a4 | b4 | a | b",
          {"stages": (1.0, 1.0)}),
    Scene("a draft's own tokens have blocks as well", vllm(lookahead=2), "a 1+3, b 1+3", "a1 b1 | a b | a -b | b3",
          {"blocks": 3}),
    Scene("guesses count in the budget", vllm(4), "a 4+7, b 4+1 @1", "a4 | a b1 | a b1 | b2",
          {"acceptance": (1.0, 1.0)}),
]  # fmt: skip


def sglang(**limits: Any) -> Sglang:
    return Sglang(ahead=limits.pop("ahead", False), **limits)


TOKENS = {"block": 1}

SGLANG = [
    Scene("prompts have steps of their own, for which decodes wait", sglang(), "a 4+3, b 6+2 @1",
          "a4 | b6 | a b | a", TOKENS),
    Scene("prompts that wait share a step", sglang(), "a 3+1, b 4+1", "a3 b4", TOKENS),
    Scene("the prompt that does not fit is cut, and goes on before decodes", sglang(chunk=8), "a 6+2, b 5+1",
          "a6 b2 | b3 | a", TOKENS),
    Scene("one prompt is cut at a time", sglang(chunk=4), "a 10+1, b 2+1", "a4 | a4 | a2 b2", TOKENS),
    Scene("mixed: decodes are in the step, and count", sglang(chunk=8, mixed=True), "a 4+3, b 10+1 @1",
          "a4 | a b7 | a b3", TOKENS),
    Scene("prompts of a step have a limit together, which the last one may pass", sglang(prefill_tokens=8),
          "a 5+1, b 5+1, c 1+1", "a5 b5 | c1", TOKENS),
    Scene("a prompt joins that fits with its output beside 70 % of what others make", sglang(), "a 3+5, b 1+3 @1",
          "a3 | b1 | a b | a b | a | a", TOKENS | {"blocks": 11}),
    Scene("a token more, and it waits until a request ends", sglang(), "a 3+5, b 1+4 @1",
          "a3 | a | a | a | a | b1 | b | b | b", TOKENS | {"blocks": 11}),
    Scene("so does one behind it that would fit", sglang(), "a 3+5, b 1+4 @1, c 1+1 @2",
          "a3 | a | a | a | a | b1 c1 | b | b | b", TOKENS | {"blocks": 11}),
    Scene("so does one that the queue's order puts before it", sglang(order="longest_prefix"),
          "a 4+5 [1 2 3 4], b 1+6 @1, c 2+1 @2 [1 2]", "a4 | a | a | a | a | c1 | b1 | b | b | b | b | b",
          TOKENS | {"blocks": 12}),
    Scene("until any request ends", sglang(), "a 2+8, b 2+2, c 2+4", "a2 | b2 | a b | c2 | a c | a c | a c | a | a | a",
          TOKENS | {"blocks": 16}),
    Scene("a bolder engine counts less of what others make", sglang(conservativeness=0.0), "a 3+5, b 1+4 @1",
          "a3 | b1 | a b | a b | a b | a", TOKENS | {"blocks": 10}),
    Scene("of equals the longer prompt is retracted, and known prefixes with it", sglang(conservativeness=0.0),
          "a 3+7, b 2+5 @1", "a3 | b2 | a b | a b | a b | b -a | a7 | a | a", TOKENS | {"blocks": 12}),
    Scene("who has made the fewest tokens is retracted", sglang(conservativeness=0.0), "a 3+7, b 2+5 @2",
          "a3 | a | b2 | a b | a b | a b | a -b | a | b6", TOKENS | {"blocks": 13}),
    Scene("prompts are charged in whole pages", sglang(chunk=8), "a 5+1, b 6+1", "a5 | b6"),
    Scene("no more run than may", sglang(max_running=1), "a 2+2, b 2+1", "a2 | a | b2", TOKENS),
    Scene("no more join than may", sglang(max_joining=1), "a 2+2, b 2+2", "a2 | b2 | a b", TOKENS),
    Scene("a prompt that is all known computes its last token", sglang(),
          "a 4+1 [1 2 3 4], b 4+1 @1 [1 2 3 4]", "a4 | b1", TOKENS),
    Scene("first come, first served", sglang(max_joining=1), "a 4+1 [1 2 3 4], b 4+1 @1, c 4+1 @1 [1 2 3 9]",
          "a4 | b4 | c1", TOKENS),
    Scene("or the longest known prefix first", sglang(max_joining=1, order="longest_prefix"),
          "a 4+1 [1 2 3 4], b 4+1 @1, c 4+1 @1 [1 2 3 9]", "a4 | c1 | b4", TOKENS),
    Scene("ahead: who is done by its limit is in no step more", sglang(ahead=True), "a 4+2, b 4+3", "a4 b4 | a b | b",
          TOKENS),
    Scene("ahead: who is done by its own word is in one more", sglang(ahead=True, capped=False), "a 4+2, b 4+3",
          "a4 b4 | a b | b a~ | b~", TOKENS),
    Scene("ahead: blocks of who is done by its limit are waited for", sglang(ahead=True, conservativeness=0.0),
          "a 1+4, b 4+3, c 3+2 @1", "a1 | b4 | c3 | a b c | a b | a", TOKENS | {"blocks": 12}),
    Scene("ahead: who may go on keeps its blocks, and another is retracted",
          sglang(ahead=True, capped=False, conservativeness=0.0),
          "a 1+4, b 4+3, c 3+2 @1", "a1 | b4 | c3 | a b c | a c~ -b | a | a~ | b5 | b | b~", TOKENS | {"blocks": 12}),
]  # fmt: skip


def trtllm(budget: int = 100, **limits: Any) -> Trtllm:
    return Trtllm(budget, ahead=limits.pop("ahead", False), **limits)


TRTLLM = [
    Scene("generations first, then prompts", trtllm(8), "a 4+3, b 5+2 @1", "a4 | a b5 | a b"),
    Scene("a prompt is in a step whole, and stops those behind it", trtllm(8), "a 5+1, b 5+1, c 2+1", "a5 | b5 c2"),
    Scene("in chunks it has whole blocks", trtllm(8, chunked=True), "a 5+1, b 10+1", "a5 | b8 | b2"),
    Scene("and the rest of the budget", trtllm(8, chunked=True), "a 4+1, b 10+1", "a4 b4 | b6"),
    Scene("equal progress: a block of each in turn", trtllm(8, chunked=True, equal=True), "a 8+1, b 8+1",
          "a4 b4 | a4 b4"),
    Scene("equal progress beside a generation", trtllm(9, chunked=True, equal=True), "a 4+4, b 8+1 @1, c 8+1 @1",
          "a4 | a b4 c4 | a b4 c4 | a"),
    Scene("no eviction: all output needs room", trtllm(), "a 4+5, b 4+1", "a4 | a | a | a | a | b4", {"blocks": 4}),
    Scene("no eviction: what fits runs together", trtllm(), "a 4+4, b 4+4", "a4 b4 | a b | a b | a b", {"blocks": 4}),
    Scene("no eviction: the first misfit stops", trtllm(), "a 4+5, b 8+4, c 2+1",
          "a4 | a | a | a | a | b8 c2 | b | b | b", {"blocks": 5}),
    Scene("maximum utilisation: the next step needs room", trtllm(room="max_utilisation"), "a 4+5, b 4+4",
          "a4 b4 | a b | a b | a b | a", {"blocks": 4}),
    Scene("maximum utilisation: who started last is paused", trtllm(room="max_utilisation"), "a 4+5, b 4+4",
          "a4 b4 | a -b | a | a | a | b1 | b | b", {"blocks": 3}),
    Scene("maximum utilisation: a pause that is not needed", trtllm(room="max_utilisation"), "a 3+3, b 4+2",
          "a3 b4 | a b | a", {"blocks": 3}),
    Scene("maximum utilisation ahead: two steps need room", trtllm(room="max_utilisation", ahead=True), "a 3+3, b 4+2",
          "a3 b4 | a -b | a | a~ | b1 | b~", {"blocks": 3}),
    Scene("static batch: nobody joins generations", trtllm(room="static_batch"), "a 4+2, b 4+3 @1",
          "a4 | a | b4 | b | b"),
    Scene("a prefix that another computes is waited for", trtllm(), "a 8+2 [1 2], b 10+1 [1 2 3], c 4+1",
          "a8 c4 | a b2"),
    Scene("no more run than may", trtllm(max_running=1), "a 4+2, b 4+1", "a4 | a | b4"),
    Scene("a prompt that is all known computes its last block", trtllm(), "a 8+1 [1 2], b 8+1 @1 [1 2]", "a8 | b4"),
    Scene("ahead: who is done is in one more step", trtllm(ahead=True), "a 4+2, b 4+3", "a4 b4 | a b | b a~ | b~"),
]  # fmt: skip


def test_sglang_keeps_room_for_4096_tokens_of_an_output_that_joins() -> None:
    state = State(Pool(6000, 1))
    state.waiting.extend((Live(0, 10, 5980), Live(1, 10, 1880), Live(2, 1, 4)))
    assert [live.index for live in sglang().compose(state).admitted] == [0, 1]


@pytest.mark.parametrize(("waiting", "first"), [(128, 127), (129, 0)])
def test_sglang_does_not_sort_a_long_queue(waiting: int, first: int) -> None:
    """By known prefixes; here the one that came last is known, or of the longer queue the one before it."""
    state, known = State(Pool(10_000, 1)), Live(128, 4, 1, (1, 2, 3, 4))
    state.pool.grow(known, 4)
    known.computed = 4
    state.pool.publish(known, 4)
    state.waiting.extend(Live(i, 4, 1, (1, 2, 3, 4) if i == 127 else (9, 9, i, i)) for i in range(waiting))
    assert [live.index for live in sglang(order="longest_prefix", max_joining=1).compose(state).admitted] == [first]


def test_sglang_keeps_room_for_less_and_less_until_it_retracts() -> None:
    """From 70 % of what is to come to 14 % of that in 600 steps; after a retraction, as much as the others tell."""
    policy = sglang()
    state = State(Pool(1003, 1, caching=False))
    state.waiting.extend((Live(0, 2, 2000), Live(1, 2, 2000)))
    state.running, state.full = list(state.waiting), True
    state.waiting.clear()
    for live in state.running:
        state.pool.grow(live, 2)
        live.computed, live.made = 2, 1

    def step() -> Batch:
        state.number += 1
        state.upto = state.number
        for live in state.running:
            live.shown = live.made
        return policy.compose(state)

    for _ in range(300):
        assert not step().preempted
    assert state.ratio == pytest.approx(0.7 * (1 - 0.86 / 2))
    state.running.append(other := Live(2, 300, 2000))
    state.pool.grow(other, 300)
    other.computed, other.made = 300, 1
    while not (batch := step()).preempted:
        pass
    assert batch.preempted == [other]
    made = state.running[0].made - 1
    assert state.ratio == pytest.approx((2 * made + 2 * 20) / (2 * 2000 + 1))
    for _ in range(90):
        step()
    assert state.ratio == pytest.approx(max((2 * made + 40) / 4001 - 90 * 0.7 * 0.86 / 600, 0.7 * 0.14))


def test_sglang_keeps_room_as_at_first_once_nobody_was_there() -> None:
    state = State(Pool(100, 1))
    state.running = lives = [Live(0, 2, 2), Live(1, 2, 2)]
    state.ratio = 0.3
    for live in tuple(lives):
        assert state.ratio == 0.3
        finish(state, live)
    state.waiting.append(Live(2, 2, 2))
    sglang().compose(state)
    assert state.ratio == 0.7


@pytest.mark.parametrize("policy", [vllm(capped=False), trtllm(room="max_utilisation")])
def test_who_went_back_with_its_last_token_on_its_way_is_not_computed_again(policy: Policy) -> None:
    """Two steps may be on their way; the request leaves when the first of them is over."""
    state, live = State(Pool(100, 4)), Live(0, 8, 2)
    live.made, live.shown, live.step, state.number, state.upto = 2, 1, 3, 5, 4
    state.waiting.append(live)
    assert not policy.compose(state).rows


@pytest.mark.parametrize("scene", [*VLLM, *SGLANG, *TRTLLM], ids=lambda s: f"{type(s.policy).__name__}: {s.tells}")
def test_an_engine_composes(scene: Scene) -> None:
    assert steps(scene.policy, scene.requests, **scene.server) == scene.steps
