"""Verify: compare the logits of a sharded program with those of the unsharded program, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from attrs import evolve, frozen

from plandsl.backends.reference.machine import Machine, patches_of
from plandsl.backends.reference.placement import TOLERANCE, Array, Mismatch, difference
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.weights import Weights, global_sizes, make_weights
from plandsl.ir.compute import Embed, Ids
from plandsl.ir.names import EMBEDDING
from plandsl.ir.program import Program
from plandsl.ir.program import verify as findings
from plandsl.ir.types import Mesh, Value
from plandsl.spec.plan import PlanSpec
from plandsl.values import sum_up

Phases: TypeAlias = tuple[Program, Program]
"""The prefill and the decode program of one plan."""


@frozen
class Verdict:
    """The result of a comparison.

    ``worst`` is the largest difference as a share of the largest element. ``where`` is the phase and step with this
    difference, or the one that could not run. ``message`` says what is wrong; it is empty for equal programs.
    """

    ok: bool
    worst: float
    where: str
    steps: int
    ranks: int
    message: str = ""


class Parts(NamedTuple):
    """How prompts are computed: in parts, cut at the positions ``cuts``, and requests in ``groups`` one by one."""

    cuts: Sequence[int] = ()
    groups: int = 1


WHOLE = Parts()
"""All prompts in one step."""


class _Pair(NamedTuple):
    """Two ways to compute the same logits. They run later, so that a failure can be reported with ``where``."""

    where: str
    left: Callable[[], Array]
    right: Callable[[], Array]


PATCHES = 1000
"""How many different patches the images have that a small program reads."""


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
    """Compare the logits of both programs for the same weights and tokens: a prefill, then ``steps`` decode steps.

    ``sizes`` binds ``batch`` and ``input``, and ``queries`` where a decode step of ``sharded`` has several tokens of
    each request; ``plain`` runs these one by one. With ``check``, every value is compared between the ranks that
    hold copies of it. ``sharded`` computes the prompts in ``parts``, ``plain`` whole. ``others`` are prefill programs
    on the same cache that take turns with the prefill of ``sharded``.
    """
    for program in sharded:
        for finding in findings(program):
            ranks, infinite = program.mesh.ranks, float("inf")
            return Verdict(False, infinite, program.phase, steps=steps, ranks=ranks, message=finding.message)
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
    """As `verify_programs`, but without a check that the programs are sound."""
    start = Verdict(True, 0.0, "", steps, sharded[0].mesh.ranks)
    weights = _weights(plain, sizes, seed)
    left = Machine(*sharded, weights, sizes, check=check, others=others)
    right = Machine(_on_one_device(plain[0]), _on_one_device(plain[1]), weights, sizes)
    queries = sizes.get("queries", 1)
    ids = _tokens(plain[0], sizes, steps * queries, seed)
    return _compare_pairs(start, _phases(left, right, ids, prompt=sizes["input"], queries=queries, parts=parts))


def verify_long_prefill(phases: Phases, sizes: Mapping[str, int], steps: int = 3, seed: int = 0) -> Verdict:
    """Compare prefill plus decode, token by token, with one prefill of all the tokens.

    For causal models both give the same logits. ``sizes`` is as for `verify_programs`.
    """
    start = Verdict(True, 0.0, "", steps, phases[0].mesh.ranks)
    weights = _weights(phases, sizes, seed)
    ids = _tokens(phases[0], sizes, steps, seed)
    return _compare_pairs(start, _prefixes(phases, weights, sizes, ids))


def verify_plan(
    plan: PlanSpec,
    compile_plan: Callable[[PlanSpec], Phases],
    compile_plain: Callable[[PlanSpec], Phases],
    steps: int = 3,
    seed: int = 0,
) -> Verdict:
    """Shrink ``plan``, compile it sharded and unsharded, and compare the two. A draft model is verified too.

    - Two shardings on one cache: each decodes after a prefill of the other, and they compute parts of a prompt in turn.
    - Reused tokens are prefilled first, and the rest of the prompt after them.
    - Micro-batches are prefilled one after the other, and decode together.
    - A step that verifies guesses is compared with as many steps of one token.
    - Two pools are verified one by one, and then together: one prefills, and the other decodes on its cache.
    - An encoder, which caches nothing, has a prefill alone.

    Raises PlanError where the plan has too many ranks to run (E440) or does not compile.
    """
    steps = 0 if plan.workload.encodes else steps
    small = shrink(plan)
    plain = compile_plain(evolve(small, speculate=None))
    made = [[compile_plan(mode) for mode in pool.modes] for pool in small.pools]
    found = [
        v
        for pool, phases in zip(small.pools, made, strict=True)
        for v in _verify_pool(pool, phases, plain, steps, seed)
    ]
    for word, beside in (("draft", plan.draft_plan), ("tower", plan.tower_plan)):
        if beside is not None:
            own = verify_plan(beside, compile_plan, compile_plain, steps, seed)
            found.append(evolve(own, where=f"the {word}'s {own.where}"))
    if len(made) > 1:
        pools = made[0][0], made[1][-1]
        parts = _parts(small.pools[0])
        found.append(verify_handover(pools, plain, _symbols(small), steps, seed, parts=parts))
    worst = next((v for v in found if not v.ok), max(found, key=lambda v: v.worst))
    return evolve(worst, steps=steps, ranks=sum_up(phases[0][0].mesh.ranks for phases in made))


class Expected(NamedTuple):
    """Weights and tokens ``[batch, input + steps]`` of a small plan, and the logits of a prefill and of each step.

    Of a model that reads images, the tokens are patches ``[batch, input, patch]``.
    """

    weights: Weights
    ids: Array
    logits: list[Array]


def expected(small: PlanSpec, plain: Phases, steps: int = 3, seed: int = 0) -> Expected:
    """What the unsharded programs ``plain`` of a plan compute, in steps of as many tokens as the plan's.

    ``plain`` makes no guesses: it runs the tokens of a step one by one.
    """
    sizes = _symbols(small)
    weights, queries, prompt = _weights(plain, sizes, seed), small.queries, small.workload.input
    ids = _tokens(plain[0], sizes, steps * queries, seed)
    machine = Machine(_on_one_device(plain[0]), _on_one_device(plain[1]), weights, sizes)
    logits = [machine.prefill(ids[:, :prompt])]
    logits += [one_by_one(machine, ids[:, at : at + queries]) for at in range(prompt, ids.shape[1], queries)]
    (given,) = plain[0].region(EMBEDDING).args
    if len(given.type.names) > ids.ndim:
        ids = patches_of(ids, global_sizes(plain[0], sizes)[given.type.names[-1]])
    return Expected(weights, ids, logits)


def judge(runs: Mapping[str, Sequence[Array]], known: Expected, ranks: int) -> Verdict:
    """Compare the logits of ``runs``, by what ran, with the expected ones."""
    verdict = Verdict(True, 0.0, "", len(known.logits) - 1, ranks)
    for where, logits in runs.items():
        for step, (found, right) in enumerate(zip(logits, known.logits, strict=True)):
            worst, at = difference(found, right), f"{where}, {f'decode step {step}' if step else 'prefill'}"
            if worst > verdict.worst:
                verdict = evolve(verdict, worst=worst, where=at)
            if not worst <= TOLERANCE:
                return evolve(verdict, ok=False, message=f"{at} is off by {worst:.1e} of its largest element")
    return verdict


def _symbols(plan: PlanSpec) -> dict[str, int]:
    return {"batch": plan.workload.batch, "input": plan.workload.input, "queries": plan.queries}


def _verify_pool(pool: PlanSpec, made: list[Phases], plain: Phases, steps: int, seed: int) -> list[Verdict]:
    """Verify one pool. With two shardings, prompts begin under each of them once, and the other decodes."""
    sizes, parts = _symbols(pool), _parts(pool)
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
    """Compare a prefill in the first pool and decode in the second with both on one machine."""
    start = Verdict(True, 0.0, "", steps, sum_up(prefill.mesh.ranks for prefill, _ in pools))
    weights = _weights(plain, sizes, seed)
    first, second = (Machine(*phases, weights, sizes, check=True) for phases in pools)
    whole = Machine(_on_one_device(plain[0]), _on_one_device(plain[1]), weights, sizes)
    queries = sizes.get("queries", 1)
    ids = _tokens(plain[0], sizes, steps * queries, seed)

    def prefill(tokens: Array, cuts: Sequence[int], groups: int) -> Array:
        logits = first.prefill(tokens, cuts, groups)
        second.receive(first)
        return logits

    both = _Both(prefill, second.decode)
    return _compare_pairs(start, _phases(both, whole, ids, prompt=sizes["input"], queries=queries, parts=parts))


class _Both(NamedTuple):
    """Two machines that act as one: the first prefills, the second decodes."""

    prefill: Callable[[Array, Sequence[int], int], Array]
    decode: Callable[[Array], Array]


def _parts(plan: PlanSpec) -> Parts:
    """The parts of a plan's prompts: cut after the reused tokens, and with chunked prefill every two tokens."""
    return Parts(plan.cut_prompt(None if plan.chunked_prefill is None else 2), plan.micro_batches)


