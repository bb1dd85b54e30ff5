"""A run over the mutants of a sample: what came of each is kept, so that a run can be stopped and taken up again."""

from __future__ import annotations

import ast
import json
import re
import select
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from benchmarks.mutants.covering import Covering, Nearness
from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.swap import Changed, Functions
from benchmarks.mutants.trial import NOT_RUN, Fork, Outcome, Tell, collect, files_of, name_of, run

PAGES = ("tests/test_docs.py", "tests/test_readme.py", "tests/test_gallery.py")
"""Tests of the pages' commands, which a change that all others miss may reach through a cache."""

LEAST = 0.005
"""Seconds that the quickest test takes with what pytest does around it."""

OWN = 10
"""A test of a module's own file comes before others that take so many times less."""

MANY = 2
"""So many cases of a test come first, before cases of others that take longer."""

PASSED = "passed"
"""How a mutant stands that no test found on loaded functions: it is tried next in a process that imports it."""

LOADING = "loading"
"""Before files: none of their tests could be loaded."""

FOLDERS = frozenset({"test", "backend", "plandsl", "cost", "ir", "passe", "answer", "deployment", "work", "time"})

J = TypeVar("J")


class Result(NamedTuple):
    """What came of a mutant so far: `killed` by a test, or not by all that were tried."""

    name: str
    killed: bool
    how: str
    test: str
    passed: int
    of: int
    seconds: float

    @property
    def decided(self) -> bool:
        """Whether the mutant needs no further trial."""
        return self.how != PASSED


