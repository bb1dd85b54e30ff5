"""What is fuzzed: a case is files and a command line, a target says how cases are made and run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from random import Random
from typing import Literal, NamedTuple

from attrs import field, frozen

from plandsl.diagnostics import PlanError


@frozen
class Case:
    """The files of a folder, and a command line of `planc` that is run there.

    Paths of files are relative to the folder. A reader is told by ``argv`` what to read, or how.
    """

    files: dict[str, bytes] = field(factory=dict)
    argv: tuple[str, ...] = ()
    stdin: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of all of it; a smaller case is easier to read."""
        return sum(map(len, self.files.values())) + sum(map(len, self.argv)) + len(self.stdin)


class Answer(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str = ""
    err: str = ""


Corpus = Sequence[Case]

Draw = Callable[[Random, Corpus], Case]
"""A new case, or a mutant of one of the corpus. The corpus may be empty."""

Run = Callable[[Case], object]
"""Runs a case in the current folder, which holds its files and nothing else.

It gives an `Answer`, or any other value for a reader that has read the input, or raises one of the target's
``refusals``. All else that it raises is a finding.
"""


def planc(case: Case) -> Answer:
    """The command line of the case, in this process."""
    from tests.fuzz.process import run_main

    return run_main(case.argv, case.stdin)


@frozen
class Target:
    """A reader or a verb: how its cases are made, and how they are run."""

    name: str
    kind: Literal["reader", "verb"]
    draw: Draw
    run: Run = planc
    refusals: tuple[type[Exception], ...] = (PlanError,)
    """What ``run`` may raise for a wrong input."""
    seconds: float = 2.0
    """Most CPU time of a case."""
    batch: int = 0
    """Cases that one worker runs before it ends; 0 for the number that suits the kind."""
    on_disk: bool = True
    """Whether the files are written to the folder; a reader of bytes may take them from the case."""
    writes: tuple[str, ...] = ()
    """Files that it writes where the command line names none."""
    keeps: bool = True
    """Whether cases that reach new lines are kept in the corpus."""

    @property
    def in_a_batch(self) -> int:
        return self.batch or (50 if self.kind == "verb" else 1_000)

    @property
    def goal(self) -> int:
        """Cases that are asked of it."""
        return 10_000 if self.kind == "verb" else 20_000


def save(case: Case, folder: Path, about: dict[str, object] | None = None) -> None:
    """Write a case as a folder: its files in `files/`, the rest in `case.json`."""
    for name, content in case.files.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    body = {"argv": list(case.argv), "stdin": case.stdin.decode("latin-1"), **(about or {})}
    (folder / "case.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Case:
    """The case that `save` wrote."""
    body = json.loads((folder / "case.json").read_text("utf-8"))
    inside = folder / "files"
    files = {
        path.relative_to(inside).as_posix(): path.read_bytes() for path in sorted(inside.rglob("*")) if path.is_file()
    }
    return Case(files, tuple(body["argv"]), body["stdin"].encode("latin-1"))


def load_all(folder: Path) -> list[Case]:
    """The cases of the folders below ``folder``, by name."""
    return [load(path.parent) for path in sorted(folder.glob("*/case.json"))]


def digest(case: Case) -> str:
    """A name for a case, from its content."""
    made = sha256(repr((sorted(case.files.items()), case.argv, case.stdin)).encode())
    return made.hexdigest()[:12]


def is_below(name: str, folder: str) -> bool:
    """Whether the path ``name`` is ``folder`` or lies below it."""
    return PurePosixPath(name).is_relative_to(PurePosixPath(folder))
