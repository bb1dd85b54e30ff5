"""Where each configuration of a search ended: on the front, beaten by one that is on it, or out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.searches.run import Found
from plandsl.searches.words import WORDS
from plandsl.values import sum_up


class Account(NamedTuple):
    """Counts of configurations, which add up to all that were evaluated.

    ``printed`` and ``hidden`` are on the front; ``beaten`` meet everything, but another is as good in all metrics of
    the front; ``unrated`` lack one of those metrics; ``missed`` are out, by the first reason.
    """

    printed: int
    hidden: int
    beaten: int
    unrated: int
    missed: tuple[tuple[str, int], ...]
    metrics: tuple[str, ...]

    @property
    def total(self) -> int:
        """All configurations."""
        front = self.printed + self.hidden
        return front + self.beaten + self.unrated + sum_up(count for _, count in self.missed)

    def lines(self) -> Iterator[tuple[str, int, str]]:
        """What became of configurations, how many, and why; the total at last."""
        metrics = ", ".join(WORDS.get(name, name) for name in self.metrics)
        evenly = " (those that are lie evenly over TPOT)" if self.printed else ""
        yield from (
            line
            for line in (
                ("front", self.printed, "printed above"),
                ("front", self.hidden, f"not printed{evenly}: --json has all"),
                ("beaten", self.beaten, f"one of the front is at least as good in all of {metrics}"),
                ("unrated", self.unrated, f"without one of {metrics}"),
                *(("out", count, reason) for reason, count in self.missed),
            )
            if line[1]
        )
        yield "all", self.total, ""


def account_for(found: Found, printed: int) -> Account:
    """The account of a search whose report prints so many configurations of the front."""
    tally = found.tally
    front = len(tally.front.numbers)
    return Account(
        printed=printed,
        hidden=front - printed,
        beaten=tally.met - front - tally.unrated,
        unrated=tally.unrated,
        missed=tuple(sorted(tally.missed.items(), key=lambda item: -item[1])),
        metrics=tuple(goal.metric for goal in tally.weighed),
    )