class Session:
    """The mutants of a run over the tree at ``root``, and what is known of them.

    First the functions that are loaded get the mutant's code, which costs no start; a mutant that no test finds so, or
    that stands outside functions, gets a process of its own that imports it, and more tests.
    """

    def __init__(self, root: Path, mutants: Sequence[Mutant], covering: Covering, file: Path, seconds: float) -> None:
        self._root, self._covering, self._file, self._seconds = root, covering, file, seconds
        self.mutants = {m.name: m for m in mutants}
        self.results: dict[str, Result] = {}
        self._sound: dict[str, bool] = {}
        self._kills: Counter[str] = Counter()
        """How often a test found a mutant: those that do are tried early."""
        self.read()

    def read(self) -> None:
        """Take over what the file says."""
        if self._file.exists():
            found = [Result(*json.loads(line)) for line in self._file.read_text(encoding="utf-8").splitlines()]
            self.results = {r.name: r for r in found}

    def waiting(self, *, again: bool) -> list[Mutant]:
        """The mutants without a verdict, and with ``again`` those that survived."""
        known = {name for name, result in self.results.items() if result.killed or (result.decided and not again)}
        return [m for name, m in self.mutants.items() if name not in known]

    def loaded(self, mutants: Sequence[Mutant], workers: int, *, again: bool) -> None:
        """Try each on loaded functions, with ``again`` also by new tests; what survives has no verdict yet."""
        new = self._new() if again else frozenset()
        mutants = [m for m in mutants if again or m.name not in self.results]
        files = sorted({file for m in mutants for file in files_of(self._near(m).exact)} | set(files_of(new)))
        if not mutants:
            return

        def use(items: list[pytest.Item]) -> None:
            functions, by_test = Functions(self._root), _by_test(items)

            def start(job: Job) -> Fork:
                m = job.mutant

                def what(tell: Tell) -> None:
                    if not functions.swap(self._root / m.file, (self._root / m.file).read_text(), m.source):
                        tell(Outcome("import", "", 0, 0, 0.0))
                    chosen = self._ordered(m.file, self._near(m).exact | new, by_test, job.without)
                    run(chosen, self._usual, self._seconds, tell)

                return Fork(what, self._seconds)

            def alone(test: str) -> Fork:
                chosen = [item for item in items if name_of(item) == test]
                return Fork(lambda tell: run(chosen, self._usual, self._seconds, tell), self._seconds)

            self._each([Job(m) for m in mutants], start, alone, workers, keep=False)

        sys.stdout.flush()
        if collect(files, use) != pytest.ExitCode.OK:
            raise RuntimeError("tests could not be loaded")
        self._sound.clear()

    def imported(self, mutants: Sequence[Mutant], workers: int) -> None:
        """Try each in a process that imports it, with all tests of its function, of pages and of its file in turn."""

        def start(job: Job) -> Fork:
            m, limit = job.mutant, 2 * self._seconds
            tests = self._in_turn(m, limit)

            def what(tell: Tell) -> None:
                Changed(m.module, m.source)

                def use(items: list[pytest.Item]) -> None:
                    by_test = _by_test(items)
                    parts = [self._ordered(m.file, part, by_test, job.without) for part in tests]
                    run([item for part in parts for item in part], self._usual, limit, tell)

                files = files_of(test for part in tests for test in part)
                collect(files, use)
                tell(Outcome("failed", " ".join([LOADING, *files]), 0, 0, 0.0))

            return Fork(what, limit)

        def alone(test: str) -> Fork:
            def what(tell: Tell) -> None:
                def use(items: list[pytest.Item]) -> None:
                    run([i for i in items if name_of(i) == test], self._usual, self._seconds, tell)

                collect(test.split()[1:] if test.startswith(LOADING) else files_of([test]), use)
                tell(Outcome("failed", test, 0, 0, 0.0))

            return Fork(what, self._seconds)

        self._each([Job(m) for m in mutants], start, alone, workers, keep=True)

    def _each(
        self,
        jobs: Iterable[Job],
        start: Callable[[Job], Fork],
        alone: Callable[[str], Fork],
        workers: int,
        *,
        keep: bool,
    ) -> None:
        """Run all, and write what came of them; a test that fails without the mutant too is left out.

        With ``keep`` a mutant that no test finds has survived, else it has no verdict yet.
        """
        waiting = list(jobs)
        for job, outcome in _parallel(waiting, start, workers):
            if outcome.verdict == "lost":
                raise RuntimeError(f"a trial fell over: {outcome.test}")
            if outcome.verdict == "failed" and not self._is_sound(outcome.test, alone):
                waiting.append(Job(job.mutant, job.without | {outcome.test}))
            elif outcome.verdict in ("failed", "hung"):
                self._write(job.mutant, outcome, killed=True)
            else:
                self._write(job.mutant, outcome._replace(verdict="survived" if keep else PASSED), killed=False)

    def _is_sound(self, test: str, alone: Callable[[str], Fork]) -> bool:
        """Whether a test passes alone on the code as it is."""
        if test not in self._sound:
            ((_, outcome),) = _parallel([test], alone, 1)
            self._sound[test] = outcome.verdict == "passed"
            if not self._sound[test]:
                print(f"{test} fails on the code as it is, and is left out", flush=True)
        return self._sound[test]

    def _write(self, mutant: Mutant, outcome: Outcome, *, killed: bool) -> None:
        seconds = round(outcome.seconds, 2)
        result = Result(
            mutant.name,
            killed,
            how=outcome.verdict,
            test=outcome.test,
            passed=outcome.passed,
            of=outcome.of,
            seconds=seconds,
        )
        self.results[mutant.name] = result
        self._kills[outcome.test.split("[")[0]] += 1
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(result) + "\n")
        word = "killed" if killed else "SURVIVED" if result.decided else "later"
        print(f"{word}  {result.how} {result.test} {result.passed}/{result.of} {result.seconds:.1f} s", flush=True)
        if not killed and result.decided:
            print(mutant.diff(), flush=True)

    def _near(self, m: Mutant) -> Nearness:
        return self._covering.tests(m.file, (self._root / m.file).read_text(encoding="utf-8"), m.line)

    def _new(self) -> frozenset[str]:
        """Tests that the record of lines does not know: they are tried on all mutants."""
        found = set()
        for path in sorted((self._root / "tests").rglob("test_*.py")):
            module = ".".join(path.relative_to(self._root).with_suffix("").parts)
            body = ast.parse(path.read_text(encoding="utf-8")).body
            if any(isinstance(node, ast.Assign) and _has_mark(node) for node in body):  # `pytestmark`
                continue
            tests = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
            found |= {f"{module}.{test.name}" for test in tests if not any(map(_has_mark, test.decorator_list))}
        return frozenset(found) - self._covering.known

    def _in_turn(self, m: Mutant, limit: float) -> list[frozenset[str]]:
        """Groups of tests, the nearest first, as many as usually end within ``limit``."""
        pages = frozenset(t for t in self._covering.known if f"{t.rpartition('.')[0].replace('.', '/')}.py" in PAGES)
        exact, function, file = self._near(m)
        exact |= self._new()
        parts, left = [], 2 * limit
        for part in (exact, function, pages, file - pages):
            taken = set()
            for test in sorted(part, key=self._covering.whole):
                left -= self._covering.whole(test)
                if left < 0:
                    break
                taken.add(test)
            parts.append(frozenset(taken))
        return parts

    def _usual(self, case: str) -> float:
        return max(LEAST, self._covering.seconds.get(case, 1.0))

    def _ordered(
        self, file: str, tests: Iterable[str], by_test: Mapping[str, Sequence[pytest.Item]], without: frozenset[str]
    ) -> list[pytest.Item]:
        """The cases of ``tests``: quick ones first, and before others those that find much or bear the file's name."""
        found = [item for test in tests for item in by_test.get(test, ())]
        left = [item for item in found if name_of(item) not in without]
        nth, words = Counter[str](), _words(file.removesuffix(".py"))
        keys: dict[str, float] = {}
        for item in left:
            test = _test(item)
            nth[test] += 1
            likely = (1 + self._kills[test]) * (OWN if words & _words(test.rpartition(".")[0]) else 1)
            keys[item.nodeid] = self._usual(name_of(item)) * (1 + nth[test] / MANY) / likely
        return sorted(left, key=lambda item: (keys[item.nodeid], item.nodeid))


