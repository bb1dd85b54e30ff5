"""What a strategy takes in place of a part that it would draw: a strategy, the part itself, or its name."""

from __future__ import annotations

from typing import TypeAlias, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from plandsl.spec.hardware import ClusterSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.testing.parts import machine_of, model_of

Part = TypeVar("Part")

Given: TypeAlias = SearchStrategy[Part] | Part | str
"""A strategy for a part, a part, or the name of one (`plandsl/testing/parts.py`)."""


def given_model(given: Given[ModelSpec]) -> SearchStrategy[ModelSpec]:
    """Models that a caller gives."""
    return given if isinstance(given, SearchStrategy) else st.just(model_of(given))


def given_machine(given: Given[NodeSpec] | Given[ClusterSpec]) -> SearchStrategy[NodeSpec | ClusterSpec]:
    """Nodes or clusters that a caller gives."""
    if isinstance(given, SearchStrategy):
        return cast("SearchStrategy[NodeSpec | ClusterSpec]", given)
    return st.just(machine_of(given))


def given_part(given: Given[Part]) -> SearchStrategy[Part]:
    """Parts without a name in the catalog: shardings and loads."""
    return given if isinstance(given, SearchStrategy) else st.just(cast(Part, given))
