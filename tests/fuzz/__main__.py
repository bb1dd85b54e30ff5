"""`python -m tests.fuzz`: see `--help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# before numpy is loaded: its threads take address space, which is fenced
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> int:
    """Run targets, or replay cases. Gives 1 if something was found."""
    from tests.fuzz.replay import replay
    from tests.fuzz.run import Runner
    from tests.fuzz.targets import TARGETS, load_product

    made = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the readers and the verbs of planc.")
    made.add_argument("targets", metavar="TARGET", nargs="*", help="only these, or verbs, or readers (default: all)")
    made.add_argument("--minutes", type=float, default=1.0, help="by the wall clock (default: 1)")
    made.add_argument("--cases", type=int, metavar="N", help="at most N cases of each target in this run")
    made.add_argument("--seed", default="0", help="of the cases that are drawn (default: 0)")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    made.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="(default: build/fuzz)")
    made.add_argument("--list", action="store_true", help="print the targets")
    made.add_argument("--report", action="store_true", help="print what all runs have done so far")
    made.add_argument("--replay", type=Path, metavar="CASE", nargs="+", help="run saved cases again")
    asked = made.parse_args()
    named = [t for t in TARGETS.values() if not asked.targets or {t.name, f"{t.kind}s"} & set(asked.targets)]
    unknown = set(asked.targets) - set(TARGETS) - {"verbs", "readers"}
    if unknown or not named:
        made.error(f"no such target: {', '.join(sorted(unknown))}; they are {', '.join(TARGETS)}")
    if asked.list:
        print("\n".join(f"{t.kind:7} {t.name}" for t in named))
        return 0
    load_product()
    if asked.replay:
        return max(replay(folder) for folder in asked.replay)
    runner = Runner(named, asked.folder.resolve(), asked.seed, asked.workers, say=lambda text: print(text, flush=True))
    before = {name: dict(tally.findings) for name, tally in runner.report.tallies.items()}
    if not asked.report:
        runner.run(60 * asked.minutes, asked.cases)
    print(runner.report.show([t.name for t in named]), end="")
    return int(any(runner.report.of(t.name).findings != before.get(t.name, {}) for t in named))


if __name__ == "__main__":
    sys.exit(main())
