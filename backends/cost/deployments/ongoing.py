"""An ongoing load: continuous batching in a steady state, with the times that an engine adds.

From times of steps follow the times of a server with a fixed number of requests in flight (a closed system). Some
requests run, the others wait for room. When a request leaves, another one takes its place, and its prefill lengthens
the steps of the running requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plandsl.backends.cost.num import ceil_div, clip, floor, largest, maximum, minimum, where
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.hardware import EngineSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.chunks import Chunks

DRAIN = 0.25
"""The share of a request's stay that is lost at the end of a run, when half as many requests run on average."""


MIXED = 1.5
"""Decode steps that a first token waits for: half of the step that runs when it arrives, and the one behind it, which
engines compose ahead.
"""


def host_seconds(engine: EngineSpec, requests: Number, ways: Number = 1) -> Number:
    """Seconds that the engine adds to a step of ``requests``, which ``ways`` ranks share.

    Each rank has a host process for its own requests, of which the fullest has one at least.
    """
    return engine.step + engine.request * maximum(requests / ways, minimum(requests, 1))


class PromptCost(NamedTuple):
    """What one prompt costs, in seconds: ``each`` for every running request, ``own`` until its first token.

    Other prompts wait ``turn`` seconds for it, except ``together`` prompts that share its steps. A first token also
    waits for ``wait`` decode steps of other requests. In chunks, a prompt takes ``steps`` mixed steps.
    """

    each: Number
    own: Number
    turn: Number
    wait: float = MIXED
    together: Number = 0.0
    steps: Number = 0.0


LEAST = 1e-9
"""Less than any number of prompts."""


def queue_seconds(rate: Number, seconds: Number) -> Number:
    """The mean wait in a queue with random arrivals at ``rate`` per second and ``seconds`` of service each.

    ``u seconds / (2 (1 - u))``, ``u = rate seconds`` (Pollaczek 1930; Khinchine 1932); it grows without end as u nears
    1.
    """
    busy = clip(rate * seconds, 0.0, FULL)
    return busy * seconds / (2 * (1 - busy))


FULL = 1 - 1e-9
"""The share of time that a server without idle time is busy."""


def drained_rate(served: Number, stay: Number, requests: Number, running: Number) -> Number:
    """The mean rate over ``requests`` requests, where the last ones leave one by one if some had to wait."""
    return requests / (requests / served + DRAIN * stay * clip(requests / running - 1, 0.0, 1.0))


def slowest_seconds(times: PhaseTimes) -> Number:
    """Seconds from one step to the next: of the slowest stage or hop, and of the drafts before the step."""
    return maximum(largest([s.span for s in times.stages]), times.hop) * times.parts + times.drafted


def whole_prompt_cost(engine: EngineSpec, prefill: PhaseTimes, joined: Number) -> PromptCost:
    """The cost of a prompt in a step without decodes; ``prefill`` is timed for ``joined`` prompts at once."""
    each = slowest_seconds(prefill) / joined + engine.admit
    return PromptCost(each, prefill.through / joined + engine.admit, each)


def lone_chunks_cost(engine: EngineSpec, chunks: Chunks, joined: Number, ways: Number) -> PromptCost:
    """The cost of a prompt in steps without decodes, of ``joined`` prompts that come together.

    Running requests wait for all of its steps. The ``ways`` ranks that have requests of their own compute prompts side
    by side, as far as so many come.
    """
    times, count = chunks.times, minimum(joined, chunks.ways)
    host = host_seconds(engine, count * maximum(1 / chunks.steps, 1), ways)
    part, steps = chunks.steps / count, ceil_div(chunks.steps, 1)
    each = part * (slowest_seconds(times) + host) + engine.admit
    own = steps * (times.period + host) + engine.admit
    return PromptCost(each, own, each, together=maximum(1 / part - 1, 0), steps=steps)


def chunked_prompt_cost(
    engine: EngineSpec, chunks: Chunks, step: Number, host: Number, flights: Number, come: Number
) -> PromptCost:
    """The cost of a prompt in mixed steps; running requests take ``step`` seconds a step without it.

    Each of ``flights`` batches brings a chunk to a step on each rank that has requests, so that so many prompts share
    what a step takes. In each step ``come`` prompts of others join, and no more than all steps are mixed.
    """
    mixed, part = chunks.times.period, chunks.steps / (flights * chunks.ways)
    together = maximum(1 / part - 1, 0)
    part = minimum(part, 1 / maximum(come, LEAST))
    steps = ceil_div(chunks.steps, 1)
    return PromptCost(
        part * (mixed - step) + engine.admit,
        own=steps * (mixed + host) + engine.admit,
        turn=part * (mixed + host),
        together=together,
        steps=steps,
    )


