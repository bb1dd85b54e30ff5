"""The plan that an answer is about, which reports need; it is carried with the answer, and not compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from plandsl.spec.plan import PlanSpec


@frozen
class About:
    """The plan of an answer; None where nobody said. Two of them are always equal."""

    spec: PlanSpec | None = field(default=None, eq=False, repr=False)


NOBODY = About()
"""Of an answer that does not know its plan."""
