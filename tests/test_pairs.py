"""Every two features of a plan work together: in compile, explain, diff, verify and search."""

from __future__ import annotations

from itertools import combinations
from math import inf

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.driver import compile_text
from tests.draws import draws, pick, some
from tests.pairs import FEATURES, GPUS, VERBS, failures, pairs, ranks, rows, text, together

REFUSED = {
    frozenset(("balanced", "shift")): "a cut is balanced when the stages of one sharding take equally long, and two "
    "shardings on the same weights cut alike take their steps by different ones",
}
"""The pairs whose meanings contradict each other, each with the contradiction: at most six."""

APART = [("pools", "concurrency"), ("pools", "requests"), ("lognormal",)]
"""Plans whose explanation takes long by themselves: requests in two pools are a network to be solved, and a load of
experts that varies is averaged. Other features are explained with a steady load of experts."""

PARTS = 8
"""Tests that share the rows; each run takes a quarter of them."""

ROWS = [*rows([*REFUSED, *map(frozenset, APART)]), *APART]


@pytest.mark.parametrize("name", FEATURES)
def test_two_features_compile(name: str) -> None:
    others = [pair for pair in pairs() if pair[0] == name and frozenset(pair) not in REFUSED]
    assert {pair: why for pair in some(others, 5, name) if (why := failures(pair, ["compile"]))} == {}


def asked(names: tuple[str, ...]) -> list[str]:
    """What is asked of a plan with many features.

    A whole explanation asks for each term again with every figure changed, several times over. Each run draws a sixth
    of the plans for one; of the others it asks for the terms alone.
    """
    slow = "lognormal" in names or any({*pair} <= {*names} for pair in APART)
    whole = names in APART or (not slow and pick(6, *names) == 0)
    return [verb for verb in VERBS if verb not in ("terms", "explain") or verb == ("explain" if whole else "terms")]


@pytest.mark.parametrize("part", range(PARTS))
def test_features_together_are_explained_compared_verified_and_searched(part: int) -> None:
    for row in some(ROWS[part::PARTS], 4, part):
        found = failures(row, asked(row))
        wrong = [verb for verb in found if verb in VERBS] or ["compile"]
        apart = {pair: why for pair in combinations(row, 2) if found and (why := failures(pair, wrong))}
        assert found == {}, f"{'+'.join(row)}, by pairs: {apart}"


def test_rows_have_every_pair() -> None:
    found = {frozenset(pair) for row in ROWS for pair in combinations(row, 2)}
    assert found >= {frozenset(pair) for pair in pairs()}.difference(REFUSED)


def test_few_pairs_are_refused_each_with_a_code_and_for_a_contradiction() -> None:
    assert len(REFUSED) <= 6
    for pair, why in REFUSED.items():
        assert why
        assert "read" in failures(pair), f"{sorted(pair)} work together"


@st.composite
def triples(draw: st.DrawFn) -> tuple[str, ...]:
    """Three features, of which no two are refused."""
    names = tuple(draw(st.lists(st.sampled_from(sorted(FEATURES)), min_size=3, max_size=3, unique=True)))
    said = together(*names)
    assume(said is not None and ranks(said) <= GPUS)
    assume(not any(pair <= set(names) for pair in REFUSED))
    return names


@draws(1 / 3)
@given(triples())
def test_three_features_work_together(names: tuple[str, ...]) -> None:
    assert failures(names, asked(names)) == {}


def test_alternatives_are_no_pairs() -> None:
    assert together("batch", "concurrency") is None
    assert together("ring", "gather") is None
    assert together("draft", "mtp") is None
    assert frozenset(("batch", "requests")) not in map(frozenset, pairs())


def test_loads_that_vary_know_hops_inside_a_node() -> None:
    said = {**(together("lognormal", "cluster", "chunked_prefill", "pp") or {}), "pp": 4, "ep": 1}
    (plan,) = compile_text(text(said), plan="p")  # two stages in each node
    assert 0 < plan.estimate().ttft_s < inf
