"""What a pass is, and the check of the program that each pass makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from plandsl.ir.ops import Op
from plandsl.ir.program import Program, verify
from plandsl.ir.schedule import Schedule
from plandsl.spec.plan import PlanSpec

Run: TypeAlias = Callable[[Program, PlanSpec], "Program | Schedule"]
"""The signature of every pass. The first pass gets the empty program of a phase; the last pass makes a schedule."""


class Pass(NamedTuple):
    """One pass. ``leaves`` must be true of every op after this pass and after all later passes."""

    name: str
    run: Run
    why: str
    leaves: Callable[[Op], bool] | None = None

    @property
    def line(self) -> str:
        """The first line of the pass's docstring."""
        return (self.run.__doc__ or "").strip().split("\n")[0]


class PassError(Exception):
    """A pass made an unsound program. This is a bug of ours; the message shows the program before and after."""

    def __init__(self, name: str, findings: list[str], before: Program, after: Program) -> None:
        from plandsl.ir.text import show

        shown = f"\n--- before\n{show(before)}"
        super().__init__(f"pass {name}: " + "; ".join(findings) + shown + f"\n--- after\n{show(after)}")


def verify_result(step: Pass, before: Program, after: Program, promises: list[Pass]) -> Program:
    """``after``, if it is sound and keeps every promise. Only changed ops, and their regions, are checked.

    Raises `PassError` otherwise.
    """
    old = {r.name: r.ops for r in before.regions}
    changed = tuple(r for r in after.regions if old.get(r.name) is not r.ops)
    known = {id(op) for ops in old.values() for op in ops}
    findings = [d.message for d in verify(after, known, changed)] if changed else []
    for promise in promises:
        assert promise.leaves is not None
        findings += [
            f"{op.keyword} in {r.name} breaks the promise of {promise.name}"
            for r in changed
            for op in r.ops
            if not promise.leaves(op)
        ]
    if findings:
        raise PassError(step.name, findings, before, after)
    return after
