"""`make quality`: how much of the product the tests run, by package, and what the last mutants said.

The tests of `make test` run under coverage, and those of extras, in parallel and in every process that a test starts.
Tests marked `slow` do not run: they ask more of the same code, and take hours under coverage. So the figures are lower
bounds. What is recorded says for each line which tests run it: `make mutants` chooses tests by that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from benchmarks.mutants import figures

FOLDER = Path("build/quality")

SETTINGS = "settings.toml"
"""The settings of coverage.py; it takes files whose names begin as that of its data for parts of these."""

LEAST = 0.95
"""The share of branches, and of lines and branches together, that tests run."""

RUNS = {
    "tests.xml": ("-m", "not release and not slow and not extras", "-n", "auto", "--dist", "loadgroup"),
    "tests-extras.xml": ("-m", "extras and not release and not slow", "-n", "auto", "--dist", "loadgroup"),
}
"""The report of each run of pytest, and its arguments."""


class Counted(NamedTuple):
    """Lines and branches of some files: all, and those that tests run."""

    lines: int = 0
    lines_run: int = 0
    branches: int = 0
    branches_run: int = 0

    @property
    def of_branches(self) -> float:
        """The share of branches that run."""
        return self.branches_run / self.branches if self.branches else 1.0

    @property
    def share(self) -> float:
        """The share of lines and branches that run, as coverage counts."""
        total = self.lines + self.branches
        return (self.lines_run + self.branches_run) / total if total else 1.0


def main() -> int:
    """Run the tests, print the figures; 1 where they are too low or a test fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__)
    parser.add_argument("--seed", default="1", help="the seed of what tests draw")
    parser.add_argument("--report", action="store_true", help="print what was recorded last, and run nothing")
    args = parser.parse_args()
    failed = [] if args.report else record(args.seed)
    counted = by_package(measured())
    print(show(counted))
    print()
    mutants = figures.last()
    print(figures.show(mutants) if mutants else "no mutants were tried yet: make mutants")
    for test in failed:
        print(f"failed: {test}", file=sys.stderr)
    return 1 if failed or not holds(counted) or mutants is None or not mutants["holds"] else 0


def record(seed: str) -> list[str]:
    """Run all tests under coverage; those that failed."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    config = FOLDER / SETTINGS
    config.write_text(settings(Path.cwd()), encoding="utf-8")
    failed = []
    for report, options in RUNS.items():
        pytest = ["-m", "pytest", "-q", *options, f"--hypothesis-seed={seed}", f"--junitxml={FOLDER / report}"]
        status = subprocess.call([sys.executable, "-m", "coverage", "run", f"--rcfile={config}", *pytest])
        failed += failures(FOLDER / report, status)
    subprocess.check_call([sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={config}"])
    return failed


def failures(report: Path, status: int) -> list[str]:
    """The tests that failed in a run of pytest, or how it ended where its ``report`` names none.

    ``status`` is the exit status of pytest: 0 if all tests passed, 5 if there was none.
    """
    found = []
    if report.exists():
        cases = ElementTree.parse(report).iter("testcase")
        found = [_name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return found or ([f"{report}: pytest ended with status {status}"] if status else [])


def _name(case: ElementTree.Element) -> str:
    """The test of a ``case``, as pytest takes it: where its module does not load, the case has no class."""
    module, _, kind = case.get("classname", "").partition(".Test")
    name = case.get("name", "")
    return f"{module.replace('.', '/')}.py::{f'Test{kind}::' if kind else ''}{name}" if module else name


def settings(root: Path) -> str:
    """The settings of pyproject.toml, for parallel runs that note which test runs a line, wherever they start."""
    tool = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]
    run = {
        **tool["run"],
        "source": [str(root / folder) for folder in tool["run"]["source"]],
        "data_file": str(root / FOLDER / "coverage"),
        "dynamic_context": "test_function",
        "parallel": True,
        "patch": ["subprocess"],
    }
    tables = {"run": run, "report": tool["report"]}
    lines = []
    for name, table in tables.items():
        lines += [f"[tool.coverage.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def measured() -> dict[str, Counted]:
    """What was recorded of each file, by its path below the checkout."""
    out, config = FOLDER / "coverage.json", FOLDER / SETTINGS
    coverage = [sys.executable, "-m", "coverage", "json", "-q", f"--rcfile={config}", "-o", str(out)]
    subprocess.check_call(coverage)
    found = {}
    for path, file in json.loads(out.read_text(encoding="utf-8"))["files"].items():
        s = file["summary"]
        below = Path(path).resolve().relative_to(Path.cwd()).as_posix()
        found[below] = Counted(
            s["num_statements"], s["covered_lines"], s.get("num_branches", 0), s.get("covered_branches", 0)
        )
    return found


def by_package(files: Mapping[str, Counted]) -> dict[str, Counted]:
    """The sums of each folder's own files, and of all under ``all``."""
    found: dict[str, list[Counted]] = defaultdict(list)
    for path, counted in files.items():
        found[str(Path(path).parent)].append(counted)
    return {**{name: total(found[name]) for name in sorted(found)}, "all": total(files.values())}


def total(parts: Iterable[Counted]) -> Counted:
    """The sum of counts."""
    return Counted(*map(sum, zip(*parts, strict=True)))


def holds(counted: Mapping[str, Counted]) -> bool:
    """Whether tests run enough of the product."""
    return counted["all"].of_branches >= LEAST and counted["all"].share >= LEAST


def show(counted: Mapping[str, Counted]) -> str:
    """The counts as a table."""
    rows = [f"{'package':<34}{'lines':>8}{'branches':>10}{'branches run':>14}{'lines and branches':>20}"]
    for name, c in counted.items():
        rows.append(f"{name:<34}{c.lines:>8}{c.branches:>10}{c.of_branches:>14.1%}{c.share:>20.1%}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
