"""Seconds that the kernels of a step take: a server tells them once for each step, or tables have them.

The time of the engine itself is not part of these seconds. So two engines that differ in that time alone share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.serving.requests import Floats
from plandsl.backends.cost.serving.table import Contexts, Rows, split_sum, write_sum
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.backends.cost.time.tape import Tape
from plandsl.backends.cost.time.trace import trace

ASKED = 8
"""After so many steps of one shape the server's arithmetic is recorded.

A record takes as long as 23 to 28 steps (`python -m benchmarks.records`). The number is assumed: who asks for more than
a few steps simulates, and asks for thousands.
"""

DECODES = False, False, True
"""The shape of steps without prompts. As many requests often decode in the next step, in longer contexts."""

MOST = 100_000
"""Costs of steps that are kept at once."""


class Cost(NamedTuple):
    """Seconds of a step: on each stage, of a hop between stages, of a ``draft`` before each of ``parts``.

    Parts are micro-batches that follow one another. ``host`` is what the engine adds.
    """

    stages: tuple[float, ...]
    hop: float = 0.0
    draft: float = 0.0
    parts: int = 1
    host: float = 0.0


class Kernels:
    """Asks a `Server`. What a step costs depends on few numbers; steps that agree in them are asked for once."""

    def __init__(self, server: Server) -> None:
        self.server, self.queries = server, int(server.queries)
        self._known: dict[tuple[object, ...], Cost] = {}
        self._asked: dict[tuple[bool, ...], int] = {}
        self._hot: dict[tuple[bool, ...], Callable[..., Any]] = {}

    def cost(self, prompt: Prompt | None, count: int, mean: float) -> Cost:
        """Seconds of a step with a ``prompt``, in which ``count`` requests decode in a ``mean`` context."""
        key = (prompt, count, mean)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            parts = 1 if prompt is None else max(min(int(prompt.requests), self.server.plan.micro_batches), 1)
            found = self._known[key] = self._ask(prompt, count, mean, parts)
        return found

    def decode_seconds(self, count: int, means: Floats) -> tuple[Sequence[Any], Any, Any]:
        """Seconds of each stage, of a hop and of a draft, in steps in which so many decode."""
        found: tuple[Sequence[Any], Any, Any] = self._decode(float(count), means)
        return found

    @cached_property
    def _decode(self) -> Callable[..., Any]:
        return trace(self._of_shape(DECODES), "n", "c", arrays=True, again="n")

    def _ask(self, prompt: Prompt | None, count: int, mean: float, parts: int) -> Cost:
        numbers: list[Any] = []
        shape = (prompt is not None, prompt is not None and prompt.chunk, count > 0)
        if prompt is not None:
            numbers += [prompt.requests / parts if parts > 1 else prompt.requests, prompt.new, prompt.cached]
        if count:
            numbers += [count / parts if parts > 1 else count, mean]
        asked = self._asked[shape] = self._asked.get(shape, 0) + 1
        if asked > ASKED and shape not in self._hot:
            names = [f"n{i}" for i in range(len(numbers))]
            self._hot[shape] = trace(self._of_shape(shape), *names, again="n0" if shape == DECODES else None)
        kernels = self._hot.get(shape) or self._of_shape(shape)
        stages, hop, draft = kernels(*numbers)
        return Cost(stages, hop, draft, parts)

    def _of_shape(self, shape: tuple[bool, ...]) -> Callable[..., tuple[tuple[float, ...], float, float]]:
        """The server's answer as a function of the numbers of a step: prompts, in chunks, decodes or not."""
        prompts, chunk, decodes = shape

        def kernels(*numbers: Any) -> tuple[tuple[float, ...], float, float]:
            prompt = Prompt(numbers[0], numbers[1], numbers[2], chunk) if prompts else None
            decode = Decode(numbers[-2], numbers[-1], queries=self.queries) if decodes else None
            return _seconds_of(self.server.step(Step(prompt, decode), self.server.in_flight))

        return kernels


class Split(NamedTuple):
    """Seconds of a step with prompts as a sum: a constant, and what depends on rows, on tokens that need logits, on the
    prompts, and on what decodes.
    """

    constant: float
    rows: Rows
    logits: Rows
    prompts: Callable[[float, float, float], float]
    decodes: Contexts


class TabledKernels(Kernels):
    """Asks a `Server` of one stage whose requests have one token in a step, and keeps the answers in tables.

    A step without prompts takes what is tabulated by the number of requests and their mean context (`Contexts`). In a
    step with prompts, kernels depend on the rows, on the tokens that need logits, on the prompts, or on what decodes:
    where the model's sum falls apart so, each part has a table of its own, else the model is asked.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.alone = int(server.main.ways) == 1
        self.bends = [w for phase in (server.main.prefill, server.main.decode) for w in phase.windows]
        self._splits: dict[bool, Split | None] = {}
        self._prompts: dict[tuple[float, float, float], float] = {}

    @cached_property
    def decodes(self) -> Contexts:
        """Seconds of kernels in a step without prompts."""
        decode = trace(self._of_shape(DECODES), "n", "c", arrays=True)
        return Contexts(lambda n, c: decode(n, c)[0][0], self.bends)

    def decode_seconds(self, count: int, means: Floats) -> tuple[Sequence[Any], Any, Any]:
        """Seconds of the stage, in steps in which so many decode."""
        return (self.decodes.of(count).at_all(means),), 0.0, 0.0

    def cost(self, prompt: Prompt | None, count: int, mean: float) -> Cost:
        """Seconds of a step."""
        if prompt is None:
            return Cost((self.decodes.of(count).at(mean),))
        split = self._split(count > 0) if prompt.chunk and self.alone else None
        if split is None:
            return super().cost(prompt, count, mean)
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

    def _split(self, decodes: bool) -> Split | None:
        """The sum of a step with prompts, with or without others that decode; None where it does not fall apart."""
        if decodes not in self._splits:
            self._splits[decodes] = self._make_split(decodes)
        return self._splits[decodes]

    def _make_split(self, decodes: bool) -> Split | None:
        tape = Tape()
        every: list[Any] = [tape.node("input", cast(Any, name)) for name in ("requests", "new", "cached", "n", "c")]
        requests, new, cached, n, c = every
        inputs = every if decodes else every[:3]
        stages: Any = self._of_shape((True, True, decodes))(*inputs)[0]
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
        return Split(
            constant,
            Rows(write_sum(by_rows, {"rows": rows}, arrays=True)),
            Rows(write_sum(by_logits, {logits: known.get(logits, requests)}, arrays=True)),
            write_sum(own, {"requests": requests, "new": new, "cached": cached}),
            Contexts(write_sum(beside, {"n": n, "c": c}, arrays=True), self.bends),
        )


def _seconds_of(times: PhaseTimes) -> tuple[Any, Any, Any]:
    """Seconds of each stage, of the mean hop, and of the draft."""
    between = max(len(times.stages) - 1, 1)
    return tuple(stage.span for stage in times.stages), times.hops / between, times.drafted
