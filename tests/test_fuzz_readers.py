"""Each reader gets what no reader expects: other encodings, no end, too much of something."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from random import Random

import pytest
from attrs import evolve

from tests.draws import pick, some
from tests.fuzz.case import Case, Target
from tests.fuzz.judge import judge, scratch
from tests.fuzz.readers import READERS

DEEP = 1_200


def _wide(text: bytes) -> bytes:
    """A line of 10,000 cells more."""
    first, end, rest = text.partition(b"\n")
    return first + b",x" * 10_000 + end + rest


ODD: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda text: b"",
    "a blank line": lambda text: b"\n",
    "UTF-16": lambda text: text.decode("utf-8", "replace").encode("utf-16", "replace"),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "two marks": lambda text: b"\xef\xbb\xbf\xef\xbb\xbf" + text,
    "gzip": gzip.compress,
    "a NUL": lambda text: text.replace(b",", b"\0,", 1) + b"\0",
    "carriage returns": lambda text: text.replace(b"\n", b"\r"),
    "no end": lambda text: text[: len(text) * 2 // 3],
    "an open quote": lambda text: text.replace(b",", b',"', 1),
    "a long cell": lambda text: text.replace(b"1", b"1" * 140_000, 1),
    "many cells": _wide,
    "the header twice": lambda text: text.replace(b"\n", b"\n" + text.partition(b"\n")[0] + b"\n", 1),
    "a ragged row": lambda text: text + b"1,2,3\n",
    "lists in lists": lambda text: b"[" * DEEP,
    "objects in objects": lambda text: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep values": lambda text: text.replace(b"1", b"[" * DEEP + b"]" * DEEP, 1),
    "a long number": lambda text: text.replace(b"1", b"1" * 1_000_000, 1),
    "no number": lambda text: text.replace(b"1", b"NaN", 1),
    "no end of numbers": lambda text: text.replace(b"1", b"Infinity", 1),
    "half a pair": lambda text: text.replace(b'"', b'"\\ud800', 1),
    "names twice": lambda text: text.replace(b"{", b'{"gpu": 1, "gpu": 2, ', 1),
    "aliases": lambda text: b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b, *c]\n" + text,
    "an endless alias": lambda text: b"a: &a [*a]\n",
    "text behind it": lambda text: text + b"\n}]--- \xff\xfe",
    "signs": lambda text: text.replace(b"a", b"\x1b[31m\xe2\x80\xae", 3),
}
"""What may be done to a file."""


@pytest.mark.parametrize("target", READERS, ids=lambda target: target.name)
def test_odd_files_end_in_a_diagnostic_or_an_answer(target: Target) -> None:
    with scratch():
        for what in some(list(ODD), 13, target.name):
            case = odd(target.draw(Random(pick(1 << 30, target.name, what)), ()), ODD[what])
            verdict = judge(target, case, seconds=3600)  # an hour: no test asserts a time
            assert not verdict.bad, f"{what}: {verdict.why}\n{verdict.detail}"


@pytest.mark.slow
@pytest.mark.parametrize("target", READERS, ids=lambda target: target.name)
def test_half_of_the_drawn_files_get_past_all_checks(target: Target) -> None:
    corpus = [target.draw(Random(f"corpus {n}"), ()) for n in range(20)]
    with scratch():
        # always the same cases: shares of others differ by chance
        verdicts = [judge(target, target.draw(Random(f"half {n}"), corpus), seconds=3600) for n in range(200)]
    assert sum(verdict.kind == "answered" for verdict in verdicts) >= 100


def odd(case: Case, change: Callable[[bytes], bytes]) -> Case:
    """The case with its first file changed, or its input, or its first word."""
    if case.files:
        name = min(case.files)
        return evolve(case, files=case.files | {name: change(case.files[name])})
    if case.stdin:
        return evolve(case, stdin=change(case.stdin))
    word = change(case.argv[0].encode()).decode("utf-8", "replace").replace("\0", "")
    return evolve(case, argv=(word[:100_000], *case.argv[1:]))
