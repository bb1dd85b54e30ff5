"""Prompts in chunks: how a prompt is cut into steps, each mixed with the decodes of those that run.

A prompt goes through in chunks, of as many tokens as a step's budget leaves beside those of each request that runs.
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
    """How a prompt, or a batch of them, gets through: in ``steps`` steps, each timed by ``times``.

    ``after`` is how many of them a request of the batch is in once its own prompt is done, on average. ``prompt`` is
    all of it; ``beside`` tells whether requests that run take part in the steps.
    """

    steps: Number
    times: PhaseTimes
    prompt: Prompt
    after: Number = 0.0
    beside: bool = True

    @property
    def whole(self) -> PhaseTimes:
        """All steps together, one behind the other; their ops are told by the sizes of the whole prompt."""
        found = self.times.repeat(self.steps)
        return found._replace(runs=tuple(map(self._as_one_prompt, found.runs)))

    def _as_one_prompt(self, run: ProgramRun) -> ProgramRun:
        """A program that ran in all steps, its op times added up; of a draft's decode steps there are as many more."""
        if run.phase.schedule.program.phase != PREFILL:
            return run._replace(count=run.count * self.steps)
        requests, context = self.prompt.requests / run.times.parts, self.prompt.context
        bind = {"batch": requests, "input": self.prompt.new, "context": context}
        return run._replace(times=run.times.repeat(self.steps), bind=bind, context=context, steps=self.steps)


def cuts_prompts(server: Server) -> bool:
    """Whether the server computes prompts in chunks."""
    return server.plan.chunked_prefill is not None


def decodes_beside(server: Server) -> bool:
    """Whether steps with a chunk have requests that decode: in a pool that only computes prompts none has."""
    return server.plan.kv_residency != "prompts"


def chunk_batch(server: Server, batch: Number, input_: Number, in_flight: Number) -> Chunks:
    """``batch`` prompts that start together; those that are done run beside the others.

    On average ``(n - 1) / 2`` of n run, so that ``n new / (budget - queries (n - 1) / 2)`` steps, rounded up, do it.
    The last prompt is done with the last step, the one before it by its share of them and half a step to the end of it.
    """
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    n, beside = ceil_div(batch, ways), decodes_beside(server)
    share = new / maximum(budget - server.queries * (n - 1) / 2 * beside, 1)
    steps = ceil_div(n * share, 1)
    after = (n - 1) / n * (steps - clip(n * share / 2 + 0.5, 1, steps)) * beside
    cut = _Cut(n * new / steps, n * after / steps if beside else None, Prompt(batch, new, input_ - new))
    return Chunks(steps, _mixed_step(server, cut, in_flight), cut.prompt, after, beside)


def chunk_prompt(server: Server, running: Number, input_: Number, in_flight: Number) -> Chunks:
    """One prompt among ``running`` requests; steps may be parts of one, where prompts share it."""
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    beside = running / ways if decodes_beside(server) else None
    chunk = maximum(budget - server.queries * (0 if beside is None else beside), 1)
    cut = _Cut(chunk, beside, Prompt(1, new, input_ - new))
    return Chunks(new / chunk, _mixed_step(server, cut, in_flight), cut.prompt, beside=beside is not None)


def _budget(server: Server) -> int:
    """Tokens of a step on each rank that shares requests."""
    budget = server.plan.chunked_prefill
    assert budget is not None, "prompts are cut only where the plan says how"
    return budget


class _Cut(NamedTuple):
    """Steps of ``chunk`` prompt tokens with ``beside`` requests that decode, on one rank of those that share them."""

    chunk: Number
    beside: Number | None
    prompt: Prompt


def _mixed_step(server: Server, cut: _Cut, in_flight: Number) -> PhaseTimes:
    """The mean step. Keys before a chunk grow evenly, and attention with them: their mean stands for all chunks.

    With micro-batches, prompts and requests of a step go through in parts, as many as there are prompts at most.
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
