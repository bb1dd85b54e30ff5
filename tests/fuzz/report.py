"""What the fuzzer has done so far, by target: it adds up over runs, and is written after each."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import asdict, define, field

from plandsl.files import make_folder, write_file
from tests.fuzz.reached import Line, lines_there_are
from tests.fuzz.worker import Batch

HEAD = ("target", "inputs", "answered", "refused", "past checks", "lines", "ms each", "slowest s", "MB", "found")


@define
class Tally:
    """What came of the cases of a target, over all runs."""

    inputs: int = 0
    answered: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0
    findings: dict[str, int] = field(factory=dict)
    lines: dict[str, list[int]] = field(factory=dict)
    """Lines reached, by file."""

    @property
    def reached(self) -> set[Line]:
        return {(file, line) for file, lines in self.lines.items() for line in lines}

    def add(self, batch: Batch) -> None:
        self.inputs += batch.inputs
        self.answered += batch.answered
        self.refused += batch.refused
        self.seconds += batch.seconds
        self.slowest = max(self.slowest, batch.slowest)
        self.memory = max(self.memory, batch.memory)
        for why, count in batch.counts.items():
            self.findings[why] = self.findings.get(why, 0) + count
        for file, line in sorted(batch.lines):
            self.lines.setdefault(file, []).append(line)


@define
class Report:
    """All targets, and the file that has them."""

    path: Path
    tallies: dict[str, Tally] = field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report of the runs before, or an empty one."""
        if not path.exists():
            return cls(path)
        body = json.loads(path.read_text("utf-8"))
        return cls(path, {name: Tally(**tally) for name, tally in body["targets"].items()})

    def of(self, target: str) -> Tally:
        return self.tallies.setdefault(target, Tally())

    def write(self) -> None:
        make_folder(self.path.parent)
        body = {"targets": {name: asdict(tally) for name, tally in sorted(self.tallies.items())}}
        write_file(self.path, json.dumps(body) + "\n")

    def show(self, names: list[str]) -> str:
        """A table of the targets called ``names``, and a line for all of them."""
        rows, whole = [HEAD], Tally()
        every: set[Line] = set()
        for name in names:
            tally = self.of(name)
            rows.append(_row(name, tally, tally.reached))
            every |= tally.reached
            whole.inputs += tally.inputs
            whole.answered += tally.answered
            whole.refused += tally.refused
            whole.seconds += tally.seconds
            whole.slowest = max(whole.slowest, tally.slowest)
            whole.memory = max(whole.memory, tally.memory)
            whole.findings |= {f"{name}: {why}": count for why, count in tally.findings.items()}
        rows.append(_row("all", whole, every))
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        lines = [[c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)] for row in rows]
        text = "\n".join("  ".join((row[0].ljust(widths[0]), *line)) for row, line in zip(rows, lines, strict=True))
        found = "".join(f"\n{count:6} x {why}" for why, count in sorted(whole.findings.items()))
        return f"{text}\nThere are {lines_there_are():,} lines in functions of the product.{found}\n"


def _row(name: str, tally: Tally, reached: set[Line]) -> tuple[str, ...]:
    inputs = tally.inputs or 1
    return (
        name, f"{tally.inputs:,}", f"{tally.answered:,}", f"{tally.refused:,}", f"{tally.answered / inputs:.0%}",
        f"{len(reached):,}", f"{1e3 * tally.seconds / inputs:.1f}", f"{tally.slowest:.2f}", f"{tally.memory / 1e6:.0f}",
        f"{sum(tally.findings.values()):,}",
    )  # fmt: skip
