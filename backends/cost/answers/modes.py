"""The parts of an estimate for two shardings, and for a draft."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from plandsl.answers.modes import Mode, Shift, Speculated
from plandsl.backends.cost.deployments.batch import decode_step, prefill_step
from plandsl.backends.cost.deployments.deployment import Metrics
from plandsl.backends.cost.deployments.drafted import break_even
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.num import find_least
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number

MOST = 2**17
"""The most tokens of a step in the search for a crossover."""


def estimate_shift(server: Server, metrics: Metrics) -> Shift | None:
    """Both shardings alone, the one that each phase takes, and where they cross; None for one sharding."""
    modes, load = server.modes, server.plan.workload
    if modes is None:
        return None
    base = modes.base.main

    def mode_name(times: PhaseTimes) -> str:
        return "base" if times.main.phase in (base.prefill, base.decode) else "tensor"

    prefill_tokens, decode_tokens = _crossovers(
        modes.base, modes.tensor, load.input, None if load.encodes else load.output
    )
    return Shift(
        modes.threshold,
        mode_name(metrics.prefill),
        decode="" if load.encodes else mode_name(metrics.decode),
        base=estimate_mode(modes.base),
        tensor=estimate_mode(modes.tensor),
        prefill_tokens=prefill_tokens,
        decode_tokens=decode_tokens,
    )


@lru_cache(maxsize=4)
def _crossovers(base: Server, tensor: Server, input_: int, output: int | None) -> tuple[int | None, int | None]:
    """The crossovers of prefill and of decode; a report, an explanation and a comparison ask for the same ones.

    ``output`` is None where nothing comes out, so that no step decodes.
    """
    prefill = _crossover(base, tensor, lambda one, tokens: prefill_step(one, 1, tokens, one.in_flight).through)
    if output is None:
        return prefill, None
    return prefill, _crossover(base, tensor, lambda one, tokens: decode_step(one, tokens, input_, output).period)


def _crossover(base: Server, tensor: Server, time: Callable[[Server, int], Number]) -> int | None:
    """The number of tokens from which ``base`` is faster; None where it never is.

    Times have steps (padding, tiles), so the two may cross several times; this is one of the crossings.
    """
    return find_least(lambda tokens: bool(time(base, tokens) < time(tensor, tokens)), MOST)


def estimate_mode(server: Server) -> Mode:
    """TTFT and TPOT of a plan with one sharding alone."""
    sharding = server.plan.sharding
    metrics = Replicas(sharding.replicas, server).evaluate()
    mesh = tuple((a.name, a.size) for a in sharding.axes if a.size > 1)
    tpot = None if server.plan.workload.encodes else float(metrics.tpot)
    return Mode(sharding.name, mesh, float(metrics.ttft), tpot)


def estimate_draft(server: Server, metrics: Metrics) -> Speculated | None:
    """The time of a draft, the tokens that its guesses bring, and the acceptance at which they pay; None without."""
    guesses = server.guesses
    if guesses is None:
        return None
    draft, spec = guesses.draft, guesses.spec
    others = 0.0 if metrics.served is None else metrics.served.others
    step = float((metrics.tpot - others) * server.gain)
    plain = float(guesses.plain().evaluate().tpot)
    mesh = draft.plan.sharding.axes if draft else ()
    worth = plain - others
    return Speculated(
        draft=draft.plan.model.name if draft else None,
        mesh=tuple((a.name, a.size) for a in mesh if a.size > 1),
        acceptance=spec.acceptance,
        tokens_per_step=float(server.gain),
        step_s=step,
        draft_s=float(metrics.decode.drafted),
        draft_prefill_s=float(metrics.prefill.drafted),
        draft_weights_bytes=float(guesses.added),
        plain_tpot_s=plain,
        break_even=break_even(step / worth, spec.tokens) if worth > 0 else 0.0,
    )
