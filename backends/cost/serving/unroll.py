"""From what servers that leap wrote down to numbers for each step, and for each request.

Steps are unrolled when they are asked for: there may be fifty times as many as requests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.serving.leap import RUN, Track
from plandsl.backends.cost.serving.records import Gaps, Steps
from plandsl.backends.cost.serving.requests import Floats, Ints


class Path(NamedTuple):
    """What one server did: ``runs`` float64[runs, RUN], ``changes`` int64[changes, 4] as in `Track`.

    ``lives`` int64[4, stays] are stays of requests that decode: place, first and last step, tokens before the first
    one. ``apart`` are gaps that are not those of a step (step, place, seconds), ``late`` steps that lack one for it.
    """

    number: int
    size: int
    ahead: bool
    arrivals: Floats
    runs: Floats
    changes: Ints
    lives: Ints
    apart: tuple[Ints, Ints, Floats]
    late: Ints

    @staticmethod
    def of(track: Track, arrivals: Floats, number: int, size: int, ahead: bool) -> Path:
        """The path of server ``number``, with blocks of ``size`` tokens; ``arrivals`` are those of its requests."""
        return Path(
            number=number,
            size=size,
            ahead=ahead,
            arrivals=np.sort(arrivals),
            runs=np.frombuffer(track.runs, np.float64).reshape(-1, RUN),
            changes=np.frombuffer(track.changes, np.int64).reshape(-1, 4),
            lives=find_lives(track),
            apart=find_apart(track),
            late=np.array(track.late, np.int64),
        )

    @property
    def counts(self) -> Ints:
        """Steps of each run."""
        found: Ints = self.runs[:, 0].astype(np.int64)
        return found

    def longest(self, count: int) -> Floats:
        """The longest time between two tokens of each of ``count`` requests."""
        return longest_gaps(self.runs, 0, self.lives, self.apart, count=count)

    def starts(self) -> tuple[Floats, Floats]:
        """Start and seconds of each step."""
        k = self.counts
        at = np.arange(k.sum()) - np.repeat(np.cumsum(k) - k, k)
        seconds, more, start = (np.repeat(self.runs[:, i], k) for i in (1, 2, 3))
        return start + (at * seconds + more * (0.5 * at * (at - 1))), seconds + more * at

    def composed(self, starts: Floats) -> Floats:
        """When each step was composed: in a run, when the step before it starts, or ends."""
        k = self.counts
        found = np.roll(starts, 1) if self.ahead else starts.copy()
        found[np.cumsum(k) - k] = self.runs[:, 4]
        return found

    def steps(self) -> tuple[Steps, Floats]:
        """All steps, and when each was composed."""
        k = self.counts
        starts, seconds = self.starts()
        composed, total = self.composed(starts), len(starts)
        blocks, running, gone = (_at_steps(self.changes[:, 0], self.changes[:, i], total) for i in (1, 2, 3))
        running = np.cumsum(running)
        steps = Steps(
            replica=np.full(total, self.number),
            start_s=starts,
            end_s=starts + seconds,
            prompt_tokens=np.repeat(self.runs[:, 6].astype(np.int64), k),
            decodes=np.repeat(self.runs[:, 5].astype(np.int64), k),
            waiting=np.searchsorted(self.arrivals, composed, side="right") - running - np.cumsum(gone),
            running=running,
            blocks=np.cumsum(blocks + self.grown(total)),
        )
        return steps, composed

    def grown(self, total: int) -> Ints:
        """Blocks that requests which decode take in each step.

        A request whose first token is made in step p, behind t tokens, takes a block in each later step s of its stay
        with ``s = p + 1 - t`` modulo ``size``.
        """
        size, (_, first, last, tokens) = self.size, self.lives
        rounds = -(-(total + size) // size) + 1
        marks = np.zeros(rounds * size, np.int64)
        residue = (first + 1 - tokens) % size
        np.add.at(marks, first + 1 + (residue - first - 1) % size, 1)
        np.add.at(marks, last + 1 + (residue - last - 1) % size, -1)
        found: Ints = marks.reshape(rounds, size).cumsum(axis=0).ravel()[:total]
        return found

    def gaps(self) -> tuple[Gaps, Floats]:
        """Times between tokens in the order of steps, and when they end.

        Of a step these are its own seconds, for each request that decodes in it.
        """
        starts, seconds = self.starts()
        number = np.repeat(self.runs[:, 5].astype(np.int64), self.counts)
        np.subtract.at(number, self.late, 1)
        kept = number > 0
        steps, _, extra = self.apart
        at = np.searchsorted(np.flatnonzero(kept), steps)
        ends = np.insert((starts + seconds)[kept], at, (starts + seconds)[steps])
        return Gaps(np.insert(seconds[kept], at, extra), np.insert(number[kept], at, 1)), ends


class Paths(NamedTuple):
    """A `records.Trail` of servers that leap."""

    paths: tuple[Path, ...]

    @property
    def gaps(self) -> Gaps:
        """Times between tokens, in the order in which they end."""
        found = [path.gaps() for path in self.paths]
        if len(found) == 1:
            return found[0][0]
        order = np.argsort(np.concatenate([ends for _, ends in found]), kind="stable")
        columns = zip(*(gaps for gaps, _ in found), strict=True)
        return Gaps(*(np.concatenate(column)[order] for column in columns))

    @property
    def leaps(self) -> bool:
        """Servers took steps at once."""
        return True

    @property
    def steps(self) -> Steps:
        """Steps of all servers, in the order in which they were composed."""
        found = [path.steps() for path in self.paths]
        if len(found) == 1:
            return found[0][0]
        columns = [np.concatenate(column) for column in zip(*(steps for steps, _ in found), strict=True)]
        order = np.lexsort((columns[0], np.concatenate([composed for _, composed in found])))
        return Steps(*(column[order] for column in columns))


def _at_steps(step: Ints, change: Ints, total: int) -> Ints:
    """The sum of all changes at each step; those behind the last step are left out."""
    return np.bincount(step, change, minlength=total + 1)[:total].astype(np.int64)


def longest_gaps(runs: Floats, before: int, lives: Ints, apart: tuple[Ints, Ints, Floats], count: int) -> Floats:
    """The longest time between two tokens of each of ``count`` requests; ``before`` steps are before all ``runs``.

    A stay has whole runs, and in a run the first or the last step is the longest.
    """
    found, k = np.zeros(count), runs[:, 0].astype(np.int64)
    most = np.maximum(runs[:, 1], runs[:, 1] + runs[:, 2] * (runs[:, 0] - 1))
    place, first, last, _ = lives[:, lives[2] > lives[1]]
    if len(place):
        starts = before + np.cumsum(k) - k
        order = np.argsort(first, kind="stable")
        ends = np.searchsorted(starts, np.stack((first[order] + 1, last[order] + 1), axis=1).ravel())
        np.maximum.at(found, place[order], np.maximum.reduceat(np.append(most, 0.0), ends)[::2])
    np.maximum.at(found, apart[1], apart[2])
    return found


def find_lives(track: Track, over: NDArray[np.bool_] | None = None) -> Ints:
    """Stays of requests that decode, as in `Path`; only of those that are ``over``."""
    final = np.array([range(len(track.first)), track.joined, track.last, track.target], np.int64)
    there = np.isfinite(np.array(track.first)) if over is None else over
    lives = np.frombuffer(track.lives, np.int64).reshape(-1, 4).T
    if over is not None:
        lives = lives[:, over[lives[0]]]
    return np.hstack((lives, final[:, there]))


def find_apart(track: Track) -> tuple[Ints, Ints, Floats]:
    """Gaps that are not those of a step, as in `Path`."""
    steps, places, seconds = zip(*track.gaps, strict=True) if track.gaps else ((), (), ())
    return np.array(steps, np.int64), np.array(places, np.int64), np.array(seconds, np.float64)
