"""Makes a finding small: parts of the case are left out as long as the same thing is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from attrs import evolve

from tests.fuzz.case import Case

Same = Callable[[Case], bool]


def shrink(case: Case, same: Same, seconds: float = 20.0) -> Case:
    """The smallest case that was found in ``seconds`` of CPU time, for which ``same`` still holds."""
    until = time.process_time() + seconds
    going = True
    while going:
        going = False
        for smaller in _smaller(case):
            if time.process_time() > until:
                return case
            if smaller.size < case.size and same(smaller):
                case, going = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    for name in case.files:
        yield evolve(case, files={n: c for n, c in case.files.items() if n != name})
    if case.stdin:
        yield evolve(case, stdin=b"")
    for many in (4, 2, 1):
        for at in range(1, len(case.argv)):
            yield evolve(case, argv=case.argv[:at] + case.argv[at + many :])
    for name, content in sorted(case.files.items(), key=lambda item: -len(item[1])):
        for shorter in _shorter(content):
            yield evolve(case, files=case.files | {name: shorter})
    for shorter in _shorter(case.stdin):
        yield evolve(case, stdin=shorter)


def _shorter(content: bytes) -> Iterator[bytes]:
    """Without a half, a quarter, ... of its lines; of a content of few lines, of its bytes."""
    lines = content.splitlines(keepends=True)
    if len(lines) > 1:
        yield from (b"".join(kept) for kept in _without_parts(lines, 1))
    yield from (bytes(kept) for kept in _without_parts(list(content), 1 if len(content) < 200 else 16))


def _without_parts(items: list, least: int) -> Iterator[list]:
    part = len(items) // 2
    while part >= least:
        for at in range(0, len(items), part):
            yield items[:at] + items[at + part :]
        part //= 2
