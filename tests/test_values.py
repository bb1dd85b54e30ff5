"""Frozen values: what they inherit is what attrs would have made."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pytest
from attrs import evolve

from plandsl.diagnostics import Span
from plandsl.driver import compile_file
from plandsl.spec.hardware import LinkSpec
from plandsl.spec.plan import WorkloadSpec
from plandsl.values import FrozenValue, kept, sum_up

LOAD = WorkloadSpec("chat", 1024, 128, batch=8)


def _classes(base: type[FrozenValue]) -> Iterator[type[FrozenValue]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _classes(cls)


def test_values_are_equal_where_class_and_compared_fields_are() -> None:
    elsewhere = evolve(LOAD, span=Span("x.plan", 1, 1, 1, 5))
    assert elsewhere == LOAD
    assert hash(elsewhere) == hash(LOAD)
    assert evolve(LOAD, batch=9) != LOAD
    assert LinkSpec("ring", 1.0, 0.0) != ("ring", 1.0, 0.0, (), 0.0)
    shown = "topology='ring', bandwidth=1.0, latency=0.0, dims=(), bridge=0.0, host=None, wrap=True, usual=2e-06"
    assert repr(LinkSpec("ring", 1.0, 0.0)) == f"LinkSpec({shown})"


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError):
        LOAD.batch = 9  # type: ignore[misc]


def test_no_class_has_what_it_inherits_made_again() -> None:
    compile_file("examples/llama3_70b.plan", "hybrid")
    made = [cls for cls in _classes(FrozenValue) if "__attrs_attrs__" in vars(cls)]
    assert len(made) > 40
    own = [vars(cls).get(name) for cls in made for name in ("__eq__", "__hash__", "__repr__")]
    assert not [method for method in own if method is not None and "attrs" in method.__code__.co_filename]


def test_floats_are_added_from_left_to_right_without_correction() -> None:
    tenths = [0.1] * 10
    assert sum_up(tenths) == list(accumulate(tenths))[-1] == 0.9999999999999999  # the builtin says 1.0 from 3.12 on
    assert sum_up([1e100, 1.0, -1e100]) == 0.0
    assert sum_up([1.0, -1e100], 1e100) == 0.0
    assert sum_up([]) == 0
    start, rows = np.zeros(2), [np.array([0.1, 1.0])] * 10
    assert sum_up(rows, start).tolist() == [0.9999999999999999, 10.0]
    assert start.tolist() == [0.0, 0.0]  # what it starts from is left as it was


def test_what_is_kept_belongs_to_an_object_and_to_the_other_arguments() -> None:
    asked: list[tuple[str, int]] = []

    @kept(2)
    def find(pair: list[str], times: int) -> str:
        asked.append((pair[0], times))
        return pair[0] * times

    one, equal = ["a"], ["a"]  # lists have no hash: nothing of the value is compared
    assert [find(one, 2), find(one, 2), find(equal, 2)] == ["aa"] * 3
    assert asked == [("a", 2)] * 2
    assert find(one, 3) == "aaa"  # the third that is asked for puts out the first
    assert find(one, 2) == "aa"
    assert asked == [("a", 2), ("a", 2), ("a", 3), ("a", 2)]
