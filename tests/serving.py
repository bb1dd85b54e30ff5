"""Tiny servers for tests of what is simulated: requests as a line of text, and the steps that come of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from plandsl.backends.cost.serving.clock import Cost
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Hashes, Requests
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State
from plandsl.backends.cost.serving.simulate import simulate

REQUEST = re.compile(r"(\w) (\d+)\+(\d+)(?: @([\d.]+))?(?: \[([\d ]+)\])?")


class Steady:
    """Every step takes ``stages`` seconds, with ``hop`` between them, or what ``seconds`` says of it."""

    def __init__(self, *stages: float, hop: float = 0.0, seconds: Callable[[Batch], float] | None = None) -> None:
        self.stages, self.hop, self.seconds = stages or (1.0,), hop, seconds

    def cost(self, batch: Batch) -> Cost:
        return Cost(self.stages if self.seconds is None else (self.seconds(batch),), self.hop)

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        """The slowest rank."""
        return max((self.cost(batch) for batch in batches if batch.rows), key=lambda cost: sum(cost.stages))

    def delay(self, running: int) -> float:
        return 0.0


class Watched:
    """A policy whose steps are written down: `a` decodes, `a~` has all its tokens, `a4` is of a prompt, `-a` goes."""

    def __init__(self, policy: Policy, names: Sequence[str]) -> None:
        self.policy, self.names, self.steps = policy, names, []
        self.ahead = policy.ahead

    def refuses(self, live: Live, state: State) -> bool:
        return self.policy.refuses(live, state)

    def compose(self, state: State) -> Batch:
        batch = self.policy.compose(state)
        words = [self.names[live.index] for live in batch.decodes]
        words += [f"{self.names[live.index]}~" for live in batch.spent]
        words += [f"{self.names[piece.live.index]}{piece.tokens}" for piece in batch.prompts]
        words += [f"-{self.names[live.index]}" for live in batch.preempted]
        if words:
            self.steps.append(" ".join(words))
        return batch


def read(text: str, grain: int) -> tuple[str, Requests]:
    """Requests from ``name input+output @arrival [ids]``, each id for ``grain`` tokens, in the order of arrival."""
    found = REQUEST.findall(text)
    assert len(found) == len(text.split(",")), text
    ids = [[int(i) for i in known.split()] for *_, known in found]
    starts = np.cumsum([0, *map(len, ids)])
    requests = Requests(
        np.array([float(at or 0) for _, _, _, at, _ in found]),
        np.array([int(tokens) for _, tokens, *_ in found]),
        np.array([int(tokens) for _, _, tokens, *_ in found]),
        Hashes(starts, np.array([i for known in ids for i in known], np.int64), grain) if starts[-1] else None,
    )
    return "".join(name for name, *_ in found), requests


def steps(
    policy: Policy, text: str, blocks: int = 100, block: int = 4, stages: tuple[float, ...] = (1.0,), **worker: object
) -> str:
    """What ``policy`` composes on a server whose steps take a second in each of its stages."""
    names, requests = read(text, block)
    watched = Watched(policy, names)
    served = simulate([Worker(watched, Steady(*stages), blocks, block, in_flight=len(stages), **worker)], requests)
    assert served.served.all()
    return " | ".join(watched.steps)
