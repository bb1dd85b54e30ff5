"""Runs a saved case again, and says what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fuzz.case import load
from tests.fuzz.judge import Verdict, judge, scratch
from tests.fuzz.targets import TARGETS


def replay(folder: Path) -> int:
    """Print what comes of the case in ``folder``; gives 1 if it is a finding."""
    verdict = verdict_of(folder)
    print(f"{folder}: {verdict.kind} {verdict.why}  {verdict.spent.seconds:.2f} s, {verdict.spent.memory / 1e6:.0f} MB")
    if verdict.bad:
        print(verdict.detail)
    return int(verdict.bad)


def verdict_of(folder: Path) -> Verdict:
    """What comes of the case in ``folder``, which names its target."""
    folder = folder.resolve()
    target = TARGETS[json.loads((folder / "case.json").read_text("utf-8"))["target"]]
    with scratch():
        return judge(target, load(folder))
