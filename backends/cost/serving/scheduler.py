"""What a scheduler sees, and what it decides: the next step, composed of requests that wait and that run.

A scheduler knows tokens and blocks, and no seconds. `vllm`, `sglang` and `trtllm` are three policies of one interface;
another engine is one more class with `compose`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from plandsl.backends.cost.serving.adapters import Slots
from plandsl.backends.cost.serving.blocks import Pool


class Live:
    """One request inside a server. A step that computes the last of its ``target`` tokens makes its next token.

    ``made`` counts output tokens, those of steps on their way included, and ``shown`` those of steps that are over, the
    last of them at ``shown_s``. ``computed`` tokens are in the cache; the request has ``held`` blocks, with a prefix
    cache these ``blocks``, of which others know the first ``keyed``. ``step`` is the last step that the request was in.
    ``ids`` name its blocks of ``grain`` tokens. Of two requests the one with the lower ``priority`` comes first.
    ``adapter`` is the number of the adapter that it names, 0 if it names none; its prompt has ``images``.
    """

    __slots__ = (
        "adapter", "blocks", "computed", "grain", "held", "ids", "images", "index", "input", "keyed", "made", "output",
        "priority", "shown", "shown_s", "step",
    )  # fmt: skip

    def __init__(self, index: int, input_: int, output: int, ids: Sequence[int] = (), grain: int = 1) -> None:
        self.index, self.input, self.output, self.ids, self.grain = index, input_, output, ids, grain
        self.made = self.shown = self.computed = self.held = self.keyed = 0
        self.blocks: list[int] = []
        self.step = -1
        self.priority = self.adapter = self.images = 0
        self.shown_s = 0.0

    @property
    def target(self) -> int:
        """Tokens before the next one: the prompt, and all that were made."""
        return self.input + self.made

    @property
    def decodes(self) -> bool:
        """Whether only the newest token is missing in the cache."""
        return self.made > 0 and self.computed == self.input + self.made - 1


class Piece(NamedTuple):
    """``tokens`` of a request's prompt in a step, behind ``before`` that are in the cache.

    ``last``: the step makes a token, since no more of the prompt is missing. A request that was preempted computes
    tokens that it made before in the same way.
    """

    live: Live
    tokens: int
    before: int
    last: bool


class Batch(NamedTuple):
    """A step. Each of ``decodes`` has `State.queries` tokens, of which ``gained`` (one number each) count.

    ``spent`` are requests that have all their tokens and are in the step nevertheless, since their end was not known
    when it was composed. ``admitted`` came out of the queue, ``preempted`` went back to it.
    """

    prompts: list[Piece]
    decodes: list[Live]
    gained: list[int]
    spent: list[Live]
    admitted: list[Live]
    preempted: list[Live]

    @property
    def rows(self) -> int:
        """Requests in the step."""
        return len(self.prompts) + len(self.decodes) + len(self.spent)


class State:
    """One server between steps: who waits, who runs in order of admission, and the blocks that are free.

    ``number`` counts steps. Requests whose ``step`` is not below ``upto`` are in a step on its way, so that another one
    cannot have them. ``gained`` draws how many tokens a decode brings, of the ``queries`` that it has. ``parked``
    requests have blocks, and their cache is on its way: from the server that prefills, or from memory that vLLM keeps
    it in; from there, it is ``loaded``. Of a server that decodes what another one prefills (``receives``), ``asking``
    requests have no blocks yet. A server of ``prompts`` makes the first token of each request, and no other. ``slots``
    are for adapters; None: requests name none, or all are there.

    The others are SGLang's: the share of outputs that it keeps room for (``ratio``), whether it takes nobody until a
    request ends (``full``), the prompt that it is in the middle of (``cut``), prompts that are not found yet, each with
    the tokens that are made when it is (``unfound``), and steps that may be on their way (``sent``).
    """

    __slots__ = (
        "asking", "cut", "full", "gained", "loaded", "number", "parked", "pool", "prompts", "queries", "ratio",
        "receives", "running", "sent", "slots", "unfound", "upto", "waiting",
    )  # fmt: skip

    def __init__(self, pool: Pool, queries: int = 1, gained: Callable[[], int] = lambda: 1) -> None:
        self.pool, self.queries, self.gained = pool, queries, gained
        self.waiting: deque[Live] = deque()
        self.running: list[Live] = []
        self.number = 0
        self.upto = 0
        self.ratio: float | None = None
        self.full = False
        self.cut: Live | None = None
        self.unfound: list[tuple[Live, int]] = []
        self.sent: dict[int, Batch] = {}
        self.parked: list[Live] = []
        self.loaded: deque[Live] = deque()
        self.asking: deque[Live] = deque()
        self.prompts = self.receives = False
        self.slots: Slots | None = None

    def has_adapter(self, live: Live) -> bool:
        """Whether the adapter of a request is on the GPUs."""
        return self.slots is not None and live.adapter in self.slots.there

    @property
    def load(self) -> int:
        """Requests that wait or run, or whose cache comes from elsewhere."""
        coming = len(self.parked) + len(self.asking) + len(self.loaded)
        return len(self.waiting) + len(self.running) + (self.cut is not None) + coming


class Policy(Protocol):
    """Composes steps of at most ``max_running`` requests.

    ``ahead``: the next step is composed while one runs, before its results are known.
    """

    @property
    def ahead(self) -> bool:
        """Whether steps are composed ahead."""
        ...

    @property
    def max_running(self) -> int:
        """The most requests that run."""
        ...

    def compose(self, state: State) -> Batch:
        """The next step, empty where there is nothing to do; ``state`` becomes what it is after it."""
        ...

    def refuses(self, live: Live, state: State) -> bool:
        """Whether a request can never run, since it is too long."""
        ...

    def receives(self, live: Live, state: State) -> bool:
        """Whether there is room for a request whose prompt is in the cache of another server."""
        ...

    def steady(self, state: State) -> int | None:
        """Whether the next steps are composed like the last one, in which all that run decoded and nothing else was.

        That is asked as long as nobody comes or has its last token, and each of these requests has blocks for its next
        token, and as many more as are returned here. None: the next step may be another.
        """
        ...

    def repeat(self, state: State, batch: Batch, steps: int) -> None:
        """Make ``state`` what it is after so many steps like the last one, the last of which is ``batch``."""
        ...


def empty() -> Batch:
    """A step without requests."""
    return Batch(prompts=[], decodes=[], gained=[], spent=[], admitted=[], preempted=[])


def too_long(live: Live, state: State, lookahead: int = 0) -> bool:
    """Whether a request does not fit into the memory of an empty server."""
    return state.pool.count(live.input + live.output + state.queries - 1 + lookahead) > state.pool.total


def add_prompt(state: State, batch: Batch, live: Live, tokens: int, found: bool = True) -> None:
    """Put ``tokens`` of a prompt into a step; the request has their blocks, which others find if ``found``."""
    before = live.computed
    live.computed = before + tokens
    last = live.computed == live.target
    batch.prompts.append(Piece(live, tokens, before, last))
    live.step = state.number
    if found:
        state.pool.publish(live)
    if last:
        live.made += 1


def add_decode(state: State, batch: Batch, live: Live, most: int, found: bool = True) -> None:
    """Put a request that decodes into a step; it has the blocks of its tokens, which others find if ``found``.

    At most ``most`` tokens count.
    """
    gain = 1
    if state.queries > 1:
        gain = min(state.gained(), live.output - live.made, most)
    batch.decodes.append(live)
    batch.gained.append(gain)
    live.made += gain
    live.computed += gain
    live.step = state.number
    if found:
        state.pool.publish(live)


def add_decodes(state: State, batch: Batch, lives: Sequence[Live], found: bool = True) -> None:
    """Put requests that decode into a step, those that find blocks; it is `add_decode` of each, but faster."""
    pool, size, number = state.pool, state.pool.size, state.number
    there = pool.grow_each(lives, state.queries)
    if state.queries > 1:
        for live in there:
            add_decode(state, batch, live, state.queries, found)
        return
    batch.decodes.extend(there)
    batch.gained.extend([1] * len(there))
    for live in there:
        live.made += 1
        live.computed += 1
        live.step = number
        if found and live.computed // size > live.keyed:
            pool.publish(live)


def repeat_decodes(state: State, steps: int) -> None:
    """Each request that runs has decoded in so many steps more, up to step ``state.number``."""
    state.pool.grow_each(state.running, steps)
    for live in state.running:
        live.made += steps
        live.computed += steps
        live.step = state.number


def publish_decodes(state: State, ahead: bool) -> None:
    """Others find what is known of requests that run when the last step is composed, of which each has a token."""
    for live in state.running:
        state.pool.publish(live, live.input + live.made - 1 - ahead)


def add_spent(state: State, batch: Batch, live: Live) -> None:
    """Put a request into a step that has all its tokens: it takes a place, and brings nothing.

    A server of prompts knows that a request ends with its first token.
    """
    if state.prompts:
        return
    batch.spent.append(live)
    live.step = state.number


def send_back(state: State, batch: Batch, live: Live) -> None:
    """Take all blocks from a request, which is not among those that run any more; its tokens are computed again."""
    state.pool.release(live)
    batch.preempted.append(live)


def finish(state: State, live: Live) -> None:
    """A request has all its tokens and leaves, wherever it is. A server of prompts keeps its blocks until `release`."""
    state.pool.publish(live)
    if not state.prompts:
        release(state, live)
    if live in state.running:
        state.running.remove(live)
    elif live in state.waiting:
        state.waiting.remove(live)
    if not state.load:
        state.ratio = None


def release(state: State, live: Live) -> None:
    """Take the blocks of a request that has left."""
    state.pool.release(live)
    state.full = False
