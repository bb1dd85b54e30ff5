"""What a scheduler is given, and what it composes, as lines of text."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol

REQUEST = re.compile(r"(\w) (\d+)\+(\d+)(?: @([\d.]+))?(?: \[([\d ]+)\])?")
MOST = 1000
"""Steps after which a scene is given up."""

NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Scene(NamedTuple):
    """Requests (`name input+output @arrival [ids of blocks]`, comma between) for a scheduler with these ``limits``.

    ``limits`` are fields of our policy. The server has ``blocks`` of ``block`` tokens; a step takes a second in each of
    ``stages``. With ``guesses`` each decode has so many tokens besides, all of them right or none (chances 1 or 0).
    ``priorities`` of the requests, the lowest number first; empty: all are equal.
    """

    tells: str
    limits: Mapping[str, Any]
    requests: str
    blocks: int = 100
    block: int = 4
    caching: bool = True
    stages: int = 1
    guesses: Sequence[float] = ()
    priorities: Sequence[int] = ()


class Asked(NamedTuple):
    """One request, with its prompt as token ids: equal where the ids of its blocks say so, else its own."""

    name: str
    prompt: tuple[int, ...]
    output: int
    arrival: float
    priority: int = 0


class Step(NamedTuple):
    """Tokens of each request in a step, who is admitted and who goes back, and blocks that are free behind it.

    ``handle`` is the engine's own account of the step.
    """

    tokens: Mapping[str, int]
    admitted: Collection[str]
    preempted: Collection[str]
    free: int
    handle: Any = None


class Engine(Protocol):
    """A scheduler of an engine under our hand."""

    def add(self, asked: Asked) -> None:
        """A request arrives."""
        ...

    def schedule(self) -> Step:
        """Compose a step."""
        ...

    def update(self, step: Step) -> None:
        """The results of a step are there; each of its requests that is to make a token has made one."""
        ...

    def busy(self) -> bool:
        """Whether there is a request that is not done."""
        ...


def read(scene: Scene) -> list[Asked]:
    """The requests of a scene."""
    asked = []
    for index, (name, input_, output, arrival, ids) in enumerate(REQUEST.findall(scene.requests)):
        own = 1_000_000 * (index + 1)
        known = [int(i) for i in ids.split()]
        at = range(int(input_))
        prompt = tuple(known[i // scene.block] if i < len(known) * scene.block else own + i for i in at)
        priority = scene.priorities[index] if scene.priorities else 0
        asked.append(Asked(name, prompt, int(output), float(arrival or 0), priority))
    return asked


def play(engine: Engine, requests: Sequence[Asked], depth: int, stages: int = 1) -> str:
    """The steps of an engine with at most ``depth`` steps on their way through ``stages`` of a second each.

    A step as text: `a` has a token, `b4` has four, `+b4` is admitted, `-c` goes back, and `=9` blocks are free. A step
    that computes nothing takes no time, and is not written unless somebody goes back in it.
    """
    coming, flying = deque(sorted(requests, key=lambda asked: asked.arrival)), deque[tuple[float, Step]]()
    now, last, words, idle = 0.0, 0.0, list[str](), 0
    while coming or flying or engine.busy():
        while coming and coming[0].arrival <= now:
            engine.add(coming.popleft())
        if engine.busy() and len(flying) < depth:
            step = engine.schedule()
            assert max(idle, len(words)) < MOST, "a scheduler that is stuck"
            idle = idle + 1 if not step.tokens else 0
            if step.tokens or step.preempted:
                words.append(_text(step))
            if step.tokens:
                last = max(now + stages, last + 1)
            flying.append((last, step))
            if len(flying) < depth:
                continue
        if flying:
            end, step = flying.popleft()
            now = max(now, end)
            engine.update(step)
        if idle > depth and not flying:
            assert coming, "a scheduler that is stuck"
            now = max(now, coming[0].arrival)
        elif not engine.busy() and not flying and coming:
            now = max(now, coming[0].arrival)
    return " | ".join(words)


def _text(step: Step) -> str:
    words = [f"{'+' * (name in step.admitted)}{name}{_number(tokens)}" for name, tokens in step.tokens.items()]
    words += [f"-{name}" for name in step.preempted]
    return " ".join([*sorted(words), f"={step.free}"])


def _number(tokens: int) -> str:
    return "" if tokens == 1 else str(tokens)


def draw_requests(rng: Random, count: int, longest: int, outputs: int, block: int, at_once: bool = False) -> str:
    """Requests at random; those of a family share the first blocks of their prompts."""
    words = []
    arrival = 0
    for name in NAMES[:count]:
        input_ = rng.randint(1, longest)
        family, shared = rng.randint(0, 2), rng.randint(0, input_ // block)
        ids = [10 * family + at for at in range(1, shared + 1)] if family else []
        arrival += 0 if at_once else rng.choice((0, 0, 1, 2, 5))
        words.append(
            f"{name} {input_}+{rng.randint(1, outputs)}"
            + (f" @{arrival}" if arrival else "")
            + (f" [{' '.join(map(str, ids))}]" if ids else "")
        )
    return ", ".join(words)
