"""Prompts in chunks: how prompts are cut into steps, which running requests share.

A chunk has as many tokens as the budget of a step leaves after the tokens of the running requests.
Source: Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", OSDI 2024.
"""

from typing import NamedTuple

from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.num import ceil_div, clip, floor, maximum, minimum
from plandsl.backends.cost.time.phase import PhaseTimes, ProgramRun
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Number


class Chunks(NamedTuple):
    """A prompt, or a batch of prompts, in ``steps`` steps with equal ``times``.

    A request of the batch decodes in ``after`` of the steps, on average, once its own prompt is done. ``prompt`` has
    all prompts; ``beside`` tells whether running requests share the steps.
    """

    steps: Number
    times: PhaseTimes
    prompt: Prompt
    after: Number = 0.0
    beside: bool = True

    @property
    def whole(self) -> PhaseTimes:
        """Times of all steps together, one behind the other, with the sizes of whole prompts."""
        found = self.times.repeat(self.steps)
        return found._replace(runs=tuple(map(self._as_one_prompt, found.runs)))

    def _as_one_prompt(self, run: ProgramRun) -> ProgramRun:
        """``run`` over all steps: op times added up, or for a draft's decode steps a higher count."""
        if run.phase.schedule.program.phase != PREFILL:
            return run._replace(count=run.count * self.steps)
        requests, context = self.prompt.requests / run.times.parts, self.prompt.context
        bind = {"batch": requests, "input": self.prompt.new, "context": context}
        return run._replace(times=run.times.repeat(self.steps), bind=bind, context=context, steps=self.steps)


def cuts_prompts(server: Server) -> bool:
    """Whether the server computes prompts in chunks."""
    return server.plan.chunked_prefill is not None


def decodes_beside(server: Server) -> bool:
    """Whether requests decode in steps with a chunk; in a pool of prefill none do."""
    return server.plan.kv_residency != "prompts"


def chunk_batch(server: Server, batch: Number, input_: Number, in_flight: Number) -> Chunks:
    """The chunks of ``batch`` prompts that start together; requests whose prompts are done decode beside the others.

    On average ``(n - 1) / 2`` of n requests decode, so there are ``n new / (budget - queries (n - 1) / 2)`` steps,
    rounded up. The last prompt ends with the last step. A prompt ends after ``n share / 2 + 1/2`` steps on average,
    where ``share`` is the steps of one prompt: the step in which it ends goes on for half a step.
    """
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    n, beside = ceil_div(batch, ways), decodes_beside(server)
    share = new / maximum(budget - server.queries * (n - 1) / 2 * beside, 1)
    steps = ceil_div(n * share, 1)
    after = (n - 1) / n * (steps - clip(n * share / 2 + 0.5, 1, steps)) * beside
    cut = _Cut(n * new / steps, n * after / steps if beside else None, Prompt(batch, new, input_ - new))
    return Chunks(steps, _mixed_step(server, cut, in_flight), cut.prompt, after, beside)


def chunk_prompt(server: Server, running: Number, input_: Number, in_flight: Number) -> Chunks:
    """The chunks of one prompt beside ``running`` requests; steps may be a fraction, as prompts share them."""
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    beside = running / ways if decodes_beside(server) else None
    chunk = maximum(budget - server.queries * (0 if beside is None else beside), 1)
    cut = _Cut(chunk, beside, Prompt(1, new, input_ - new))
    return Chunks(new / chunk, _mixed_step(server, cut, in_flight), cut.prompt, beside=beside is not None)


def _budget(server: Server) -> int:
    """Tokens of a step on each of the ranks that share requests."""
    budget = server.plan.chunked_prefill
    assert budget is not None, "prompts are cut only where the plan says how"
    return budget


class _Cut(NamedTuple):
    """Steps of ``chunk`` prompt tokens with ``beside`` requests that decode, on one rank that has requests."""

    chunk: Number
    beside: Number | None
    prompt: Prompt


def _mixed_step(server: Server, cut: _Cut, in_flight: Number) -> PhaseTimes:
    """Times of the mean step. Attention is linear in the keys before a chunk, so their mean stands for all chunks.

    With micro-batches a step goes through in parts, at most as many as it has prompts.
    """
    ways, own = server.main.ways, minimum(cut.chunk, cut.prompt.new)
    count = cut.chunk / own * ways
    parts = 1 if server.plan.micro_batches == 1 else maximum(minimum(floor(count), server.plan.micro_batches), 1)
    prompt = Prompt(count / parts, own, cut.prompt.cached + (cut.prompt.new - own) / 2, chunk=True)
    decode = None
    if cut.beside is not None:
        queries = server.queries
        context = cut.prompt.context + queries - 1
        decode = Decode(cut.beside * ways / parts, context, queries=queries)
    times = server.step(Step(prompt, decode), in_flight)
    return times if server.plan.micro_batches == 1 else times.split_in_parts(parts, in_flight)
