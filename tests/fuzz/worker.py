"""A worker: a forked process that runs a batch of the cases of one target, fenced, and sends back what came of them."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import random
import signal
import sys
import traceback
from typing import NamedTuple

from attrs import define, field

from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.fence import MEMORY, fence_memory
from tests.fuzz.judge import Verdict, judge, scratch
from tests.fuzz.reached import Line, Tracer, is_traced
from tests.fuzz.shrink import shrink

SLOWER = 6
"""How many times as long as its bound a traced case may take; over that it is run again, untraced."""

KEPT = 3
"""Most findings of one cause that a batch sends back."""

ENDS = -1
"""In the place of a case: all are done."""


class Found(NamedTuple):
    """A finding, the case that made it, and a smaller case that makes it too."""

    why: str
    detail: str
    number: int
    case: Case
    small: Case


@define
class Batch:
    """What came of the cases of a batch. Seconds are CPU time, memory the peak of the resident set in bytes."""

    target: str
    inputs: int = 0
    answered: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0
    found: list[Found] = field(factory=list)
    counts: dict[str, int] = field(factory=dict)
    """How often each thing was found."""
    fresh: list[Case] = field(factory=list)
    """Cases that reached new lines."""
    lines: set[Line] = field(factory=set)

    def add(self, verdict: Verdict) -> None:
        self.inputs += 1
        self.answered += verdict.kind == "answered"
        self.refused += verdict.kind == "refused"
        self.seconds += verdict.spent.seconds
        if not verdict.bad:
            self.slowest = max(self.slowest, verdict.spent.seconds)
            self.memory = max(self.memory, verdict.spent.memory)


def number_of(seed: str, target: Target, number: int) -> random.Random:
    """The random numbers of a case: the same for the same seed, target and number."""
    return random.Random(f"{seed} {target.name} {number}")


def run_batch(
    target: Target, numbers: range, seed: str, corpus: Corpus, known: set[Line], at: mmap.mmap | None = None
) -> Batch:
    """Run cases in this process. ``known`` has the lines that the target reached before; ``at`` is told each number."""
    done, tracer, traced, full = Batch(target.name), Tracer(), {}, False
    with scratch():
        for number in numbers:
            if at is not None:
                at[:8] = number.to_bytes(8, "little", signed=True)
            case = target.draw(number_of(seed, target, number), corpus)
            if is_traced(number):
                name = str(number)
                verdict = tracer.trace(name, lambda: judge(target, case, SLOWER * target.seconds))  # noqa: B023
                if verdict.bad or verdict.spent.seconds > target.seconds:
                    verdict = judge(target, case)
                elif target.keeps:
                    traced[name] = case
            else:
                verdict = judge(target, case)
            if verdict.spent.memory > MEMORY // 2:
                full = True  # what is left of it would count for the cases that follow: they get a new process
            if verdict.bad and verdict.why.startswith("over "):  # by chance the machine may have been slow
                verdict = judge(target, case)
            done.add(verdict)
            if verdict.bad:
                _note(done, target, number, case, verdict)
            if full:
                break
            if number % 50 == 0:
                gc.collect()
    lines = tracer.lines()
    seen = set(known)
    for name, found in lines.items():
        if fresh := found - seen:
            seen |= fresh
            done.lines |= fresh
            if name in traced:
                done.fresh.append(traced[name])
    return done


def _note(done: Batch, target: Target, number: int, case: Case, verdict: Verdict) -> None:
    done.counts[verdict.why] = done.counts.get(verdict.why, 0) + 1
    if done.counts[verdict.why] > KEPT:
        return
    small = case
    if done.counts[verdict.why] == 1:
        seconds = 6.0 if verdict.why.startswith("over ") else 20.0  # each try of a slow case is slow
        small = shrink(case, lambda smaller: judge(target, smaller).why == verdict.why, seconds)
    done.found.append(Found(verdict.why, verdict.detail, number, case, small))


@define
class Worker:
    """A batch that is being run in a process of its own."""

    target: Target
    numbers: range
    pid: int
    pipe: int
    at: mmap.mmap
    received: bytearray = field(factory=bytearray)

    @property
    def number(self) -> int:
        """The case that is being run, or was when the process ended."""
        return int.from_bytes(self.at[:8], "little", signed=True)


def start(target: Target, numbers: range, seed: str, corpus: Corpus, known: set[Line]) -> Worker:
    """Fork a process that runs the batch."""
    at = mmap.mmap(-1, 8)
    at[:8] = numbers.start.to_bytes(8, "little", signed=True)
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(target, numbers, seed=seed, corpus=corpus, known=known, at=at, writing=writing)
    os.close(writing)
    return Worker(target, numbers, pid, reading, at)


def _live(
    target: Target, numbers: range, seed: str, corpus: Corpus, known: set[Line], at: mmap.mmap, writing: int
) -> None:
    """What a worker does; it never returns."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is interrupted ends the workers
        gc.freeze()
        fence_memory()
        done = run_batch(target, numbers, seed, corpus=corpus, known=known, at=at)
        at[:8] = ENDS.to_bytes(8, "little", signed=True)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(done, pipe)
        status = 0
    except BaseException:  # a fault of the fuzzer's own
        traceback.print_exc()
    finally:
        os._exit(status)
