"""What a composed step costs: it becomes a step of the deployment, and the engine adds its own time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np

from plandsl.backends.cost.deployments.chunks import cuts_prompts, has_decodes
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Prompt, Step
from plandsl.backends.cost.serving.graphs import graphs_of
from plandsl.backends.cost.serving.kernels import MOST, Cost, Kernels, TabledKernels
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.cost.serving.scheduler import Batch
from plandsl.backends.cost.serving.table import Pieces
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.towered import Towered

Parts = Sequence[tuple[int, int]]
"""Tokens of prompts in a step, each with the tokens before them."""


class Shape(NamedTuple):
    """What the cost of a step depends on: its ``prompt``, and requests that decode, in a ``mean`` context.

    The engine counts ``rows`` requests in the step, of which it ``admitted`` some. ``alone``: whole prompts and nothing
    else, where prompts are never cut.
    """

    prompt: Prompt | None
    decodes: int
    mean: float
    rows: int
    admitted: int = 0
    alone: bool = False


class Decodes(NamedTuple):
    """Steps that follow one another, in which ``requests`` decode in ``means`` of contexts, `Shape.rows` each."""

    requests: int
    means: Floats
    rows: int


class Clock(Protocol):
    """What tells the cost of steps."""

    def cost(self, batch: Batch) -> Cost:
        """Seconds of a step that was just composed."""
        ...

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        """Seconds of a step of which each rank that shares requests has one of ``batches``."""
        ...

    def delay(self, running: int) -> float:
        """Seconds from a first token to its user, with ``running`` requests that run."""
        ...


@runtime_checkable
class Tabled(Clock, Protocol):
    """A clock of steps with one stage, which tells what many steps in a row cost."""

    def decode_pieces(self, n: int) -> Pieces:
        """Seconds of a step in which ``n`` requests decode, by their mean context."""
        ...

    def prompt_seconds(self, parts: Parts, whole: bool, admitted: int, n: int, total: int) -> float:
        """Seconds of a step with ``parts`` of prompts, beside ``n`` requests that decode, ``total`` their contexts.

        ``whole``: the parts are whole prompts, all of them of the ``admitted`` requests that join.
        """
        ...


@runtime_checkable
class Foreseeing(Clock, Protocol):
    """A clock that tells what the next steps cost if the same requests decode in each of them."""

    def foresee(self, batches: Sequence[Batch], steps: int) -> Floats:
        """Seconds float64[steps, parts] that follow one another in each of the steps behind one of ``batches``.

        Each rank that shares requests has one of ``batches``, in which it only decodes.
        """
        ...


class ServerClock:
    """Asks the `Kernels` of a server, and adds the engine's own time.

    The engine adds ``step``, ``request`` for each request in the step and ``admit`` for each that joins. To a step of
    whole prompts alone, where the plan does not cut prompts, it adds ``admit`` alone: so the estimate of one batch
    counts, and so the constants of engines are fitted. In a pool of prefill it adds no ``request``, as there.

    Steps are padded to the sizes of the engine's graphs, by requests that see nothing but their own tokens.

    Where ranks share requests, all are counted as full as the slowest, for which they wait. Of one batch for all ranks,
    each prompt goes to the rank with the fewest prompt tokens, and requests that decode are shared evenly.
    """

    def __init__(self, server: Server, kernels: Kernels | None = None) -> None:
        self.server, self.engine = server, server.plan.effective_engine
        self.kernels = kernels or Kernels(server)
        self.queries = int(server.queries)
        self.graphs = graphs_of(server)
        self.request = self.engine.request if has_decodes(server) else 0.0
        self.cuts, self.ways = cuts_prompts(server), int(server.main.ways)

    def on(self, server: Server) -> ServerClock:
        """The same clock for ``server``: the same plan, whose engine has other figures and the same scheduler.

        Where the kernels take as long under both engines, they are not asked for again.
        """
        return ServerClock(server, self.kernels if self._as_fast(server) else None)

    def _as_fast(self, server: Server) -> bool:
        engine = server.plan.effective_engine
        assert engine.scheduler == self.engine.scheduler, "which clock a server has depends on the scheduler's graphs"
        return engine.paces == self.engine.paces

    def delay(self, running: int) -> float:
        """Seconds that the engine adds to a first token."""
        return self.engine.first + self.engine.first_request * running

    def cost(self, batch: Batch) -> Cost:
        """Seconds of a step."""
        return self.cost_of(self.shape(batch))

    def shape(self, batch: Batch) -> Shape:
        """What the cost of a step depends on."""
        prompt, alone = self._prompt(batch, self.ways)
        return Shape(prompt, *self._decodes(batch), batch.rows, len(batch.admitted), alone)

    def cost_of(self, shape: Shape) -> Cost:
        """Seconds of a step of this shape."""
        host = self.engine.admit * shape.admitted
        if not shape.alone:
            host += self.engine.step + self.request * shape.rows
        found = self.kernels.cost(shape.prompt, shape.decodes, shape.mean)
        return found._replace(host=host) if host else found

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        """Seconds of the slowest rank; each adds to its step what the engine adds.

        Other ranks are counted as if they had as much: engines pad all to the largest. Of n requests on a rank of R,
        beside which others may have none, ``max(all requests, (n - 1) R + 1)`` are counted in steps of one kind.
        """
        return max(map(self.cost_of, self.rank_shapes(batches)), key=whole_seconds)

    def rank_shapes(self, batches: Sequence[Batch]) -> list[Shape]:
        """The step if each rank had what one of them has, for each rank that has requests."""
        prompts = sum(len(batch.prompts) for batch in batches)
        decodes = sum(len(batch.decodes) + len(batch.spent) for batch in batches)
        return [self._rank_shape(batch, prompts, decodes) for batch in batches if batch.rows]

    def _rank_shape(self, batch: Batch, prompts: int, decodes: int) -> Shape:
        """The step if each rank had what this one has, of so many in all."""
        ways, alone, prompt = self.ways, False, None
        count, mean = self._decodes(batch)
        if batch.prompts:
            prompt, alone = self._prompt(batch, 1)
            if prompt is not None and not prompt.chunk and not count:
                prompt = prompt._replace(requests=max(prompts, (len(batch.prompts) - 1) * ways + 1))
            elif prompt is not None:
                prompt = prompt._replace(requests=prompt.requests * ways, chunk=True)
            count *= ways
        elif count:
            count = max(decodes, (count - 1) * ways + 1)
        return Shape(prompt, count, mean, batch.rows, admitted=len(batch.admitted), alone=alone)

    def foresee(self, batches: Sequence[Batch], steps: int) -> Floats:
        """Seconds of the next steps of decodes; of ranks those of the slowest in each step."""
        return self.foresee_slowest(self.next_decodes(batches, steps))[0]

    def foresee_slowest(self, ranks: Sequence[Decodes]) -> tuple[Floats, Ints]:
        """Seconds of steps by their parts, and which of ``ranks`` is the slowest in each step."""
        found = [self._columns(r.requests, r.means, self.engine.step + self.request * r.rows) for r in ranks]
        steps = np.arange(len(found[0]))
        if len(found) == 1:
            return found[0], np.zeros_like(steps)
        whole = [c[:, 1::2].sum(axis=1) + c[:, 0] + c[:, -1] for c in found]
        slowest = np.argmax(whole, axis=0)
        return np.stack(found)[slowest, steps], slowest

    def next_decodes(self, batches: Sequence[Batch], steps: int) -> list[Decodes]:
        """The next steps in which the same requests decode, if each rank had what one has, for each that has any."""
        if len(batches) == 1:
            return [Decodes(*self._next_contexts(batches[0], steps), batches[0].rows)]
        every, found = sum(len(batch.decodes) for batch in batches), []
        for batch in batches:
            if batch.rows:
                count, means = self._next_contexts(batch, steps)
                found.append(Decodes(max(every, (count - 1) * self.ways + 1), means, batch.rows))
        return found

    def _next_contexts(self, batch: Batch, steps: int) -> tuple[int, Floats]:
        """Requests that decode, those of the padding included, and their mean contexts in the next steps."""
        n, total = len(batch.decodes), self._context(batch)
        more = self.graphs.padding(n, 0, self.queries) if self.graphs.decodes else 0
        totals = total + n * np.arange(1, steps + 1)
        return n + more, (totals + more * self.queries) / (n + more)

    def _columns(self, count: int, means: Floats, host: float) -> Floats:
        """Seconds of steps by their parts: the draft, each stage, hops between stages, the engine's own."""
        stages, hop, draft = self.kernels.decode_seconds(count, means)
        parts = [draft, stages[0]]
        for stage in stages[1:]:
            parts += [hop, stage]
        found = np.empty((len(means), len(parts) + 1))
        for at, part in enumerate((*parts, host)):
            found[:, at] = part
        return found

    def _prompt(self, batch: Batch, ways: int) -> tuple[Prompt | None, bool]:
        """The prompts of a step of ``ways`` ranks; and whether they are whole, alone, and never cut."""
        if not batch.prompts:
            return None, False
        parts = [(piece.tokens, piece.before) for piece in batch.prompts]
        whole = len(batch.prompts) == len(batch.admitted) and all(piece.last for piece in batch.prompts)
        return self._together(parts, whole and not self.cuts and not batch.decodes and not batch.spent, ways)

    def _together(self, parts: Parts, alone: bool, ways: int) -> tuple[Prompt, bool]:
        """The same of ``parts``, which are alone in the step or not, on each of ``ways`` ranks."""
        if ways == 1 or (alone and len(set(parts)) == 1):
            return Prompt.unlike(parts, chunk=not alone), alone
        fullest = Prompt.unlike(_fullest_rank(parts, ways), chunk=True)
        return fullest._replace(requests=fullest.requests * ways), alone

    def _decodes(self, batch: Batch) -> tuple[int, float]:
        """Requests that decode, those of the padding included, and their mean context."""
        count = len(batch.decodes) + len(batch.spent)
        if not count:
            return 0, 0.0
        total, more = self._context(batch), 0
        if self.graphs.decodes:
            more = self.graphs.padding(count, sum_up(piece.tokens for piece in batch.prompts), self.queries)
        return count + more, (total + more * self.queries) / (count + more)

    def _context(self, batch: Batch) -> int:
        """Tokens that the last queries of all that decode see, added up."""
        queries = self.queries
        total = (len(batch.decodes) + len(batch.spent)) * queries - sum_up(batch.gained)
        for live in batch.decodes:
            total += live.computed
        for live in batch.spent:
            total += live.computed
        return total


