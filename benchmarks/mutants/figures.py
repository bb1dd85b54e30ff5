"""What a sample of mutants says: how many are killed, how many are called equivalent, and which survive."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.mutants.mutant import GROUPS, LEAST, Mutant
from benchmarks.mutants.session import Session

EQUIVALENT = Path("tests/equivalent_mutants.toml")
FIGURES = Path("benchmarks/mutants/figures.json")

COUNTS = ("drawn", "mutants", "killed", "equivalent")
"""What is counted of each group: mutants are those of the drawn ones that have a verdict."""

KILLED, CALLED_EQUIVALENT = 0.92, 0.05
"""The share of all mutants that is killed at least, and that is called equivalent at most."""


def equivalents(root: Path) -> dict[tuple[str, str, str], str]:
    """Why a mutant changes nothing that a caller sees, by its file and by the lines before and after."""
    found = tomllib.loads((root / EQUIVALENT).read_text(encoding="utf-8"))
    return {(m["file"], m["before"], m["after"]): m["why"] for m in found.get("mutant", ())}


def figures(root: Path, session: Session, seed: str) -> dict[str, Any]:
    """The figures of a session: by group and in all, with the mutants that survive."""
    called = equivalents(root)
    groups = {g: dict.fromkeys(COUNTS, 0) for g in GROUPS}
    survivors = []
    for m in session.mutants.values():
        counted, result = groups[m.group], session.results.get(m.name)
        counted["drawn"] += 1
        if result is None or not result.decided:
            continue
        counted["mutants"] += 1
        if result.killed:
            counted["killed"] += 1
        elif (m.file, m.before, m.after) in called:
            counted["equivalent"] += 1
        else:
            survivors.append(_survivor(m, result.passed))
    total = {key: sum(g[key] for g in groups.values()) for key in COUNTS}
    whole = total["mutants"] == len(session.mutants) and all(g["mutants"] >= LEAST for g in groups.values())
    holds = total["killed"] >= KILLED * total["mutants"] and total["equivalent"] <= CALLED_EQUIVALENT * total["mutants"]
    return {"seed": seed, "total": total, "groups": groups, "survivors": survivors, "holds": whole and holds}


def _survivor(m: Mutant, passed: int) -> dict[str, Any]:
    return {"file": m.file, "before": m.before, "after": m.after, "tests": passed}


def show(found: dict[str, Any]) -> str:
    """The figures as a table, and the survivors as lines of a diff."""
    heads = f"{'drawn':>7}{'tried':>7}{'killed':>8}{'share':>8}{'equivalent':>12}{'survive':>9}"
    rows = [f"{'mutants of seed ' + found['seed']:<22}{heads}"]
    for name, g in [*found["groups"].items(), ("all", found["total"])]:
        n, killed, equivalent = g["mutants"], g["killed"], g["equivalent"]
        share = f"{killed / n:.1%}" if n else "-"
        rows.append(f"{name:<22}{g['drawn']:>7}{n:>7}{killed:>8}{share:>8}{equivalent:>12}{n - killed - equivalent:>9}")
    for s in found["survivors"]:
        rows += [f"{s['file']}  ({s['tests']} tests pass)", *(f"- {x}" for x in s["before"].splitlines())]
        rows += [f"+ {x}" for x in s["after"].splitlines()]
    return "\n".join(rows)


def write(found: dict[str, Any]) -> None:
    """Keep the figures for `make quality`."""
    FIGURES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def last() -> dict[str, Any] | None:
    """The figures that were kept, if any."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else None
