"""How many examples a law draws: a share of what the profile of this run draws of most laws (tests/conftest.py)."""

from hypothesis import settings


def draws(share: float) -> settings:
    """Settings for a law that takes ``1 / share`` times as long as most."""
    return settings(max_examples=max(1, round(share * settings().max_examples)))
