"""What comes of checking laws: typed results, their machine form, and the error that a broken law raises."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

from plandsl.diagnostics import Diagnostic


class Breach(NamedTuple):
    """How a law is broken: what was ``expected`` and ``found``, in the smallest plan that was found to break it.

    ``text`` is that plan as a `.plan` file. ``changed`` has the fields in which the plan that broke the law first
    differs from the user's; it is empty where the user's own plan did.
    """

    expected: str
    found: str
    text: str
    changed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The ``broken`` object of a law."""
        return {"expected": self.expected, "found": self.found, "plan": self.text, "changed": list(self.changed)}


class Outcome(NamedTuple):
    """What one law says of a plan, and of ``neighbours`` that were drawn: ``kept`` of them keep it.

    ``how`` says what the law was asked of where that is not the plan as it is. ``why_not`` is why the law does not
    apply to the plan; empty where it does.
    """

    law: str
    meaning: str
    how: tuple[str, ...] = ()
    why_not: str = ""
    neighbours: int = 0
    kept: int = 0
    broken: Breach | None = None

    @property
    def status(self) -> str:
        """``broken``, ``does not apply`` (to the plan, nor to any of its neighbours), or ``held``."""
        if self.broken is not None:
            return "broken"
        return "does not apply" if self.why_not and not self.kept else "held"

    @property
    def note(self) -> Diagnostic | None:
        """Why the law does not apply to the plan (N453); None where it does."""
        return Diagnostic("N453", f"`{self.law}` does not apply: {self.why_not}") if self.why_not else None

    def as_json(self) -> dict[str, Any]:
        """An entry of ``laws``."""
        out: dict[str, Any] = {"law": self.law, "meaning": self.meaning, "status": self.status}
        out |= {"asked": list(self.how)} if self.how else {}
        out |= {"neighbours": self.neighbours, "neighbours_kept": self.kept}
        out |= {"note": self.note.as_json()} if self.note else {}
        return out | ({"broken": self.broken.as_json()} if self.broken else {})


class LawBroken(AssertionError):
    """A plan breaks a law. Its text shows the smallest plan that was found to break it.

    That plan is looked for when the text is first asked for: Hypothesis raises many of these that nobody reads.
    """

    def __init__(self, law: str, meaning: str, look: Callable[[], Breach]) -> None:
        super().__init__(law)
        self.law, self.meaning, self._look = law, meaning, look

    @cached_property
    def breach(self) -> Breach:
        """What was expected and found, and the plan."""
        return self._look()

    def __str__(self) -> str:
        return f"the law `{self.law}` is broken\n" + breach_text(self.breach)


def breach_text(breach: Breach) -> str:
    """What was expected and found, and the plan, on lines of their own."""
    lines = [f"  expected  {breach.expected}", f"  found     {breach.found}"]
    lines += [f"  in        a neighbour: {', '.join(breach.changed)}"] if breach.changed else []
    plan = "".join(f"    {line}\n" if line else "\n" for line in breach.text.rstrip("\n").split("\n"))
    return "\n".join(lines) + f"\n  smallest plan that was found to break it:\n\n{plan}"
