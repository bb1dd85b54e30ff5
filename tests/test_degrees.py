"""The degrees that the hint of E301 names: the nearest ones that a plan can have, below and above."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from tests.draws import draws

PLAN = """plan p {{
  model = llama_3_1_8b with {{ layers = 2, heads = {heads}, kv_heads = {kv_heads}, ffn = 4096 }}, node = h100_8
  workload {{ input = 10, output = 4, batch = 8 }}
  sharding {{ mesh a = {a}, b = {b}
    heads, kv_heads -> a, b
  }}
}}"""


def refused(heads: int, kv_heads: int, a: int, b: int) -> PlanError | None:
    try:
        compile_text(PLAN.format(heads=heads, kv_heads=kv_heads, a=a, b=b))
    except PlanError as error:
        return error
    return None


@draws(0.5)
@given(st.sampled_from((6, 8, 12)), st.sampled_from((1, 2, 4)), st.integers(2, 8), st.integers(1, 4))
def test_the_nearest_degrees_are_those_that_compile(heads: int, kv_heads: int, a: int, b: int) -> None:
    assume(heads % kv_heads == 0 and a * b <= 8)
    error = refused(heads, kv_heads, a, b)
    assume(error is not None)
    (found,) = (d for d in error.diagnostics if d.code == "E301")
    fit = [n for n in range(1, 8 // b + 1) if refused(heads, kv_heads, n, b) is None]
    nearest = [*[n for n in fit if n < a][-1:], *[n for n in fit if n > a][:1]]
    assert [int(n) for n in re.findall(r"\d+", found.hint)] == nearest


def test_keys_may_be_copied_over_what_other_axes_leave() -> None:
    error = refused(8, 2, 3, 2)
    assert error is not None
    assert error.diagnostics[0].hint == "nearest degrees that divide: 2, 4"


def test_all_that_one_axis_cannot_split_is_one_error() -> None:
    text = PLAN.format(heads=8, kv_heads=8, a=5, b=1).replace("kv_heads -> a, b", "kv_heads -> a\n    ffn -> a")
    with pytest.raises(PlanError) as told:
        compile_text(text)
    (found,) = (d.message for d in told.value.diagnostics if d.code == "E301")
    assert re.findall(r"(\w+) = \d", found) == ["heads", "kv_heads", "ffn"]
