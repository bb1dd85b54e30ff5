"""What a composed step costs: it becomes a step of the deployment, and the engine adds its own time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np

from plandsl.backends.cost.deployments.chunks import cuts_prompts, decodes_beside
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.serving.graphs import graphs_of
from plandsl.backends.cost.serving.requests import Floats, Ints
from plandsl.backends.cost.serving.scheduler import Batch
from plandsl.backends.cost.serving.table import Contexts, Pieces, Rows, split_sum, write_sum
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.backends.cost.time.trace import Tape, trace
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.towered import Towered

HOT = 100
"""Steps of one shape after which its cost is worth compiling."""


MOST = 100_000
"""Costs of steps that are kept at once."""


Parts = Sequence[tuple[int, int]]
"""Tokens of prompts in a step, each with the tokens before them."""


class Cost(NamedTuple):
    """Seconds of a step: on each stage, of a hop between stages, of a ``draft`` before each of ``parts``.

    Parts are micro-batches that follow one another. ``host`` is what the engine adds.
    """

    stages: tuple[float, ...]
    hop: float = 0.0
    draft: float = 0.0
    parts: int = 1
    host: float = 0.0


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
    """Asks a `Server`. What a step costs depends on few numbers; steps that agree in them are asked for once.

    The engine adds ``step``, ``request`` for each request in the step and ``admit`` for each that joins. To a step of
    whole prompts alone, where the plan does not cut prompts, it adds ``admit`` alone: so the estimate of one batch
    counts, and so the constants of engines are fitted. In a pool of prefill it adds no ``request``, as there.

    Steps are padded to the sizes of the engine's graphs, by requests that see nothing but their own tokens.

    Where ranks share requests, all are counted as full as the slowest, for which they wait. Of one batch for all ranks,
    each prompt goes to the rank with the fewest prompt tokens, and requests that decode are shared evenly.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.engine = server, server.plan.effective_engine
        self.queries = int(server.queries)
        self.graphs = graphs_of(server)
        self.request = self.engine.request if decodes_beside(server) else 0.0
        self.cuts, self.ways = cuts_prompts(server), int(server.main.ways)
        self._known: dict[tuple[object, ...], Cost] = {}
        self._asked: dict[tuple[bool, ...], int] = {}
        self._hot: dict[tuple[bool, ...], Callable[..., Any]] = {}
        self._many: Callable[..., Any] | None = None

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
        found = self._seconds(shape.prompt, shape.decodes, shape.mean)
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
        stages, hop, draft = self._decode_seconds(count, means)
        parts = [draft, stages[0]]
        for stage in stages[1:]:
            parts += [hop, stage]
        found = np.empty((len(means), len(parts) + 1))
        for at, part in enumerate((*parts, host)):
            found[:, at] = part
        return found

    def _decode_seconds(self, count: int, means: Floats) -> tuple[Sequence[Any], Any, Any]:
        """Seconds of each stage, of a hop and of a draft, in steps in which so many decode."""
        if self._many is None:
            self._many = trace(self._kernels((False, False, True)), "n", "c", arrays=True)
        found: tuple[Sequence[Any], Any, Any] = self._many(float(count), means)
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

    def _seconds(self, prompt: Prompt | None, count: int, mean: float) -> Cost:
        """Kernels of a step, asked for once."""
        key = (prompt, count, mean)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            parts = 1 if prompt is None else max(min(int(prompt.requests), self.server.plan.micro_batches), 1)
            found = self._known[key] = self._ask(prompt, count, mean, parts)
        return found

    def _ask(self, prompt: Prompt | None, count: int, mean: float, parts: int) -> Cost:
        numbers: list[Any] = []
        shape = (prompt is not None, prompt is not None and prompt.chunk, count > 0)
        if prompt is not None:
            numbers += [prompt.requests / parts if parts > 1 else prompt.requests, prompt.new, prompt.cached]
        if count:
            numbers += [count / parts if parts > 1 else count, mean]
        asked = self._asked[shape] = self._asked.get(shape, 0) + 1
        if asked > HOT and shape not in self._hot:
            self._hot[shape] = trace(self._kernels(shape), *(f"n{i}" for i in range(len(numbers))))
        kernels = self._hot.get(shape) or self._kernels(shape)
        stages, hop, draft = kernels(*numbers)
        return Cost(stages, hop, draft, parts)

    def _kernels(self, shape: tuple[bool, ...]) -> Callable[..., tuple[tuple[float, ...], float, float]]:
        """The server's answer as a function of the numbers of a step: prompts, in chunks, decodes or not."""
        prompts, chunk, decodes = shape

        def kernels(*numbers: Any) -> tuple[tuple[float, ...], float, float]:
            prompt = Prompt(numbers[0], numbers[1], numbers[2], chunk) if prompts else None
            decode = Decode(numbers[-2], numbers[-1], queries=self.queries) if decodes else None
            return _seconds_of(self.server.step(Step(prompt, decode), self.server.in_flight))

        return kernels


