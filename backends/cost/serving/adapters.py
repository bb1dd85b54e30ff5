"""Adapters (LoRA) on the GPUs of a server: which of them are there, which a step loads, and which requests wait.

What the engines do:

- vLLM (`vllm/v1/core/sched/scheduler.py`, `vllm/lora/worker_manager.py` at 0030b9ff): a request that waits is passed
  over where those that run have `max_loras` other adapters already. Before a step, each worker loads the adapters that
  it lacks, in place of the least recently used. Host memory holds `max_cpu_loras`; the least recently used leave first.
  vLLM counts those that run and are in the step; here all that run count, so that they can always go on together.
- SGLang (`managers/scheduler.py`; `lora/lora_manager.py`, `validate_lora_batch`): so too, with `max_loras_per_batch`;
  requests without an adapter take one of these places together. `lru` is the default of its `lora_eviction_policy`.
- TensorRT-LLM (`cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp`): by the pages of its device cache. A request
  whose adapter has no room is passed over; with `max_utilisation` it ends the search.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plandsl.backends.cost.serving.scheduler import Batch, Live

HOST, DISK = range(2)
"""Where an adapter is loaded from."""


class Slots:
    """The adapters on the GPUs of one rank that has requests of its own, the least recently used first.

    There is room for ``most`` on a GPU, and for ``held`` in host memory; None: for all. ``base``: requests of a step
    that name none take a slot together.

    ``step`` are those of requests that run or join, 0 for those that name none. ``passed`` are requests that the step
    passed over since their adapter has no slot.
    """

    __slots__ = ("base", "held", "host", "most", "passed", "step", "there")

    def __init__(self, most: int, held: int | None = None, base: bool = False) -> None:
        self.most, self.held, self.base = most, held, base
        self.there: OrderedDict[int, None] = OrderedDict()
        self.host: OrderedDict[int, None] = OrderedDict()
        self.step: set[int] = set()
        self.passed: list[int] = []

    def begin(self, lives: Iterable[Live]) -> None:
        """Compose a step beside these requests, which run."""
        self.step = {live.adapter for live in lives}

    def has_room(self, live: Live) -> bool:
        """Whether the adapter of a request has a slot; else it is noted that the request is passed over."""
        number = live.adapter
        if not number or number in self.step:
            return True
        taken = len(self.step) - (0 in self.step and not self.base)
        if taken < self.most:
            return True
        self.passed.append(live.index)
        return False

    def add(self, live: Live) -> None:
        """This request joins."""
        self.step.add(live.adapter)

    def load(self, batch: Batch) -> list[tuple[int, int]]:
        """Load the adapters of a step: for each, the first request that needs it, and where it comes from.

        An adapter that the step needs is not evicted.
        """
        first: dict[int, int] = {}
        for live in (*batch.decodes, *batch.spent, *(piece.live for piece in batch.prompts)):
            if live.adapter:
                first.setdefault(live.adapter, live.index)
        missing = [number for number in first if number not in self.there]
        for number in first:
            if number in self.there:
                self.there.move_to_end(number)
                self._fetch(number)
        loaded = []
        for number in missing:
            loaded.append((first[number], self._fetch(number)))
            if len(self.there) >= self.most:
                self.there.popitem(last=False)
            self.there[number] = None
        return loaded

    def _fetch(self, number: int) -> int:
        """Use an adapter in host memory. Where it came from."""
        if self.held is None:
            return HOST
        found = HOST if number in self.host else DISK
        self.host[number] = None
        self.host.move_to_end(number)
        if len(self.host) > self.held:
            self.host.popitem(last=False)
        return found
