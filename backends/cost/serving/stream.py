"""A simulation whose requests come and go in parts, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import inf
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.serving.leap import RUN, Leaper, Load
from plandsl.backends.cost.serving.leaping import can_leap, deal, waits
from plandsl.backends.cost.serving.records import Dropped, Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Ints, Requests
from plandsl.backends.cost.serving.unroll import find_apart, find_lives, longest_gaps
from plandsl.progress import Tick
from plandsl.spec.scheduler import RouterName

Number = TypeVar("Number", int, float)

Rows: TypeAlias = Callable[[dict[str, NDArray[Any]]], None]
"""Takes columns of the requests that are over, in parts."""

PART = 1 << 16
"""Requests that are fetched together."""


def can_stream(workers: Sequence[Worker], requests: Requests, closed: Closed | None, by: RouterName) -> bool:
    """Whether servers can have their requests in parts."""
    return can_leap(workers, requests, closed, by) and not waits(requests, closed)


def collect(workers: Sequence[Worker], requests: Requests, tick: Tick | None = None, number: int = 0) -> Records:
    """What becomes of ``requests``, as `simulate` says it. Steps and gaps are not kept, since there are more of them.

    ``number`` is that of the first server. Raises as `stream` does.
    """
    count, over = len(requests.input), 0
    found = {name: np.full(count, np.nan) for name in ("admitted_s", "first_s", "finish_s")}
    found |= {"itl_max_s": np.zeros(count)}
    whole: dict[str, NDArray[Any]] = {"preemptions": np.zeros(count, np.int32), "replica": np.full(count, -1, np.int32)}

    def rows(columns: dict[str, NDArray[Any]]) -> None:
        nonlocal over
        for kept in (found, whole):
            for name, column in kept.items():
                column[columns["request"]] = columns[name]
        over += len(columns["request"])
        if tick is not None:
            tick(over, count)

    stream(workers, requests, rows, number=number)
    return Records(
        arrival_s=requests.arrival_s,
        input=requests.input,
        output=requests.output,
        cached=np.broadcast_to(np.int64(0), count),
        kind=requests.kind,
        trail=Dropped(),
        admitted_s=found["admitted_s"],
        first_s=found["first_s"],
        finish_s=found["finish_s"],
        itl_max_s=found["itl_max_s"],
        preemptions=whole["preemptions"],
        replica=whole["replica"],
    )


def stream(workers: Sequence[Worker], requests: Requests, rows: Rows, part: int = PART, number: int = 0) -> int:
    """Serve ``requests`` on servers in turn, as `simulate` does, and give ``rows`` the requests as they end.

    Columns are those of `Records`, with ``request`` for their number. Steps and gaps are not kept. Gives the number of
    requests that were refused, which have no row. Raises `ValueError` where servers cannot leap, or requests follow
    one another.
    """
    if not can_stream(workers, requests, None, "round_robin"):
        raise ValueError("only servers that leap serve requests in parts, of which none waits for another")
    refused = 0
    for at, (worker, share) in enumerate(zip(workers, deal(requests, len(workers)), strict=True), number):
        fits = -(-(requests.input + requests.output)[share] // worker.block) <= worker.blocks
        refused += int((~fits).sum())
        Streamer(worker, requests, share if fits.all() else share[fits], number=at, rows=rows, part=part).play()
    return refused


class Streamer(Leaper):
    """A server that has its requests in parts. ``names`` are the numbers of those that are there, by place."""

    def __init__(self, worker: Worker, requests: Requests, share: Ints, number: int, rows: Rows, part: int) -> None:
        super().__init__(worker, Load([], [], [], []))
        self.requests, self.number, self.rows = requests, number, rows
        self.names: list[int] = []
        self.dropped = 0
        self.parts: Iterator[Ints] = (share[at : at + part] for at in range(0, len(share), part))
        self.streams = True

    def play(self) -> None:
        """Serve all requests."""
        self._extend()
        self.load.times.pop()  # the end of a list is put there when it is read
        self.serve()
        self._write(range(len(self.names)))

    def _columns(self) -> list[list[Any]]:
        """Everything that is by place, but for times of arrival."""
        track = self.track
        return [
            self.names, self.input, self.output, self.delays, track.admitted, track.first, track.finish, track.joined,
            track.target, track.last, track.preemptions,
        ]  # fmt: skip

    def _extend(self) -> None:
        """Fetch the next part."""
        share = next(self.parts, None)
        if share is None:
            self.streams = False
            share = np.empty(0, np.int64)
        nan, n, r = float("nan"), len(share), self.requests
        more: list[list[Any]] = [share.tolist(), r.input[share].tolist(), r.output[share].tolist(), [0.0] * n]
        more += [[nan] * n for _ in range(3)] + [[0] * n for _ in range(4)]
        for column, values in zip(self._columns(), more, strict=True):
            column.extend(values)
        self.load.times.extend([*r.arrival_s[share].tolist(), inf])

    def _refill(self, places: tuple[int, int, int, int], lists: Sequence[list[int]]) -> tuple[int, int, int, int]:
        """Write down who is over, and fetch more requests."""
        head, there, cut, late = places
        alive = sorted({*self.order, *self.front, *range(head, there), *chain(*lists)})
        gone = set(alive)
        self._write([place for place in range(there) if place not in gone])
        self._drop_runs(alive)
        names = {old: new for new, old in enumerate(alive)}
        for column in (self.load.times, *self._columns()):
            column[:] = [column[place] for place in alive]
        self._rename(names, lists)
        self._extend()
        head = len(alive) - (there - head)
        return head, len(alive), names.get(cut, -1), names.get(late, -1)

    def _rename(self, names: dict[int, int], lists: Sequence[list[int]]) -> None:
        """Requests have other places."""
        order = [names[place] for place in self.order]
        self.order.clear()
        self.order.update(dict.fromkeys(order))
        for some in (*lists, self.front, *self.ends.values()):
            some[:] = [names[place] for place in some]
        _rename_keys(self.made, names)
        _rename_keys(self.shown, names)
        self.memory.rename(names)
        self.turned = {names[place] for place in self.turned if place in names}
        self.late = names.get(self.late, -1)
        track = self.track
        lives = np.array(track.lives, np.int64).reshape(-1, 4)
        del track.lives[:], track.changes[:], track.late[:]
        for place, *rest in lives.tolist():
            if place in names:
                track.lives.extend((names[place], *rest))
        track.gaps[:] = [(step, names[place], gap) for step, place, gap in track.gaps if place in names]

    def _drop_runs(self, alive: Sequence[int]) -> None:
        """Forget steps before the first one of those that are there."""
        track = self.track
        kept = set(alive)
        firsts = [track.joined[place] for place in alive if place in self.order and track.last[place]]
        firsts += [since for place, since, *_ in np.array(track.lives).reshape(-1, 4).tolist() if place in kept]
        k = np.array(track.runs[::RUN]).astype(np.int64)
        ends = self.dropped + np.cumsum(k)
        runs = int(np.searchsorted(ends, min(firsts, default=int(ends[-1])), side="right")) if len(k) else 0
        self.dropped += int(k[:runs].sum())
        del track.runs[: runs * RUN]

    def _write(self, places: Sequence[int]) -> None:
        """Give away the rows of requests that are over."""
        track, at = self.track, np.array(places, np.int64)
        over = np.zeros(len(self.names), np.bool_)
        over[at] = True
        runs = np.array(track.runs).reshape(-1, RUN)
        longest = longest_gaps(runs, self.dropped, find_lives(track, over), find_apart(track), count=len(over))
        arrival, input_, output, admitted, first, finish, preemptions = (
            np.array(column)[at]
            for column in (
                self.load.times, self.input, self.output, track.admitted, track.first, track.finish, track.preemptions,
            )
        )  # fmt: skip
        records = Records(
            arrival_s=arrival,
            admitted_s=admitted,
            first_s=first,
            finish_s=finish,
            input=input_,
            output=output,
            cached=np.zeros(len(at), np.int64),
            preemptions=preemptions,
            replica=np.full(len(at), self.number),
            itl_max_s=longest[at],
            kind=None,
            trail=Dropped(),
        )
        self.rows({"request": np.array(self.names, np.int64)[at]} | records.columns())


def _rename_keys(kept: dict[int, Number], names: dict[int, int]) -> None:
    """Requests have other places in ``kept``, which stays the same object; those without a new place go."""
    values = {names[place]: value for place, value in kept.items() if place in names}
    kept.clear()
    kept.update(values)
