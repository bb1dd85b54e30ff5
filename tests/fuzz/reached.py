"""Which lines of the product cases reach: one case in several is traced, and what is new to a target is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from coverage import Coverage

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("plandsl", "grammar", "passes", "backends")


def is_traced(number: int) -> bool:
    """Whether the case of this number of a target is traced: one in four of the first, later one in 24.

    A traced case takes two to three times as long: 30 of `check` 0.66 s of CPU time instead of 0.20 s, 30 of `verify`
    2.8 s instead of 1.2 s. So all later ones together pay 6 % for it. What instruments the code itself (atheris) would
    make every case slower; that was not measured.
    """
    return number % (4 if number < 400 else 24) == 0


T = TypeVar("T")
Line = tuple[str, int]


class Tracer:
    """Traces some of the calls in a process, and says afterwards which lines each of them reached."""

    def __init__(self) -> None:
        self._coverage: Coverage | None = None

    def trace(self, name: str, call: Callable[[], T]) -> T:
        """Run ``call``, which later is called ``name``."""
        if self._coverage is None:
            from coverage import Coverage

            include = [f"{ROOT}/{package}/*" for package in PACKAGES]
            self._coverage = Coverage(
                data_file=None, include=include, omit=["*/tests/*"], config_file=False, messages=False
            )
            self._coverage.set_option(
                "run:disable_warnings", ["no-data-collected", "trace-changed", "module-not-imported"]
            )
        self._coverage.start()
        try:
            self._coverage.switch_context(name)
            return call()
        finally:
            self._coverage.stop()

    def lines(self) -> dict[str, set[Line]]:
        """The lines that each call reached, by its name."""
        found: dict[str, set[Line]] = {}
        if self._coverage is None:
            return found
        data = self._coverage.get_data()
        for file in data.measured_files():
            short = str(Path(file).relative_to(ROOT))
            for line, names in data.contexts_by_lineno(file).items():
                for name in names:
                    found.setdefault(name, set()).add((short, line))
        return found


@cache
def lines_there_are() -> int:
    """Lines within functions of the product, which is what a case can reach: all else runs at import."""
    return sum(len(set(_inner(path))) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _inner(path: Path) -> Iterator[int]:
    """Lines of the functions of a module."""

    def walk(code: CodeType) -> Iterator[int]:
        function = bool(code.co_flags & 0x2)  # CO_NEWLOCALS: a function, and no body of a class or module
        if function:
            yield from (line for _, _, line in code.co_lines() if line)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                yield from walk(inner)

    if "static" not in path.parts and "node_modules" not in path.parts:
        yield from walk(compile(path.read_text("utf-8"), str(path), "exec"))