class ImagesClock(ServerClock):
    """Asks a server whose prompts have images of their own number, which its tower encodes before a step.

    A part of a prompt has its share of the prompt's images. What runs after the tower depends on tokens alone.
    """

    def __init__(self, server: Towered) -> None:
        super().__init__(server.inner)
        self.tower, self._encoded = server.tower, dict[float, float]()

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


class _Split(NamedTuple):
    """Seconds of a step with prompts as a sum: a constant, and what depends on rows, on tokens that need logits, on the
    prompts, and on what decodes.
    """

    constant: float
    rows: Rows
    logits: Rows
    prompts: Callable[[float, float, float], float]
    decodes: Contexts


class TableClock(ServerClock):
    """Asks a `Server` of one stage whose requests have one token in a step, and keeps the answers in tables.

    A step without prompts takes what is tabulated by the number of requests and their mean context (`Contexts`). In a
    step with prompts, kernels depend on the rows, on the tokens that need logits, on the prompts, or on what decodes:
    where the model's sum falls apart so, each part has a table of its own, else the model is asked.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.bends = [w for phase in (server.main.prefill, server.main.decode) for w in phase.windows]
        self._splits: dict[bool, _Split | None] = {}
        self._prompts: dict[tuple[float, float, float], float] = {}
        self._pieces: dict[int, Pieces] = {}

    @cached_property
    def decodes(self) -> Contexts:
        """Seconds of kernels in a step without prompts."""
        decode = trace(self._kernels((False, False, True)), "n", "c", arrays=True)
        return Contexts(lambda n, c: decode(n, c)[0][0], self.bends)

    def decode_pieces(self, n: int) -> Pieces:
        """Seconds of a step in which ``n`` requests decode, by their mean context."""
        found = self._pieces.get(n)
        if found is None:
            host = self.engine.step + self.engine.request * n
            made = self.decodes.of(n)
            found = self._pieces[n] = made._replace(base=[base + host for base in made.base])
        return found

    def prompt_seconds(self, parts: Parts, whole: bool, admitted: int, n: int, total: int) -> float:
        """Seconds of a step with prompts."""
        prompt, alone = self._together(parts, whole and not self.cuts and not n, self.ways)
        host = self.engine.admit * admitted
        if not alone:
            host += self.engine.step + self.engine.request * (len(parts) + n)
        return self._seconds(prompt, n, total / n if n else 0.0).stages[0] + host

    def _decode_seconds(self, count: int, means: Floats) -> tuple[Sequence[Any], Any, Any]:
        return (self.decodes.of(count).at_all(means),), 0.0, 0.0

    def _seconds(self, prompt: Prompt | None, count: int, mean: float) -> Cost:
        if prompt is None:
            return Cost((self.decodes.of(count).at(mean),))
        split = self._split(count > 0) if prompt.chunk and self.ways == 1 else None
        if split is None:
            return super()._seconds(prompt, count, mean)
        requests, new, cached, _ = prompt
        key = requests, new, cached
        own = self._prompts.get(key)
        if own is None:
            if len(self._prompts) >= MOST:
                self._prompts.clear()
            own = self._prompts[key] = split.prompts(*key)
        seconds = split.constant + own + split.rows.at(round(requests * new) + count)
        seconds += split.logits.at(int(requests) + count)
        if count:
            seconds += split.decodes.of(count).at(mean)
        return Cost((seconds,))

    def _split(self, decodes: bool) -> _Split | None:
        """The sum of a step with prompts, with or without others that decode; None where it does not fall apart."""
        if decodes not in self._splits:
            self._splits[decodes] = self._make_split(decodes)
        return self._splits[decodes]

    def _make_split(self, decodes: bool) -> _Split | None:
        tape = Tape()
        every: list[Any] = [tape.node("input", cast(Any, name)) for name in ("requests", "new", "cached", "n", "c")]
        requests, new, cached, n, c = every
        inputs = every if decodes else every[:3]
        stages: Any = self._kernels((True, True, decodes))(*inputs)[0]
        rows = new * requests + n if decodes else new * requests
        known = {"rows": rows} | ({"logits": n + requests} if decodes else {})
        constant, terms = split_sum(stages[0], known)
        logits = "logits" if decodes else "requests"
        by_rows, by_logits = terms.pop(frozenset(["rows"]), []), terms.pop(frozenset([logits]), [])
        own, beside, prompts = [], [], {"requests", "new", "cached"} | (set() if decodes else {"rows"})
        for names, some in terms.items():
            if names <= prompts:
                own += some
            elif names <= {"n", "c"}:
                beside += some
            else:
                return None
        return _Split(
            constant,
            Rows(write_sum(by_rows, {"rows": rows}, arrays=True)),
            Rows(write_sum(by_logits, {logits: known.get(logits, requests)}, arrays=True)),
            write_sum(own, {"requests": requests, "new": new, "cached": cached}),
            Contexts(write_sum(beside, {"n": n, "c": c}, arrays=True), self.bends),
        )


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


def _seconds_of(times: PhaseTimes) -> tuple[Any, Any, Any]:
    """Seconds of each stage, of the mean hop, and of the draft."""
    between = max(len(times.stages) - 1, 1)
    return tuple(stage.span for stage in times.stages), times.hops / between, times.drafted


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
