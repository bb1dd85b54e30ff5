"""Which tests run a line, and how long each takes: what `make quality` recorded (benchmarks/quality.py)."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from coverage import CoverageData


class Covering:
    """What a run of the suite recorded: a test is ``module.function``, and its cases are ``function[case]``."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """Read it all at once: a process that is forked would erase the data when it reads."""
        data = CoverageData(str(folder / "coverage"))
        data.read()
        self.seconds = _seconds(folder.glob("tests*.xml"))
        measured = sorted(data.measured_files())
        alike: dict[frozenset[str], frozenset[str]] = {}
        self._lines: dict[str, Mapping[int, frozenset[str]]] = {}
        for file in sorted(set(files)):
            found: dict[int, frozenset[str]] = {}
            for path in (path for path in measured if Path(path).as_posix().endswith(f"/{file}")):
                for line, names in data.contexts_by_lineno(path).items():
                    tests = frozenset(name for name in names if name)
                    found[line] = alike.setdefault(tests, tests)
            self._lines[file] = found

    @cached_property
    def known(self) -> frozenset[str]:
        """The tests that ran."""
        return frozenset(name.split("[")[0] for name in self.seconds)

    def lines(self, file: str) -> Mapping[int, frozenset[str]]:
        """The tests that run each line of ``file``; what runs at import has none."""
        return self._lines.get(file, {})

    def whole(self, test: str) -> float:
        """Seconds that all cases of ``test`` take."""
        return self._whole.get(test, 1.0)

    @cached_property
    def _whole(self) -> Mapping[str, float]:
        found: dict[str, float] = defaultdict(float)
        for name, seconds in self.seconds.items():
            found[name.split("[")[0]] += seconds
        return found

    def tests(self, file: str, text: str, line: int) -> Nearness:
        """The tests to try on a change of ``line``: those that run it, those that run its function, those of its file.

        What runs at import is near to what uses the names that it binds, and to the methods of its class.
        """
        at, nothing = self.lines(file), frozenset[str]()
        exact = nothing.union(*(at.get(n, nothing) for n in _statement(text, line)))
        near = nothing.union(*(at.get(n, nothing) for n in _function(text, line)))
        near |= nothing if near else nothing.union(*(at.get(n, nothing) for n in _users(text, line)))
        far = nothing.union(*at.values())
        return Nearness(exact, near - exact, far - near - exact)


class Nearness(NamedTuple):
    """Tests by how near they come to a line."""

    exact: frozenset[str]
    function: frozenset[str]
    file: frozenset[str]


def _statement(text: str, line: int) -> range:
    """The lines of the smallest statement around ``line``: its first line is what coverage records."""
    return _smallest(text, line, (ast.stmt, ast.excepthandler, ast.match_case))


def _function(text: str, line: int) -> range:
    return _smallest(text, line, (ast.FunctionDef, ast.AsyncFunctionDef))


def _users(text: str, line: int) -> list[int]:
    """The lines of the functions that use what the statement around ``line`` of a module or of a class binds."""
    tree, rows = ast.parse(text), text.splitlines()
    for node in tree.body:
        decorated = [d.lineno for d in getattr(node, "decorator_list", ())]
        if min([node.lineno, *decorated]) <= line <= (node.end_lineno or node.lineno):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                return list(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            return [i for i, row in enumerate(rows, 1) if names & set(re.findall(r"\w+", row))]
    return []


def _smallest(text: str, line: int, kinds: tuple[type[ast.AST], ...]) -> range:
    found = range(line, line + 1)
    size = 10**9
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds):
            start, end = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
            if start <= line <= end and end - start < size:
                size, found = end - start, _own(node, start, end)
    return found


def _own(node: ast.AST, start: int, end: int) -> range:
    """The lines of a statement without those of the statements in it, but for a function, which is wanted whole."""
    body = getattr(node, "body", None)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not isinstance(body, list) or not body:
        return range(start, end + 1)
    return range(start, max(start + 1, body[0].lineno))


def _seconds(files: Iterable[Path]) -> dict[str, float]:
    """Seconds of each case, by ``module.function[case]``, from the reports that pytest writes."""
    found: dict[str, float] = {}
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            found[f"{case.get('classname')}.{case.get('name')}"] = float(case.get("time", 0))
    return found