class Job(NamedTuple):
    """A mutant to try, without tests that fail anyway."""

    mutant: Mutant
    without: frozenset[str] = frozenset()


def _has_mark(node: ast.AST) -> bool:
    """Whether a decorator of a test, or what a module assigns, has one of `NOT_RUN`."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("parametrize"):
        return False  # a mark of one of its cases
    return any(isinstance(n, ast.Attribute) and n.attr in NOT_RUN and "mark" in ast.unparse(n) for n in ast.walk(node))


def _words(path: str) -> frozenset[str]:
    """The words of a module's or a test's name, those of folders that most share left out."""
    return frozenset(word.rstrip("s") for word in re.split(r"[/._]", path)) - FOLDERS


def _test(item: pytest.Item) -> str:
    return name_of(item).split("[")[0]


def _by_test(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    found = defaultdict(list)
    for item in items:
        found[_test(item)].append(item)
    return found


def _parallel(jobs: list[J], start: Callable[[J], Fork], workers: int) -> Iterator[tuple[J, Outcome]]:
    """Start jobs, ``workers`` at a time, also those that are added meanwhile; each with its outcome when it ends."""
    running: dict[int, tuple[J, Fork]] = {}
    at = 0
    try:
        while at < len(jobs) or running:
            while at < len(jobs) and len(running) < workers:
                fork = start(jobs[at])
                running[fork.pipe] = (jobs[at], fork)
                at += 1
            select.select(list(running), [], [], 5.0)
            for pipe, (job, fork) in list(running.items()):
                outcome = fork.result()
                if outcome is not None:
                    del running[pipe]
                    yield job, outcome
    finally:
        for _, fork in running.values():
            fork.stop()
