"""A claim of a paper: the printed value, our value, and how far the two may differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

Value = bool | float | tuple[float, ...]
"""A statement that is true or false, a figure, or several."""


class Claim(NamedTuple):
    """``ours`` computes the ``printed`` value; each figure must agree within ``rel`` or ``abs``, whichever is wider.

    ``bound`` is "near", or "above" or "below" where our value must lie above or below the printed one. ``seen`` says
    whether a fit used the claim. ``gated`` is off where the paper contradicts itself, or claims less than the row.
    """

    name: str
    what: str
    printed: Value
    ours: Callable[[], Value]
    rel: float = 0.0
    abs: float = 0.0
    bound: str = "near"
    seen: str = ""
    gated: bool = True

    def holds(self, ours: Value) -> bool:
        """Whether the value ``ours`` agrees with the printed value."""
        return all(self._holds(a, b) for a, b in zip(_many(ours), _many(self.printed), strict=True))

    def _holds(self, ours: float, printed: float) -> bool:
        if self.bound == "above":
            return ours > printed
        if self.bound == "below":
            return ours <= printed
        return abs(ours - printed) <= max(self.abs, self.rel * abs(printed), 1e-9 * abs(printed))

    @property
    def allowed(self) -> str:
        """The tolerance, as text: empty for statements and bounds, and for rows that are not gated on one."""
        stated = any(isinstance(printed, bool) for printed in _many(self.printed))
        if self.bound != "near" or stated or not (self.gated or self.rel or self.abs):
            return ""
        parts = [f"{100 * self.rel:.3g}%"] * bool(self.rel) + [f"+-{self.abs:.3g}"] * bool(self.abs)
        return " or ".join(parts) or "exact"

    def off(self, ours: Value) -> float | None:
        """The largest relative difference; None for statements and bounds."""
        pairs = list(zip(_many(ours), _many(self.printed), strict=True))
        if self.bound != "near" or any(isinstance(b, bool) or b == 0 for _, b in pairs):
            return None
        return max((a / b - 1 for a, b in pairs), key=abs)


class Claims(list[Claim]):
    """Claims in the order they are declared."""

    def add(
        self,
        name: str,
        what: str,
        printed: Value = True,
        *,
        rel: float = 0.0,
        abs: float = 0.0,
        bound: str = "near",
        gated: bool = True,
    ) -> Callable[[Callable[[], Value]], Callable[[], Value]]:
        """Declare a claim by the function that computes it."""

        def keep(ours: Callable[[], Value]) -> Callable[[], Value]:
            self.append(Claim(name, what, printed, ours, rel=rel, abs=abs, bound=bound, gated=gated))
            return ours

        return keep


def _many(value: Value) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _text(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def show(value: Value) -> str:
    """The text of a value; more than four figures are cut."""
    texts = [_text(v) for v in _many(value)]
    return ", ".join(texts if len(texts) <= 4 else [*texts[:2], "..."])


def order(name: str) -> tuple[str, *tuple[int, ...]]:
    """A sort key that puts C2 before C10, and F2.9 before F2.10."""
    return name[0], *(int(part) for part in name[1:].split("."))


SIGNS = {"near": "", "above": "> ", "below": "<= "}


def _row(claim: Claim, ours: Value, width: int) -> str:
    verdict = "yes" if claim.holds(ours) else "NO"
    notes = ", ".join([verdict, *([claim.seen] if claim.seen else []), *([] if claim.gated else ["not gated"])])
    off = claim.off(ours)
    shown = "" if off is None else f"{100 * off:+.1f}%".replace("-0.0%", "+0.0%")
    claimed = SIGNS[claim.bound] + show(claim.printed)
    return f"{claim.name:<6}{claim.what:<{width}}{claimed:>24}{claim.allowed:>12}{show(ours):>24}{shown:>9}  {notes}"


def settle(claims: Iterable[Claim]) -> list[tuple[Claim, Value]]:
    """Every claim with our value, in the order of the names."""
    return [(c, c.ours()) for c in sorted(claims, key=lambda c: order(c.name))]


def table(found: list[tuple[Claim, Value]]) -> str:
    """A table with a line for each claim, claimed beside ours, and the count of gated claims that hold."""
    width = max(len(c.what) for c, _ in found) + 2
    head = f"{'claim':<6}{'what':<{width}}{'claimed':>24}{'tolerance':>12}{'ours':>24}{'off':>9}  within"
    verdicts = [c.holds(ours) for c, ours in found if c.gated]
    total = f"{sum(verdicts)} of {len(verdicts)} gated rows within their tolerance; {len(found) - len(verdicts)} more"
    return "\n".join([head, *(_row(c, ours, width) for c, ours in found), "", total])