class ImagesClock(ServerClock):
    """Asks a server whose prompts have images of their own number, which its tower encodes before a step.

    A part of a prompt has its share of the prompt's images. What runs after the tower depends on tokens alone.
    """

    def __init__(self, server: Towered, kernels: Kernels | None = None) -> None:
        super().__init__(server.inner, kernels)
        self.tower, self._encoded = server.tower, dict[float, float]()

    def on(self, server: Server) -> ImagesClock:
        """The same clock for ``server``, as `ServerClock.on`."""
        return ImagesClock(cast("Towered", server), self.kernels if self._as_fast(server) else None)

    def cost(self, batch: Batch) -> Cost:
        """Seconds of a step."""
        return self._with_tower(super().cost(batch), (batch,))

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        """Seconds of the slowest rank, behind the images of all ranks."""
        return self._with_tower(super().cost_of_ranks(batches), batches)

    def _with_tower(self, cost: Cost, batches: Sequence[Batch]) -> Cost:
        """``cost`` with the tower before each of its parts."""
        images = sum_up(p.live.images * min(p.tokens / p.live.input, 1) for batch in batches for p in batch.prompts)
        if not images:
            return cost
        each = round(images / cost.parts, 3)
        found = self._encoded.get(each)
        if found is None:
            if len(self._encoded) >= MOST:
                self._encoded.clear()
            patches = self.tower.plan.workload.input
            times = self.tower.step(Step(Prompt(each, patches)), self.tower.in_flight)
            found = self._encoded[each] = float(times.through)
        return cost._replace(draft=cost.draft + found)


