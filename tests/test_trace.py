"""Straight-line code beside the function that it is recorded from: played, and compiled."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.num import call_traced, clip, floor, maximum, minimum, where
from plandsl.backends.cost.time import trace as trace_module
from plandsl.backends.cost.time.tape import Tape
from plandsl.backends.cost.time.trace import HOT, Player, Staged, Writer, trace
from plandsl.driver import CompiledPlan, compile_text
from tests.draws import draws


class Pair(NamedTuple):
    """A part of a result that has a kind of its own."""

    one: Any
    other: Any


BOTH: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: b - a, lambda a, b: a * b, maximum, minimum,
    lambda a, b: a / (1 + b * b), lambda a, b: floor(a) % 7 + b, lambda a, b: -a + 2 * b, lambda a, b: 0 + 1 * a,
    lambda a, b: where((a > b) | (b >= 3), a, b), lambda a, b: where((a <= b) & (b < 3), b, a + 1),
    lambda a, b: clip(a, -b, 1e3), lambda a, b: (a * a) ** 0.5 // (b * b + 2),
]  # fmt: skip
"""What a record may do with two numbers."""

programs = st.lists(st.tuples(st.integers(0, len(BOTH) - 1), st.integers(0, 99), st.integers(0, 99)), max_size=40)


def function_of(program: list[tuple[int, int, int]]) -> Callable[..., Any]:
    """The function of two numbers that a program says: each line reads two of the values so far."""

    def function(x: Any, y: Any) -> Any:
        values = [x, y, 2.5, -3]
        for at, a, b in program:
            values.append(BOTH[at](values[a % len(values)], values[b % len(values)]))
        last = [values[-1], values[-2], 7]
        return {"pair": Pair(values[len(values) // 2], (last, "as it is", None)), "again": last, "empty": ()}

    return function


def flat(value: Any) -> list[Any]:
    """The numbers of a result, as lists."""
    if isinstance(value, dict):
        return [value.keys(), *(flat(part) for part in value.values())]
    if isinstance(value, list | tuple):
        return [type(value), *map(flat, value)]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@given(programs, st.integers(-5, 5), st.floats(-4, 4))
def test_what_is_recorded_is_what_the_function_says(program: list[tuple[int, int, int]], x: int, y: float) -> None:
    function = function_of(program)
    tape = Tape()
    inputs = {name: tape.node("input", name) for name in ("x", "y")}
    result = function(*inputs.values())
    for arrays, numbers in ((False, (x, y)), (True, (np.array([[x], [2.0]]), np.array([y, 0.5, 0.0])))):
        said = flat(function(*numbers))
        played = Player(tape, inputs, result, arrays)(*numbers)
        assert flat(played) == said
        assert played["again"] is played["pair"].other[0], "a part that occurs twice is made once"
        assert flat(Writer(tape, inputs, result, arrays).compiled()(*numbers)) == said
        staged, once = Staged(tape, inputs, result, arrays), (x, numbers[1])  # what comes again is a plain number
        assert flat(staged(*once)) == flat(function(*once)) == flat(staged(*once))


def test_a_record_is_compiled_when_it_is_asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Writer] = []
    monkeypatch.setattr(Writer, "compiled", lambda self: made.append(self) or (lambda x: x + 1))
    straight = trace(lambda x: x + 1, "x")
    assert [straight(i) for i in range(HOT - 1)] == list(range(1, HOT))
    assert not made
    assert [straight(i) for i in range(9)] == list(range(1, 10))
    assert len(made) == 1


def test_what_follows_from_a_number_that_comes_again_is_computed_once_for_each_value() -> None:
    """A step in which requests decode: what experts take depends on their number, and the next step has as many."""
    asked: list[int] = []

    def heavy(n: int) -> int:
        asked.append(n)
        return n * n

    def step(n: Any, c: Any) -> Any:
        return {"experts": [call_traced(heavy, n)], "attention": call_traced(heavy, n) + n * c}

    straight = trace(step, "n", "c", again="n")
    for n, c in [(3, 1.0), (3, 2.0), (4, 1.0), (3, 5.0), (4, 2.5)]:
        assert straight(n, c) == {"experts": [n * n], "attention": n * n + n * c}
    assert asked == [3, 4]


def test_functions_that_decide_by_values_are_called() -> None:
    straight = trace(lambda x: 1 + call_traced(lambda n: n if n > 2 else -n, x), "x")
    assert [straight(i) for i in (1, 2, 3)] == [0, -1, 4]


@draws(0.2)
@given(st.integers(2, 300))
def test_a_long_record_of_arrays_keeps_few_of_them(many: int) -> None:
    """Of a chain each value is read once: there are never more than the input and two values."""

    def chain(x: Any) -> Any:
        for i in range(many):
            x = x * x + i
        return x

    tape = Tape()
    x = tape.node("input", "x")
    player = Player(tape, {"x": x}, chain(x), True)
    assert len({at for _, at, _, _ in player.steps}) <= 2


@cache
def small() -> CompiledPlan:
    load = "workload { input = 300, output = 30, rate = 2 req/s, requests = 40 }"
    text = f"plan p {{ model = llama_3_1_8b, node = h100_1, sharding {{ tp = 1 }}, engine = vllm\n {load} }}"
    return compile_text(text)[0]


def test_a_short_simulation_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks each table and each sum of prompts few times."""
    monkeypatch.setattr(Writer, "compiled", lambda self: pytest.fail("compiled"))
    assert small().simulate().simulation.summary.requests == 40


def test_a_record_is_let_go_of_once_it_is_compiled() -> None:
    made = trace(lambda a, b: (a + b, a * b), "a", "b")
    tape = weakref.ref(made._record[0])
    for n in range(HOT - 1):
        assert made(n, 2) == (n + 2, 2 * n)
    assert tape() is not None
    assert made(3, 4) == (7, 12)
    gc.collect()
    assert tape() is None
    assert made(5, 6) == (11, 30)


def test_a_call_that_began_before_another_thread_has_compiled_has_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of the first call, as many others as compile the record and let go of it."""
    made, others = trace(lambda a: (a + 1, a * 2), "a"), list(range(HOT + 1))

    def player(*record: Any) -> Player:
        while others:
            n = others.pop()
            assert made(n) == (n + 1, n * 2)
        return Player(*record)

    monkeypatch.setattr(trace_module, "Player", player)
    assert [made(n) for n in (7, 8)] == [(8, 14), (9, 16)]
    assert made._record is None
