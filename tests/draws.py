"""How many examples a law draws: a share of what the profile of this run draws of most laws (tests/conftest.py)."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")

SEED: str | None = None
"""The seed that this run was given (`make test SEED=n`), set by tests/conftest.py."""


def pick(n: int, *words: object) -> int:
    """A number from 0 below ``n`` for the case called ``words``, drawn afresh in each run, or from its seed."""
    return Random(None if SEED is None else f"{SEED} {words}").randrange(n)


def some(cases: Sequence[T], of: int, *words: object) -> list[T]:
    """One in ``of`` cases, drawn for the test called ``words``: each run takes others, and `make seeds` all but few."""
    parts = [cases[start : start + of] for start in range(0, len(cases), of)]
    return [part[pick(len(part), start, *words)] for start, part in enumerate(parts)]


def draws(share: float) -> settings:
    """Settings for a law that takes ``1 / share`` times as long as most."""
    return settings(max_examples=max(1, round(share * settings().max_examples)))
