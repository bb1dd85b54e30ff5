"""Every two features of a plan work together: in compile, explain, diff, verify and search."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.pairs import FEATURES, GPUS, failures, pairs, ranks, rows, together

REFUSED = {
    frozenset(("balanced", "shift")): "a cut is balanced when the stages of one sharding take equally long, and two "
    "shardings on the same weights cut alike take their steps by different ones",
}
"""The pairs whose meanings contradict each other, each with the contradiction: at most six."""

ROWS = rows(REFUSED)


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_answers_everything_by_itself(name: str) -> None:
    assert failures([name]) == {}


@pytest.mark.parametrize("name", FEATURES)
def test_every_two_features_compile(name: str) -> None:
    others = [pair for pair in pairs() if pair[0] == name and frozenset(pair) not in REFUSED]
    assert {pair: why for pair in others if (why := failures(pair, ["compile"]))} == {}


@pytest.mark.parametrize("row", ROWS, ids="+".join)
def test_features_together_are_explained_compared_verified_and_searched(row: tuple[str, ...]) -> None:
    found = failures(row)
    apart = {pair: why for pair in combinations(row, 2) if found and (why := failures(pair))}
    assert found == {}, f"by pairs: {apart}"


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


@settings(max_examples=12)
@given(triples())
def test_three_features_work_together(names: tuple[str, ...]) -> None:
    assert failures(names) == {}


def test_alternatives_are_no_pairs() -> None:
    assert together("batch", "concurrency") is None
    assert together("ring", "gather") is None
    assert together("draft", "mtp") is None
    assert frozenset(("batch", "requests")) not in map(frozenset, pairs())