class TableClock(ServerClock):
    """Tells steps by the tables of a server's kernels, so that servers can leap by them."""

    def __init__(self, server: Server, kernels: TabledKernels | None = None) -> None:
        self.tables = kernels or TabledKernels(server)
        super().__init__(server, self.tables)
        self._pieces: dict[int, Pieces] = {}

    def on(self, server: Server) -> TableClock:
        """The same clock for ``server``, as `ServerClock.on`."""
        return TableClock(server, self.tables if self._as_fast(server) else None)

    def decode_pieces(self, n: int) -> Pieces:
        """Seconds of a step in which ``n`` requests decode, by their mean context."""
        found = self._pieces.get(n)
        if found is None:
            host = self.engine.step + self.engine.request * n
            made = self.tables.decodes.of(n)
            found = self._pieces[n] = made._replace(base=[base + host for base in made.base])
        return found

    def prompt_seconds(self, parts: Parts, whole: bool, admitted: int, n: int, total: int) -> float:
        """Seconds of a step with prompts."""
        prompt, alone = self._together(parts, whole and not self.cuts and not n, self.ways)
        host = self.engine.admit * admitted
        if not alone:
            host += self.engine.step + self.engine.request * (len(parts) + n)
        return self.tables.cost(prompt, n, total / n if n else 0.0).stages[0] + host


def step_clock(server: Server) -> ServerClock:
    """The clock of a server: tables where servers can leap by them, else the model itself.

    No ranks share its requests then.
    """
    return table_clock(server) if int(server.main.ways) == 1 else server_clock(server)


def server_clock(server: Server) -> ServerClock:
    """The clock that asks the model of a server itself."""
    if server.tower is None or server.plan.workload.drawn_images is None:
        return ServerClock(server)
    return ImagesClock(cast("Towered", server))


def table_clock(server: Server) -> ServerClock:
    """The clock of a server, whose ranks may share its requests: tables where it can have them, else the model itself.

    A step has one stage and contexts without chunks then, and no padding.
    """
    main = server.main
    alone = server.guesses is None and server.tower is None
    simple = alone and server.in_flight == 1 and int(server.queries) == 1
    whole = len(main.prefill.schedule.stages) == 1 and server.plan.micro_batches == 1
    chunks = main.prefill.chunks or main.decode.chunks
    padded = server.plan.effective_engine.scheduler.graphs
    return TableClock(server) if simple and whole and not chunks and not padded else server_clock(server)


def whole_seconds(cost: Cost) -> float:
    """Seconds of a step that has all stages for itself, near enough to compare ranks."""
    return cost.parts * (sum_up(cost.stages) + cost.draft) + cost.host


def _fullest_rank(parts: Parts, ways: int) -> list[tuple[int, int]]:
    """The prompts of the rank with the most tokens, of ``ways`` that get them in order, the emptiest rank first."""
    ranks: list[list[tuple[int, int]]] = [[] for _ in range(ways)]
    tokens = [0] * ways
    for part in parts:
        rank = tokens.index(min(tokens))
        ranks[rank].append(part)
        tokens[rank] += part[0]
    return ranks[tokens.index(max(tokens))]