def _compare_pairs(start: Verdict, pairs: Iterator[_Pair]) -> Verdict:
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
    """A prefill of ``prompt`` tokens (on the left in ``parts``), then steps (on the left of ``queries`` tokens)."""
    first = ids[:, :prompt]
    yield _Pair("prefill", partial(left.prefill, first, *parts), partial(right.prefill, first))
    for step, at in enumerate(range(prompt, ids.shape[1], queries), 1):
        tokens = ids[:, at : at + queries]
        yield _Pair(f"decode step {step}", partial(left.decode, tokens), partial(one_by_one, right, tokens))


def one_by_one(machine: Machine, ids: Array) -> Array:
    """Decode the tokens ``ids`` ``[batch, position]`` one by one; the logits are as in `Machine.decode`."""
    found = [machine.decode(ids[:, at : at + 1]) for at in range(ids.shape[1])]
    return found[0] if len(found) == 1 else np.stack(found, axis=1)


def _prefixes(phases: Phases, weights: Weights, sizes: Mapping[str, int], ids: Array) -> Iterator[_Pair]:
    """Each decode step, and a prefill of all the tokens up to it."""
    machine, prompt = Machine(*phases, weights, sizes), sizes["input"]
    machine.prefill(ids[:, :prompt])
    for end in range(prompt + 1, ids.shape[1] + 1):
        at_once = Machine(*phases, weights, {**sizes, "input": end})
        token, where = ids[:, end - 1 : end], f"decode step {end - prompt}"
        yield _Pair(where, partial(machine.decode, token), partial(at_once.prefill, ids[:, :end]))


def _on_one_device(program: Program) -> Program:
    """The program on one device, if it splits nothing and has no stages; else the program itself."""
    split = any(v.type.axes for region in program.regions for v in region.values().values())
    return program if split or program.stages else evolve(program, mesh=Mesh(), stage_axes=())


def _weights(plain: Phases, sizes: Mapping[str, int], seed: int) -> Weights:
    prefill, decode = plain
    return make_weights(prefill, sizes, seed) | make_weights(decode, sizes, seed)


def _tokens(program: Program, sizes: Mapping[str, int], steps: int, seed: int) -> Array:
    """Random token ids ``[batch, input + steps]``; for a program that reads patches, numbers of patches."""
    numbers = set[Value]()  # positions and types, which look up rows too
    rows = PATCHES
    for op in program.region(EMBEDDING).ops:
        if isinstance(op, Ids) or not numbers.isdisjoint(op.operands):
            numbers.update(op.results)
        elif isinstance(op, Embed):
            rows = global_sizes(program, sizes)[op.table.type.names[0]]
            break
    return np.random.default_rng(seed).integers(rows, size=(sizes["batch"], sizes["input"] + steps))
