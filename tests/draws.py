"""How many examples a law draws: a share of what the profile of this run draws of most laws (tests/conftest.py)."""

from random import Random

from hypothesis import settings

SEED: str | None = None
"""The seed that this run was given (`make test SEED=n`), set by tests/conftest.py."""


def pick(n: int, *words: object) -> int:
    """A number from 0 below ``n`` for the case called ``words``, drawn afresh in each run, or from its seed."""
    return Random(None if SEED is None else f"{SEED} {words}").randrange(n)


def draws(share: float) -> settings:
    """Settings for a law that takes ``1 / share`` times as long as most."""
    return settings(max_examples=max(1, round(share * settings().max_examples)))
