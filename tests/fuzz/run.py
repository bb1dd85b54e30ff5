"""Runs targets for some time: which goes next, in how many processes, and what is kept of what they find."""

from __future__ import annotations

import os
import pickle
import re
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field

from tests.fuzz.case import Case, Target, digest, load_all, save
from tests.fuzz.report import Report
from tests.fuzz.worker import Batch, Found, Worker, number_of, start

SAVED = 3
"""Most findings of one cause that are saved."""

CORPUS = 600
"""Most cases of a target that are kept; the oldest of what was added stay."""


@define
class Runner:
    """Targets, and the folder with what earlier runs left: `corpus/TARGET`, `findings/TARGET`, `report.json`."""

    targets: Sequence[Target]
    folder: Path
    seed: str
    workers: int = 1
    say: Callable[[str], object] = print
    report: Report = field(init=False)
    corpora: dict[str, list[Case]] = field(factory=dict)
    running: list[Worker] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.report = Report.read(self.folder / "report.json")
        for target in self.targets:
            self.corpora[target.name] = load_all(self.folder / "corpus" / target.name)

    def run(self, seconds: float, cases: int | None = None) -> None:
        """Run for ``seconds`` by the wall clock, or until each target has run ``cases`` more cases."""
        until = time.monotonic() + seconds
        begun = {target.name: self.report.of(target.name).inputs for target in self.targets}
        try:
            while True:
                while len(self.running) < self.workers and time.monotonic() < until:
                    if not self._start_next(begun, cases):
                        break
                if not self.running:
                    break
                self._receive()
        finally:
            for worker in self.running:
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            self.report.write()

    def _start_next(self, begun: dict[str, int], cases: int | None) -> bool:
        """Start a target that is not running; False if none has cases left.

        Each gets as much CPU time as the others until it has run as many cases as are asked of it.
        """
        busy = {worker.target.name for worker in self.running}
        ready = []
        for target in self.targets:
            tally = self.report.of(target.name)
            done = tally.inputs
            left = target.in_a_batch if cases is None else min(target.in_a_batch, cases - done + begun[target.name])
            if target.name not in busy and left > 0:
                ready.append((done >= target.goal, tally.seconds, target.name, target, range(done, done + left)))
        if not ready:
            return False
        *_, target, numbers = min(ready)
        self._start(target, numbers)
        return True

    def _start(self, target: Target, numbers: range) -> None:
        known = self.report.of(target.name).reached
        self.running.append(start(target, numbers, self.seed, self.corpora[target.name], known))

    def _receive(self) -> None:
        """Wait for what workers send, and take the batches of those that have ended."""
        by_pipe = {worker.pipe: worker for worker in self.running}
        for pipe in select.select(list(by_pipe), [], [])[0]:
            worker = by_pipe[pipe]
            if sent := os.read(pipe, 1 << 20):
                worker.received += sent
                continue
            os.close(pipe)
            self.running.remove(worker)
            status = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
            if status == 0:
                self._take(worker.target, pickle.loads(bytes(worker.received)))
            elif status > 0:
                raise RuntimeError(f"a worker of {worker.target.name} failed at case {worker.number}")
            else:
                self._take_dead(worker, -status)

    def _take(self, target: Target, batch: Batch) -> None:
        self.report.of(target.name).add(batch)
        kept = self.corpora[target.name]
        for case in batch.fresh[: max(0, CORPUS - len(kept))]:
            kept.append(case)
            save(case, self.folder / "corpus" / target.name / f"{len(kept):05}-{digest(case)}")
        for found in batch.found:
            self._save(target, found)
        self.report.write()

    def _take_dead(self, worker: Worker, sign: int) -> None:
        """The worker was ended by a signal at a case: that is a finding, and what it did before is lost."""
        target, number = worker.target, worker.number
        why = f"the process ended with {signal.Signals(sign).name}"
        case = target.draw(number_of(self.seed, target, number), self.corpora[target.name])
        lost = Batch(target.name, inputs=number - worker.numbers.start + 1, counts={why: 1})
        lost.refused = lost.inputs - 1  # nobody knows; so they are not counted as answers
        self._take(target, lost)
        self._save(target, Found(why, "", number, case, case))
        if rest := range(number + 1, worker.numbers.stop):
            self._start(target, rest)

    def _save(self, target: Target, found: Found) -> None:
        cause = re.sub(r"[^A-Za-z0-9_.]+", "-", found.why)[:80].strip("-")
        folder = self.folder / "findings" / target.name
        same = list(folder.glob(f"{cause}--*"))
        if len(same) >= SAVED:
            return
        about = {
            "target": target.name,
            "found": found.why,
            "seed": self.seed,
            "number": found.number,
            "detail": found.detail,
        }
        place = folder / f"{cause}--{digest(found.case)}"
        save(found.case, place, about)
        if found.small != found.case:
            save(found.small, place / "small", about)
        self.say(f"{target.name}: {found.why}  ({place})")
