"""`make mutants [SAMPLE=400] [SEED=1]`: mutants of a seeded sample, and the tests that find them.

It reads what `make quality` recorded of the tests. A run that was stopped goes on where it stopped; ``--again`` tries
once more what survived. The figures go to benchmarks/mutants/figures.json, which `make quality` prints.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

from benchmarks.mutants.covering import Covering
from benchmarks.mutants.figures import figures, show, write
from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.places import drawn
from benchmarks.mutants.session import Session

HEAVY = ("attrs", "hypothesis", "lark", "numpy", "pytest", "rich", "scipy.optimize")
"""What tests need, loaded once and before any fork; nothing of plandsl, whose modules the mutants replace."""


def main() -> int:
    """Run the sample; 1 where too few mutants are killed."""
    parser = argparse.ArgumentParser(prog="benchmarks.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=90.0, help="CPU seconds of tests for a mutant")
    parser.add_argument("--covering", type=Path, default=Path("build/quality"))
    parser.add_argument("--folder", type=Path, default=Path("build/mutants"))
    parser.add_argument("--again", action="store_true", help="try what survived once more")
    parser.add_argument("--report", action="store_true", help="print what is known, and run nothing")
    args = parser.parse_args()

    root = Path.cwd()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # children end with their parent
    args.folder.mkdir(parents=True, exist_ok=True)
    mutants = drawn(root, args.sample, args.seed, args.folder)
    covering = Covering(args.covering, [m.file for m in mutants])
    session = Session(root, mutants, covering, args.folder / "results.jsonl", args.seconds)
    if not args.report:
        for module in HEAVY:
            importlib.import_module(module)
        waiting = session.waiting(again=args.again)
        print(f"{len(mutants)} mutants, {len(waiting)} to try", flush=True)
        with_functions_loaded(session, waiting, args.workers, again=args.again)
        session.imported(session.waiting(again=args.again), args.workers)
    found = figures(root, session, args.seed)
    print(show(found))
    write(found)
    return 0 if found["holds"] else 1


def with_functions_loaded(session: Session, waiting: list[Mutant], workers: int, *, again: bool) -> None:
    """Try mutants in a child, so that this process stays without the modules that they replace."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            session.loaded(waiting, workers, again=again)
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    if status:
        raise RuntimeError("the tests could not be loaded, or a trial fell over; see above")
    session.read()


if __name__ == "__main__":
    sys.exit(main())