class Served(NamedTuple):
    """One replica under an ongoing load, in requests and seconds.

    A first token waits ``queue`` for a place among those ``running``, ``line`` for other prefills, ``start`` for the
    prefills of the requests that all start at the beginning (mean over all requests), then for its own ``prefill`` and
    the engine's ``first``. Every later token takes ``step`` for kernels and ``host`` for the engine, and prefills of
    others add ``others``. With two pools, the transfer of the cache adds ``sent`` to TPOT, of which ``port`` is the
    wait for other transfers. ``rate`` requests/s are served. In chunks, a prompt takes ``steps`` mixed steps.
    """

    running: Number
    waiting: Number
    queue: Number
    line: Number
    start: Number
    prefill: Number
    first: Number
    step: Number
    host: Number
    others: Number
    rate: Number
    sent: Number = 0.0
    port: Number = 0.0
    steps: Number = 0.0

    @property
    def ttft(self) -> Number:
        """Mean time to the first token."""
        return self.queue + self.line + self.start + self.prefill + self.first

    @property
    def tpot(self) -> Number:
        """Mean time between tokens."""
        return self.step + self.host + self.others + self.sent


def running_requests(engine: EngineSpec, clients: Number, room: Number) -> Number:
    """Requests that run at once: all in flight, but at most the room in the KV cache and the engine's limit."""
    return maximum(minimum(minimum(clients, floor(room)), engine.max_requests), 1)


def joined_prefills(runs: Number, output: Number, ways: Number = 1) -> Number:
    """Requests whose prefills share a step: ``runs / output`` requests end in each step, at least 1.

    More requests than the ``ways`` ranks that share them are a multiple of these: each rank takes its next one when it
    has ended one, not when another rank has.
    """
    joined = maximum(runs / output, 1)
    return where((ways > 1) & (joined > ways), floor(joined / ways) * ways, joined)


def serve(
    engine: EngineSpec, clients: Number, runs: Number, output: Number, requests: Number | None,
    prefill: PhaseTimes, joined: Number, decode: PhaseTimes, flights: Number, gain: Number = 1,
    chunks: Chunks | None = None, ways: Number = 1, decodes: bool = True,
) -> Served:  # fmt: skip
    """A steady state of ``runs`` requests of ``clients`` in flight, ``requests`` in all.

    ``prefill`` is timed for ``joined`` requests at once (`joined_prefills`), ``decode`` for ``runs / flights`` in each
    of ``flights`` batches, which ``ways`` ranks share; to each request a step brings ``gain`` tokens. While one request
    makes its ``output`` tokens, each of the others is replaced once, and every prefill takes ``E`` seconds from all
    that run, on the slowest stage:

        TPOT = (step + host) / gain + E (runs - 1) / output,   E = prefill of one + admit

    Requests come when others end, which is when a step ends, and prompts go first. So a prompt meets those that came
    with it, ``E (runs - 1) / output``: each of a request's tokens has the same share of the other prompts. A request
    that finds no room waits for another to leave, ``(clients - runs) / X``, ``X = runs / (E + (output - 1) TPOT)``
    (Little 1961). The first ``runs`` requests arrive at once and wait for half of their prefills. In ``chunks``, a
    prompt costs running requests the difference between a mixed step and a plain one, or all of its steps where the
    engine does not mix them; other prompts wait until all its steps are done. If nothing ``decodes``, each text takes
    one step, and a step reads ``joined`` texts. During that step the results of the step before are still on their way
    to the clients.
    """
    added = host_seconds(engine, (runs if decodes else joined) / flights, ways)
    whole, step, host = decode.period + added, decode.period / gain, added / gain
    come = (runs - 1) / output
    if chunks is None:
        cost = whole_prompt_cost(engine, prefill, joined)
    elif decodes and not engine.mixes_steps:
        cost = lone_chunks_cost(engine, chunks, joined, ways)
    else:
        plain, beside = (decode.period, come) if decodes else (0.0, 0.0)
        cost = chunked_prompt_cost(engine, chunks, plain, added, flights=flights, come=beside)
    if not decodes:
        cost = cost._replace(wait=0.0)
    own, others = cost.own, cost.each * come
    cycle = own + maximum(output - 1, 0) * (step + host + others)
    rate = runs / cycle
    line = cost.turn * maximum(come - cost.together, 0) + cost.wait * whole * (runs - 1) / runs
    crowd = (runs - 1) / 2 * cost.turn
    start = 0.0 * crowd if requests is None else crowd * minimum(runs / requests, 1.0)
    queue = (clients - runs) / rate
    if requests is not None:  # the first of those who wait find others before them, half of all on average
        queue = queue * (1 - minimum(clients / requests, 1.0) / 2)
    first = engine.first + engine.first_request * (runs if decodes else joined)
    if not decodes:
        line = maximum(line - first, maximum(joined - 1 - cost.together, 0) * cost.each)
    others = others * (cycle + line) / (cycle + line + first)  # a request whose token is on its way is in no step
    cycle = own + maximum(output - 1, 0) * (step + host + others)
    stay = cycle + line + first
    served = runs / stay
    if requests is not None:  # where some waited, the last to run leave one by one
        served = drained_rate(served, stay, requests, runs)
    return Served(
        runs,
        clients - runs,
        queue=queue,
        line=line,
        start=start,
        prefill=own,
        first=first,
        step=step,
        host=host,
        others=others,
        rate=served,
        steps=cost.steps,
    )
