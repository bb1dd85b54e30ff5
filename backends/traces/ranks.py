"""Which ranks a trace has: `--ranks`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.limits import help_for

ALL, STAGES, REPLICA = WORDS = ("all", "stages", "replica")
"""All ranks; the first rank of each stage of the first replica; all ranks of the first replica."""

HINT = "`--ranks` takes `all`, `stages` (the first rank of each stage), `replica` (the first copy), or `0..7,64`"


def choose_ranks(text: str, stages: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    """The ranks that ``text`` chooses, in order; ``stages`` has the ranks of each replica by stage.

    Raises `PlanError` (E510) for another text, and for ranks that the plan does not have.
    """
    every = sorted(rank for replicas in stages for ranks in replicas for rank in ranks)
    if text == ALL:
        return every
    if text == STAGES:
        return sorted(replicas[0][0] for replicas in stages)
    if text == REPLICA:
        return sorted(rank for replicas in stages for rank in replicas[0])
    found: set[int] = set()
    for part in text.split(","):
        read = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", part.strip())
        if read is None:
            raise PlanError([Diagnostic("E510", f"`--ranks {text[:60]}` names no ranks", hint=HINT)])
        first, last = int(read[1]), int(read[2] or read[1])
        if first > last or last >= len(every):
            why = f"`--ranks {text[:60]}`: the plan has the ranks 0..{len(every) - 1}, not {part.strip()}"
            raise PlanError([Diagnostic("E510", why, hint=HINT)])
        found |= set(range(first, last + 1))
    return sorted(found)


def check_size(what: str, number: int, most: int, hint: str) -> None:
    """Raise `PlanError` (E511) where a trace would have more than ``most`` events."""
    if number > most:
        why = f"the trace has {number:,} {what}, and at most {most:,} are written"
        raise PlanError([Diagnostic("E511", why, hint=help_for(most, hint, number))])
