"""A simulation of servers that leap, each on its own share of the requests."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.serving.clock import Tabled
from plandsl.backends.cost.serving.leap import Leaper, Load, Stuck, Track
from plandsl.backends.cost.serving.records import Gaps, Records, Steps
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Floats, Ints, Requests, find_turns
from plandsl.backends.cost.serving.unroll import Unrolled, unroll
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.spec.scheduler import RouterName


def leap(
    workers: Sequence[Worker],
    requests: Requests,
    closed: Closed | None,
    by: RouterName,
    think_s: Floats | None = None,
) -> Records | None:
    """What becomes of ``requests``; None where a step depends on more than servers that leap keep.

    Servers take turns, so that each has its share from the start, or there is one; prompts share no blocks.
    """
    waits = closed is not None or (requests.session is not None and bool((requests.session >= 0).any()))
    shared = requests.blocks is not None and bool(len(requests.blocks.ids))
    if shared or not all(map(_leaps, workers)) or (len(workers) > 1 and (by != "round_robin" or waits)):
        return None
    count = len(requests.input)
    order = np.arange(count) if waits else np.argsort(requests.arrival_s, kind="stable")
    replica, arrival = np.full(count, -1), requests.arrival_s.astype(np.float64)
    shares, tracks = [], []
    try:
        for number, worker in enumerate(workers):
            share = order[number :: len(workers)]
            fits = -(-(requests.input + requests.output)[share] // worker.block) <= worker.blocks
            replica[share[fits]] = number
            if waits:
                load = _turns(requests, closed, think_s, fits)
            else:
                share = share[fits]
                columns = arrival, requests.input, requests.output
                times, inputs, outputs = (column[share].tolist() for column in columns)
                load = Load(times, inputs, outputs, first=[])
            shares.append(share)
            tracks.append(_leaper(worker, load).serve())
            arrival[share] = load.times
    except Stuck:
        return None
    return _records(requests._replace(arrival_s=arrival), workers, shares, tracks=tracks, replica=replica)


def _turns(requests: Requests, closed: Closed | None, think_s: Floats | None, fits: NDArray[np.bool_]) -> Load:
    """Requests of which some wait until another one ends: of a closed loop, or of sessions.

    A request that does not fit ends when it comes.
    """
    count = len(fits)
    times, fit = requests.arrival_s.tolist(), fits.tolist()
    thinks = [0.0] * count if think_s is None else think_s.tolist()
    before, behind = find_turns(requests)
    coming = iter(range(count))

    def next_of(place: int, end: float) -> tuple[float, int] | None:
        if closed is not None:
            place = next(coming, -1)
            return None if place < 0 else (end, place)
        place = behind[place]
        return None if place < 0 else (max(end + thinks[place], times[place]), place)

    def follow(place: int, end: float) -> tuple[float, int] | None:
        while (found := next_of(place, end)) is not None and not fit[found[1]]:
            end, place = found
            times[place] = end
        return found

    if closed is not None:
        first = [(0.0, next(coming)) for _ in range(min(closed.concurrency, count))]
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


def _leaper(worker: Worker, load: Load) -> Leaper:
    assert isinstance(worker.policy, Vllm), "checked before"
    assert isinstance(worker.clock, Tabled), "checked before"
    return Leaper(worker.policy, worker.clock, worker.blocks, worker.block, caching=worker.caching, requests=load)


def _leaps(worker: Worker) -> bool:
    """Whether a server composes its steps in a way that can be foreseen until the next event."""
    p = worker.policy
    if not isinstance(p, Vllm) or not isinstance(worker.clock, Tabled):
        return False
    simple = p.chunked and p.capped and not p.long_prompt and not p.lookahead and p.budget > p.max_running
    alone = worker.ranks == 1 and p.order == "fcfs"
    return simple and alone and worker.in_flight == 1 and not worker.acceptance


def _records(
    requests: Requests, workers: Sequence[Worker], shares: Sequence[Ints], tracks: Sequence[Track], replica: Ints
) -> Records:
    count, arrival = len(replica), requests.arrival_s
    unrolled = [
        unroll(track, arrival[replica == number], number, size=worker.block, ahead=worker.policy.ahead)
        for number, (worker, track) in enumerate(zip(workers, tracks, strict=True))
    ]
    admitted, first, finish = (np.full(count, np.nan) for _ in range(3))
    preemptions, longest = np.zeros(count, np.int64), np.zeros(count)
    for share, track, one in zip(shares, tracks, unrolled, strict=True):
        admitted[share], first[share], finish[share] = track.admitted, track.first, track.finish
        preemptions[share], longest[share] = track.preemptions, one.longest
    steps, gaps = _merge(unrolled)
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
        gaps=gaps,
        steps=steps,
    )


def _merge(unrolled: Sequence[Unrolled]) -> tuple[Steps, Gaps]:
    """Steps of all servers in the order in which they were composed, and gaps in the order in which they end."""
    if len(unrolled) == 1:
        return unrolled[0].steps, unrolled[0].gaps
    steps = [np.concatenate(columns) for columns in zip(*(one.steps for one in unrolled), strict=True)]
    order = np.lexsort((steps[0], np.concatenate([one.composed for one in unrolled])))
    gaps = [np.concatenate(columns) for columns in zip(*(one.gaps for one in unrolled), strict=True)]
    ends = np.argsort(np.concatenate([one.gap_ends for one in unrolled]), kind="stable")
    return Steps(*(column[order] for column in steps)), Gaps(*(column[ends] for column in gaps))
