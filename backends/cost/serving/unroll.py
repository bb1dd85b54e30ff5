"""From what a server that leaps wrote down to numbers for each of its steps, and for each of its requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plandsl.backends.cost.serving.leap import RUN, Track
from plandsl.backends.cost.serving.records import Gaps, Steps
from plandsl.backends.cost.serving.requests import Floats, Ints


class Unrolled(NamedTuple):
    """Steps and when each was composed; gaps between tokens and when each ends; the longest one of each request."""

    steps: Steps
    composed: Floats
    gaps: Gaps
    gap_ends: Floats
    longest: Floats


def unroll(track: Track, arrivals: Floats, number: int, size: int, ahead: bool) -> Unrolled:
    """All steps of server ``number``, with blocks of ``size`` tokens; ``arrivals`` are the times of its requests."""
    runs = np.frombuffer(track.runs, np.float64).reshape(-1, RUN)
    k = runs[:, 0].astype(np.int64)
    total = int(k.sum())
    seconds, more, start, composed = (np.repeat(runs[:, i], k) for i in range(1, 5))
    decodes, tokens = (np.repeat(runs[:, i].astype(np.int64), k) for i in (5, 6))
    at = np.arange(total) - np.repeat(np.cumsum(k) - k, k)
    starts = start + (at * seconds + more * (0.5 * at * (at - 1)))
    last = seconds + more * at
    if ahead:
        earlier = np.concatenate(([0.0], starts[:-1]))
        composed = np.where(at > 0, earlier, composed)
    else:
        composed = np.where(at > 0, starts, composed)
    changes = np.frombuffer(track.changes, np.int64).reshape(-1, 4)
    blocks, running, gone = (_at_steps(changes[:, 0], changes[:, i], total) for i in (1, 2, 3))
    lives = _lives(track)
    running = np.cumsum(running)
    arrived = np.searchsorted(np.sort(arrivals), composed, side="right")
    steps = Steps(
        replica=np.full(total, number),
        start_s=starts,
        end_s=starts + last,
        prompt_tokens=tokens,
        decodes=decodes,
        waiting=arrived - running - np.cumsum(gone),
        running=running,
        blocks=np.cumsum(blocks + _grown(lives, total, size)),
    )
    gaps, ends = _gaps(track, last, steps)
    return Unrolled(steps, composed, gaps, ends, longest=_longest(track, lives, last))


def _at_steps(step: Ints, change: Ints, total: int) -> Ints:
    """The sum of all changes at each step; those behind the last step are left out."""
    return np.bincount(step, change, minlength=total + 1)[:total].astype(np.int64)


def _lives(track: Track) -> Ints:
    """Stays of requests that decode, int64[4, stays]: place, first and last step, tokens before the first one."""
    final = np.array([track.joined, track.last, track.target], np.int64)
    served = np.isfinite(np.array(track.first))
    final = np.vstack((np.arange(final.shape[1]), final[0], final[1], final[2]))[:, served]
    return np.hstack((np.frombuffer(track.lives, np.int64).reshape(-1, 4).T, final))


def _grown(lives: Ints, total: int, size: int) -> Ints:
    """Blocks that requests which decode take in each step.

    A request whose first token is made in step p, behind t tokens, takes a block in each later step s of its stay with
    ``s = p + 1 - t`` modulo ``size``.
    """
    _, first, last, tokens = lives
    rounds = -(-(total + size) // size) + 1
    marks = np.zeros(rounds * size, np.int64)
    residue = (first + 1 - tokens) % size
    begin = first + 1 + (residue - first - 1) % size
    end = last + 1 + (residue - last - 1) % size
    np.add.at(marks, begin, 1)
    np.add.at(marks, end, -1)
    grown: Ints = marks.reshape(rounds, size).cumsum(axis=0).ravel()[:total]
    return grown


def _gaps(track: Track, seconds: Floats, steps: Steps) -> tuple[Gaps, Floats]:
    """Times between tokens in the order of steps: of a step its own seconds, for each request that decodes in it."""
    number = steps.decodes.copy()
    np.subtract.at(number, track.late, 1)
    kept = number > 0
    gaps, ends = Gaps(seconds[kept], number[kept]), steps.end_s[kept]
    if not track.gaps:
        return gaps, ends
    numbers, _, extra = (np.array(column) for column in zip(*track.gaps, strict=True))
    at = np.searchsorted(np.flatnonzero(kept), numbers)
    ends = np.insert(ends, at, steps.end_s[numbers])
    return Gaps(np.insert(gaps.seconds, at, extra), np.insert(gaps.number, at, 1)), ends


def _longest(track: Track, lives: Ints, seconds: Floats) -> Floats:
    """The longest time between two tokens of each request."""
    found = np.zeros(len(track.first))
    place, first, last, _ = lives[:, lives[2] > lives[1]]
    if len(place):
        order = np.argsort(first, kind="stable")
        ends = np.empty(2 * len(order), np.int64)
        ends[::2], ends[1::2] = first[order] + 1, last[order] + 1
        longest = np.maximum.reduceat(np.append(seconds, 0.0), ends)[::2]
        np.maximum.at(found, place[order], longest)
    for _, place, gap in track.gaps:
        found[place] = max(found[place], gap)
    return found
