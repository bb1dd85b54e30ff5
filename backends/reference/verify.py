"""Verify: a sharded program computes what the unsharded one computes, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from attrs import evolve, frozen

from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.placement import TOLERANCE, Array, Mismatch, difference
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.weights import Weights, global_sizes, make_weights
from plandsl.ir.compute import Embed
from plandsl.ir.program import Program
from plandsl.ir.program import verify as findings
from plandsl.ir.types import Mesh
from plandsl.spec.plan import PlanSpec

Phases: TypeAlias = tuple[Program, Program]
"""The prefill and the decode program of one plan."""


@frozen
class Verdict:
    """What a comparison found.

    ``worst`` is the largest difference as a share of the largest element, ``where`` the phase and step that
    showed it (or that could not run), ``message`` says what is wrong and is empty where nothing is.
    """

    ok: bool
    worst: float
    where: str
    steps: int
    ranks: int
    message: str = ""


class Parts(NamedTuple):
    """How prompts are computed: each cut at some positions, requests in some groups one after the other."""

    cuts: Sequence[int] = ()
    groups: int = 1


WHOLE = Parts()
"""All prompts in one step."""


class _Pair(NamedTuple):
    """The same logits, to be computed two ways: not yet run, so that a failure has a place."""

    where: str
    left: Callable[[], Array]
    right: Callable[[], Array]


def verify_programs(
    sharded: Phases,
    plain: Phases,
    sizes: Mapping[str, int],
    steps: int = 3,
    seed: int = 0,
    *,
    check: bool = False,
    parts: Parts = WHOLE,
    others: Sequence[Program] = (),
) -> Verdict:
    """Whether both give the same logits for the same weights and tokens: a prefill, then ``steps`` steps.

    ``sizes`` binds ``batch`` and ``input``, and ``queries`` where a decode step of ``sharded`` has several tokens of
    each request: ``plain`` takes them one by one. With ``check`` every value is compared between the ranks that
    hold copies of it. The sharded program takes the prompts in ``parts``, the other one whole; ``others`` are prefills
    on the same cache that take turns with it.
    """
    for program in sharded:
        for finding in findings(program):
            where, why = program.phase, finding.message
            return Verdict(False, float("inf"), where, steps, program.mesh.ranks, why)
    return compare(sharded, plain, sizes, steps, seed, check=check, parts=parts, others=others)


def compare(
    sharded: Phases,
    plain: Phases,
    sizes: Mapping[str, int],
    steps: int = 3,
    seed: int = 0,
    *,
    check: bool = False,
    parts: Parts = WHOLE,
    others: Sequence[Program] = (),
) -> Verdict:
    """`verify_programs` by running alone: whether the programs are sound is not asked."""
    start = Verdict(True, 0.0, "", steps, sharded[0].mesh.ranks)
    weights = _weights(plain, sizes, seed)
    left = Machine(*sharded, weights, sizes, check=check, others=others)
    right = Machine(_alone(plain[0]), _alone(plain[1]), weights, sizes)
    queries = sizes.get("queries", 1)
    ids = _tokens(plain[0], sizes, steps * queries, seed)
    return _judge(start, _phases(left, right, ids, sizes["input"], queries, parts))


def verify_long_prefill(phases: Phases, sizes: Mapping[str, int], steps: int = 3, seed: int = 0) -> Verdict:
    """Prefill then decode token by token gives what one prefill of all the tokens gives.

    That holds for causal models. ``sizes`` is as for `verify_programs`.
    """
    start = Verdict(True, 0.0, "", steps, phases[0].mesh.ranks)
    weights = _weights(phases, sizes, seed)
    ids = _tokens(phases[0], sizes, steps, seed)
    return _judge(start, _lengths(phases, weights, sizes, ids))


def verify_plan(
    plan: PlanSpec,
    compile_plan: Callable[[PlanSpec], Phases],
    compile_plain: Callable[[PlanSpec], Phases],
    steps: int = 3,
    seed: int = 0,
) -> Verdict:
    """Shrink ``plan``, compile it sharded and unsharded, and compare the two; and the model that drafts for it.

    Of two shardings on one cache, each decodes what the other one has prefilled, and parts of a prompt are computed
    by both in turn. Where tokens are reused, they are prefilled first, and the rest of the prompt after them.
    Micro-batches are prefilled one after the other, and decode together. A step that verifies guesses is compared with
    as many steps of one token. Two pools are verified each by itself, and then together: one prefills, and the other
    one decodes on its cache.
    Raises PlanError where the plan has too many ranks to run or does not compile.
    """
    small = shrink(plan)
    plain = compile_plain(evolve(small, speculate=None))
    made = [[compile_plan(mode) for mode in pool.modes] for pool in small.pools]
    found = [v for pool, phases in zip(small.pools, made, strict=True) for v in _pool(pool, phases, plain, steps, seed)]
    if plan.drafting is not None:
        draft = verify_plan(plan.drafting, compile_plan, compile_plain, steps, seed)
        found.append(evolve(draft, where=f"the draft's {draft.where}"))
    if len(made) > 1:
        pools = made[0][0], made[1][-1]
        parts = _parts(small.pools[0])
        found.append(verify_handover(pools, plain, _bound(small), steps, seed, parts=parts))
    worst = next((v for v in found if not v.ok), max(found, key=lambda v: v.worst))
    return evolve(worst, ranks=sum(phases[0][0].mesh.ranks for phases in made))


def _bound(plan: PlanSpec) -> dict[str, int]:
    return {"batch": plan.workload.batch, "input": plan.workload.input, "queries": plan.queries}


def _pool(pool: PlanSpec, made: list[Phases], plain: Phases, steps: int, seed: int) -> list[Verdict]:
    """One pool by itself: of two shardings, prompts begin under either, and the other one decodes."""
    sizes, parts = _bound(pool), _parts(pool)
    found = []
    for own in made:
        others = [phases for phases in made if phases is not own]
        pair = own[0], (*others, own)[0][1]
        turns = [prefill for prefill, _ in others]
        found.append(verify_programs(pair, plain, sizes, steps, seed, check=True, parts=parts, others=turns))
    return found


def verify_handover(
    pools: tuple[Phases, Phases],
    plain: Phases,
    sizes: Mapping[str, int],
    steps: int = 3,
    seed: int = 0,
    *,
    parts: Parts = WHOLE,
) -> Verdict:
    """Whether the second of two pools goes on with what the first has prefilled as one machine would."""
    start = Verdict(True, 0.0, "", steps, sum(prefill.mesh.ranks for prefill, _ in pools))
    weights = _weights(plain, sizes, seed)
    first, second = (Machine(*phases, weights, sizes, check=True) for phases in pools)
    whole = Machine(_alone(plain[0]), _alone(plain[1]), weights, sizes)
    queries = sizes.get("queries", 1)
    ids = _tokens(plain[0], sizes, steps * queries, seed)

    def prefill(tokens: Array, cuts: Sequence[int], groups: int) -> Array:
        logits = first.prefill(tokens, cuts, groups)
        second.receive(first)
        return logits

    return _judge(start, _phases(_Both(prefill, second.decode), whole, ids, sizes["input"], queries, parts))


class _Both(NamedTuple):
    """Two machines as one."""

    prefill: Callable[[Array, Sequence[int], int], Array]
    decode: Callable[[Array], Array]


def _parts(plan: PlanSpec) -> Parts:
    """A prompt is cut behind what is reused of it, and into chunks of two tokens where it is chunked."""
    load = plan.workload
    before = min(max(int(load.reuse * load.input), 1), load.input - 1) if load.reuse else 0
    step = load.input if plan.chunked_prefill is None else 2
    return Parts([cut for cut in range(before, load.input, step) if cut], plan.micro_batches)


def _judge(start: Verdict, pairs: Iterator[_Pair]) -> Verdict:
    verdict = start
    for where, left, right in pairs:
        try:
            worst = difference(left(), right())
        except Mismatch as error:
            return evolve(verdict, ok=False, worst=float("inf"), where=where, message=str(error))
        if worst > verdict.worst:
            verdict = evolve(verdict, worst=worst, where=where)
        if not worst <= TOLERANCE:
            return evolve(verdict, ok=False, message=f"{where} is off by {worst:.1e} of its largest element")
    return verdict


def _phases(
    left: Machine | _Both, right: Machine, ids: Array, prompt: int, queries: int, parts: Parts
) -> Iterator[_Pair]:
    """One prefill of the first ``prompt`` tokens, then steps: in ``parts`` and of ``queries`` tokens on the left."""
    first = ids[:, :prompt]
    yield _Pair("prefill", partial(left.prefill, first, *parts), partial(right.prefill, first))
    for step, at in enumerate(range(prompt, ids.shape[1], queries), 1):
        tokens = ids[:, at : at + queries]
        yield _Pair(f"decode step {step}", partial(left.decode, tokens), partial(one_by_one, right, tokens))


def one_by_one(machine: Machine, ids: Array) -> Array:
    """The logits of a decode step for each of the tokens ``ids`` ``[batch, position]``, positions second if several."""
    found = [machine.decode(ids[:, at : at + 1]) for at in range(ids.shape[1])]
    return found[0] if len(found) == 1 else np.stack(found, axis=1)


def _lengths(phases: Phases, weights: Weights, sizes: Mapping[str, int], ids: Array) -> Iterator[_Pair]:
    """Each decode step beside a prefill of all the tokens up to it."""
    machine, prompt = Machine(*phases, weights, sizes), sizes["input"]
    machine.prefill(ids[:, :prompt])
    for end in range(prompt + 1, ids.shape[1] + 1):
        at_once = Machine(*phases, weights, {**sizes, "input": end})
        token, where = ids[:, end - 1 : end], f"decode step {end - prompt}"
        yield _Pair(where, partial(machine.decode, token), partial(at_once.prefill, ids[:, :end]))


def _alone(program: Program) -> Program:
    """A program that splits nothing does the same on one device as on many."""
    split = any(v.type.axes for region in program.regions for v in region.values().values())
    return program if split or program.stages else evolve(program, mesh=Mesh(), stage_axes=())


def _weights(plain: Phases, sizes: Mapping[str, int], seed: int) -> Weights:
    prefill, decode = plain
    return make_weights(prefill, sizes, seed) | make_weights(decode, sizes, seed)


def _tokens(program: Program, sizes: Mapping[str, int], steps: int, seed: int) -> Array:
    """Random token ids ``[batch, input + steps]``."""
    (vocab,) = {op.table.type.names[0] for r in program.regions for op in r.ops if isinstance(op, Embed)}
    rows = global_sizes(program, sizes)[vocab]
    return np.random.default_rng(seed).integers(rows, size=(sizes["batch"], sizes["input"] + steps))
