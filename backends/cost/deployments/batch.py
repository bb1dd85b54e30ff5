"""Requests that start together: the times of such a batch on any kind of server."""

from math import inf
from typing import NamedTuple

from plandsl.backends.cost.deployments.chunks import Chunks, chunk_batch, cuts_prompts, has_decodes
from plandsl.backends.cost.deployments.ongoing import host_seconds
from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.num import ceil_div, maximum
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number


def prompt_step(server: Server, requests: Number, input_: Number) -> Prompt:
    """Prompts of ``input_`` tokens, without the tokens that are in the cache already."""
    cached = reused_tokens(server.plan, input_)
    return Prompt(requests, input_ - cached, cached)


def prefill_step(server: Server, requests: Number, input_: Number, in_flight: Number) -> PhaseTimes:
    """Times of a batch's prefill: one step, or with micro-batches several steps that follow one another."""
    most = server.plan.micro_batches
    if most == 1:
        return server.step(Step(prompt_step(server, requests, input_)), in_flight)
    part = ceil_div(requests, most)
    return server.step(Step(prompt_step(server, part, input_)), in_flight).split_in_parts(
        ceil_div(requests, part), in_flight
    )


def decode_step(server: Server, requests: Number, input_: Number, output: Number) -> PhaseTimes:
    """The mean decode step of a batch: step t of ``output - 1`` attends to ``input + t`` tokens."""
    steps = maximum(output - 1, 1)  # a lone token needs no step: the first one is shown
    queries = server.queries
    return server.step(Step(decode=Decode(requests, input_ + queries, steps, queries)), server.in_flight)


def resident_tokens(server: Server, input_: Number, output: Number, ongoing: bool) -> tuple[Number, Number]:
    """Tokens of KV cache that a request holds, guesses included, and the number of batches that hold their cache.

    A pool of prefill holds prompts, of one batch more than are in flight: one is being sent.
    """
    plan, guessed = server.plan, server.queries - 1
    if plan.kv_residency == "prompts":
        return input_ + guessed, server.in_flight + 1
    if ongoing:
        return input_ + plan.effective_engine.kept_output * output + guessed, server.in_flight
    return input_ + output + guessed, server.in_flight if plan.kv_residency == "all_batches" else 1


class PrefillBatch(NamedTuple):
    """Prompts of a batch: ``times`` of all their steps, ``ttft``, and the ``period`` until the next batch may start.

    With ``chunks``, the engine adds ``host`` seconds to each step.
    """

    times: PhaseTimes
    ttft: Number
    period: Number
    chunks: Chunks | None = None
    host: Number = 0.0


def prefill_batch(server: Server, b: Number, input_: Number, output: Number = inf) -> PrefillBatch:
    """The prefill of ``b`` requests that start together: whole, or in chunks beside those that decode."""
    engine, rounds = server.plan.effective_engine, server.in_flight
    chunks = chunk_batch(server, b, input_, rounds, output) if cuts_prompts(server) else None
    times = prefill_step(server, b, input_, rounds) if chunks is None else chunks.whole
    ttft = times.through + engine.admit * b + engine.first + engine.first_request * b
    if chunks is None:
        return PrefillBatch(times, ttft, times.period + engine.admit * b)
    together = (b * chunks.after / chunks.steps + maximum(b / chunks.steps, 1)) * has_decodes(server)
    host = host_seconds(engine, together, server.memory.ways(0))
    ttft = ttft + chunks.steps * host
    return PrefillBatch(times, ttft, times.period + engine.admit * b + chunks.steps * host, chunks, host)


class BatchRun(NamedTuple):
    """A batch of one server: its prompts, its mean decode step, and ``whole`` seconds until the batch is done.

    ``mixed`` is the part of ``tpot`` that steps with chunks of prompts add.
    """

    first: PrefillBatch
    decode: PhaseTimes
    tpot: Number
    whole: Number
    mixed: Number


def time_batch(server: Server, b: Number, input_: Number, output: Number) -> BatchRun:
    """The times of ``b`` requests that start together: their prompts, then ``output`` tokens of each.

    With chunks, requests whose prompts are done decode in mixed steps until the other prompts are done. So they end
    before the last ones, and the mean step after the prompts has the share of requests that is left of their tokens.
    """
    engine, gain = server.plan.effective_engine, server.gain
    first = prefill_batch(server, b, input_, output)
    steps: Number = 0.0 if first.chunks is None else first.chunks.after
    left = ceil_div(b * (1 - steps * gain / maximum(output - 1, 1)), 1)
    decode = decode_step(server, left, input_, output)
    step = decode.period + host_seconds(engine, left, server.memory.ways(0))
    tpot = step / gain
    whole = first.period + engine.first + (0 if server.plan.workload.encodes else output) * tpot
    if first.chunks is None:
        return BatchRun(first, decode, tpot, whole, 0.0)
    mixed = steps / maximum(output - 1, 1) * (first.chunks.times.period + first.host - step)
    return BatchRun(first, decode, tpot + mixed, whole, mixed)
