"""Prompts in chunks: how prompts are cut into steps, which running requests share.

A chunk has as many tokens as the budget of a step leaves after the tokens of the running requests, and no more than
prompts bring. Where the engine's scheduler does not mix steps, chunks have the whole budget, and decodes wait for them.
Source: Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", OSDI 2024.
"""

from math import inf
from typing import NamedTuple

from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.num import ceil_div, clip, floor, maximum, minimum, where
from plandsl.backends.cost.time.phase import TOWER, PhaseTimes, ProgramRun
from plandsl.ir.program import PREFILL
from plandsl.ir.types import Number


class Chunks(NamedTuple):
    """A prompt, or a batch of prompts, in ``steps`` steps with equal ``times``.

    A request of the batch decodes in ``after`` of the steps, on average, once its own prompt is done. ``prompt`` has
    all prompts, of which ``ways`` ranks compute some side by side.
    """

    steps: Number
    times: PhaseTimes
    prompt: Prompt
    after: Number = 0.0
    ways: Number = 1

    @property
    def whole(self) -> PhaseTimes:
        """Times of all steps together, one behind the other, with the sizes of whole prompts."""
        found = self.times.repeat(self.steps)
        return found._replace(runs=tuple(map(self._as_one_prompt, found.runs)))

    def _as_one_prompt(self, run: ProgramRun) -> ProgramRun:
        """``run`` over all steps: op times added up, or for a draft's decode steps a higher count."""
        if run.phase.schedule.program.phase != PREFILL:
            return run._replace(count=run.count * self.steps)
        if run.part == TOWER:  # a batch of it are images
            bind = {**run.bind, "batch": run.bind["batch"] * self.steps}
            return run._replace(times=run.times.repeat(self.steps), bind=bind, steps=self.steps)
        requests, context = self.prompt.requests / run.times.parts, self.prompt.context
        bind = {"batch": requests, "input": self.prompt.new, "context": context}
        return run._replace(times=run.times.repeat(self.steps), bind=bind, context=context, steps=self.steps)


def cuts_prompts(server: Server) -> bool:
    """Whether the server computes prompts in chunks."""
    return server.plan.chunked_prefill is not None


def has_decodes(server: Server) -> bool:
    """Whether requests decode on this server; in a pool of prefill, and where nothing comes out, none do."""
    return server.plan.kv_residency != "prompts" and not server.plan.workload.encodes


def decodes_beside(server: Server) -> bool:
    """Whether requests decode in steps with a chunk, as the engine's scheduler says."""
    return has_decodes(server) and server.plan.effective_engine.mixes_steps


def sustained_decodes(server: Server, new: Number, output: Number) -> Number:
    """Requests, on each rank that shares them, that the budget of a step lets decode while others take their places.

    A request decodes for ``output / gain`` steps, and the one that takes its place brings ``new`` tokens of a prompt.
    So d requests need ``d queries + d new gain / output`` tokens of each step.
    """
    return _budget(server) / (server.queries + new * server.gain / output)


def sustained_requests(server: Server, input_: Number, output: Number) -> Number:
    """Requests that run in one batch of a server under an ongoing load: those that decode, and the prompts of a step.

    The others wait, since those that decode have their tokens of the budget first.
    """
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    decodes = sustained_decodes(server, new, output)
    return ways * (decodes + maximum((budget - server.queries * decodes) / new, 1))


def chunk_batch(server: Server, batch: Number, input_: Number, in_flight: Number, output: Number = inf) -> Chunks:
    """The chunks of ``batch`` prompts that start together; requests whose prompts are done decode beside the others.

    On average ``d = (n - 1) / 2`` of n requests decode, at most `sustained_decodes`, so there are
    ``n new / (budget - queries d)`` steps, rounded up. The last prompt ends with the last step. A prompt ends after
    ``n share / 2 + 1/2`` steps on average, where ``share`` is the steps of one prompt: the step in which it ends goes
    on for half a step. A request decodes until it has its ``output``.
    """
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    n, beside = ceil_div(batch, ways), decodes_beside(server)
    most = sustained_decodes(server, new, output)
    share = new / maximum(budget - server.queries * minimum((n - 1) / 2, most) * beside, 1)
    steps = ceil_div(n * share, 1)
    after = (n - 1) / n * (steps - clip(n * share / 2 + 0.5, 1, steps))
    last = maximum(output - 1, 1) / server.gain
    ended = last * (1 - last / (4 * maximum(after, 0.5)))  # the mean of what is left of `last` after 0 to 2 `after`
    after = minimum(where(2 * after > last, ended, after), most * steps / n) * beside
    cut = _Cut(n * new / steps, n * after / steps if beside else None, Prompt(batch, new, input_ - new))
    return Chunks(steps, _mixed_step(server, cut, in_flight), cut.prompt, after, ways)


def chunk_prompt(server: Server, running: Number, input_: Number, in_flight: Number, output: Number = inf) -> Chunks:
    """The chunks of one prompt beside ``running`` requests; steps may be a fraction, as prompts share them.

    Of ``running`` requests `sustained_decodes` decode at most. As many prompts come to a step as requests end in it, at
    least one. Where no request decodes, the prompts of all that run share a step, up to its budget.
    """
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    if not decodes_beside(server):
        beside, chunk = None, minimum(maximum(running / ways, 1) * new, maximum(budget, 1))
    else:
        beside = minimum(running / ways, sustained_decodes(server, new, output))
        come = maximum(beside * server.gain / output, 1) * new
        chunk = clip(come, 1, maximum(budget - server.queries * beside, 1))
    cut = _Cut(chunk, beside, Prompt(1, new, input_ - new))
    return Chunks(new / chunk, _mixed_step(server, cut, in_flight), cut.prompt, ways=ways)


def chunk_lone(server: Server, joined: Number, input_: Number) -> Chunks:
    """The chunks of one of ``joined`` prompts that come together, for which decodes wait.

    Prompts fill a step up to its budget, one behind the other. A prompt alone is cut evenly.
    """
    ways, budget, new = server.main.ways, _budget(server), input_ - reused_tokens(server.plan, input_)
    together = maximum(joined / ways, 1)
    steps = maximum(together * new / budget, ceil_div(new, budget))  # of all prompts
    cut = _Cut(together * new / steps, None, Prompt(1, new, input_ - new))
    return Chunks(steps / together, _mixed_step(server, cut, 1), cut.prompt, ways=ways)


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
