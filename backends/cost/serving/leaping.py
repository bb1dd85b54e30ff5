"""A simulation of servers that leap, each on its own share of the requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from heapq import heapify

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.serving.clock import Tabled
from plandsl.backends.cost.serving.leap import Leaper, Load, Track
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Floats, Ints, Requests, find_turns, shares_blocks
from plandsl.backends.cost.serving.unroll import Path, Paths
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.progress import Tick
from plandsl.spec.scheduler import RouterName


def leap(
    workers: Sequence[Worker],
    requests: Requests,
    closed: Closed | None,
    by: RouterName,
    think_s: Floats | None = None,
    tick: Tick | None = None,
    number: int = 0,
) -> Records | None:
    """What becomes of ``requests``; None where a step depends on more than servers that leap keep.

    Servers take turns, so that each has its share from the start, or there is one; prompts share no blocks. ``number``
    is that of the first server.
    """
    if not can_leap(workers, requests, closed, by):
        return None
    follow = waits(requests, closed)
    count = len(requests.input)
    workers = workers[: max(count, 1)]  # the others have no requests, and take no step
    shares = [np.arange(count)] if follow else deal(requests, len(workers))
    replica, arrival = np.full(count, -1), requests.arrival_s.astype(np.float64)
    tracks: list[Track] = []
    over = 0
    for at, (worker, share) in enumerate(zip(workers, shares, strict=True)):
        told = None if tick is None else _count_on(tick, over, count)
        over += len(share)
        fits = -(-(requests.input + requests.output)[share] // worker.block) <= worker.blocks
        if closed is not None and not fits.all():
            return None  # a place in the loop is given on when such a request comes, amid the ends of others
        replica[share[fits]] = number + at
        if follow:
            load = _turns(requests, closed, think_s, fits)._replace(tick=told)
        else:
            share = shares[at] = share[fits]
            columns = arrival, requests.input, requests.output
            times, inputs, outputs = (column[share].tolist() for column in columns)
            load = Load(times, inputs, outputs, first=[], tick=told)
        tracks.append(Leaper(worker, load).serve())
        arrival[share] = load.times
    moved = requests._replace(arrival_s=arrival)
    return _records(moved, workers, shares, tracks=tracks, replica=replica, number=number)


def deal(requests: Requests, many: int) -> list[Ints]:
    """The requests of each of ``many`` servers that take turns, in the order of their arrival."""
    order = np.argsort(requests.arrival_s, kind="stable")
    return [order[at::many] for at in range(many)]


def can_leap(workers: Sequence[Worker], requests: Requests, closed: Closed | None, by: RouterName) -> bool:
    """Whether each server knows its requests from the start, or is alone, and leaps; and prompts share no blocks."""
    apart = len(workers) == 1 or (by == "round_robin" and not waits(requests, closed))
    return apart and not shares_blocks(requests) and all(map(_leaps, {id(w): w for w in workers}.values()))


def take_stretches(workers: Sequence[Worker], by: RouterName) -> bool:
    """Whether servers take steps at once while nothing happens. The router `prefix` looks at their blocks meanwhile."""
    return all(worker.foreseeing for worker in workers) and not (by == "prefix" and len(workers) > 1)


def waits(requests: Requests, closed: Closed | None) -> bool:
    """Whether a request may wait for the end of another."""
    return closed is not None or (requests.session is not None and bool((requests.session >= 0).any()))


def _count_on(tick: Tick, before: int, count: int) -> Callable[[int], None]:
    """``tick`` as a server hears it, ``before`` requests having been served by others."""
    return lambda over: tick(before + over, count)


def _turns(requests: Requests, closed: Closed | None, think_s: Floats | None, fits: NDArray[np.bool_]) -> Load:
    """Requests of which some wait until another one ends: of a closed loop, or of sessions.

    A request that does not fit ends when it comes.
    """
    count = len(fits)
    times, fit = requests.arrival_s.tolist(), fits.tolist()
    if closed is not None and not closed.timed:
        times = [0.0] * count
    thinks = [0.0] * count if think_s is None else think_s.tolist()
    before, behind = find_turns(requests)
    coming = iter(range(count))

    def next_of(place: int, end: float) -> tuple[float, int] | None:
        if closed is not None:
            following = next(coming, None)
            return None if following is None else (max(end, times[following]), following)
        place = behind[place]
        return None if place < 0 else (max(end + thinks[place], times[place]), place)

    def follow(place: int, end: float) -> tuple[float, int] | None:
        while (found := next_of(place, end)) is not None and not fit[found[1]]:
            end, place = found
            times[place] = end
        return found

    if closed is not None:
        first = [(times[place], place) for place in itertools.islice(coming, closed.concurrency)]
    else:
        first = [(times[place], place) for place in range(count) if before[place] < 0]
    heap = []
    for time, place in first:
        times[place] = time
        if fit[place]:
            heap.append((time, place))
        elif following := follow(place, time):
            heap.append(following)
    heapify(heap)
    return Load(times, requests.input.tolist(), requests.output.tolist(), heap, follow)


def _leaps(worker: Worker) -> bool:
    """Whether a server composes its steps in a way that can be foreseen until the next event."""
    p = worker.policy
    if not isinstance(p, Vllm) or not isinstance(worker.clock, Tabled):
        return False
    simple = p.chunked and p.capped and not p.long_prompt and not p.lookahead and p.budget > p.max_running
    alone = worker.ranks == 1 and p.order == "fcfs" and not worker.tiered and worker.adapters is None
    return simple and alone and worker.in_flight == 1 and not worker.acceptance


def _records(
    requests: Requests, workers: Sequence[Worker], shares: Sequence[Ints], tracks: Sequence[Track], replica: Ints,
    number: int,
) -> Records:  # fmt: skip
    count, arrival = len(replica), requests.arrival_s
    admitted, first, finish = (np.full(count, np.nan) for _ in range(3))
    preemptions, longest = np.zeros(count, np.int64), np.zeros(count)
    paths = []
    for at, (worker, share, track) in enumerate(zip(workers, shares, tracks, strict=True), number):
        mine = arrival[share[replica[share] == at]]
        path = Path.of(track, mine, number=at, size=worker.block, ahead=worker.policy.ahead)
        admitted[share], first[share], finish[share] = track.admitted, track.first, track.finish
        preemptions[share], longest[share] = track.preemptions, path.longest(len(share))
        paths.append(path)
    return Records(
        arrival_s=arrival,
        admitted_s=admitted,
        first_s=first,
        finish_s=finish,
        input=requests.input,
        output=requests.output,
        cached=np.zeros(count, np.int64),
        preemptions=preemptions,
        replica=replica,
        itl_max_s=longest,
        kind=requests.kind,
        trail=Paths(tuple(paths)),
    )
