"""Speed of the compiler, as ratios within one run: ``make bench``.

Times are medians of several runs. A ratio compares two times from the same machine and run, so it says more than either
time. Each line ends with its target.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plandsl.backends.cost.time.trace import traced
from plandsl.driver import compile_file, open_text
from plandsl.grammar.parse import parse
from plandsl.search.run import Compiler, Run
from plandsl.spec.search import SearchSpec

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "llama3_70b.plan"


def process(*arguments: str, runs: int = 15) -> float:
    """Median seconds of a cold Python process; the first run, which fills the disk cache, is not counted."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, cwd=ROOT, check=False)
        times.append(time.perf_counter() - start)
        assert done.returncode in (0, 1), done.stderr.decode()
    return statistics.median(times[1:])


def warm(call: Callable[[], object], runs: int = 50) -> float:
    """Median seconds of a call in this process, after a few that warm it up."""
    times = []
    for _ in range(runs + 5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


def line(what: str, seconds: float, base: float, of: str, target: str) -> None:
    """One row: the time, its ratio to ``base``, and the target."""
    print(f"{what:<46}{1e3 * seconds:>10.3f} ms{seconds / base:>10.3g} x {of:<22}{target}")


def main() -> None:
    """Print the table."""
    compile_one = ("-m", "plandsl", "compile", str(EXAMPLE), "--plan", "hybrid")
    numpy_import = process("-c", "import numpy")
    print(f"{'what':<46}{'median':>13}{'ratio':>10}")
    line("python -c 'import numpy'", numpy_import, numpy_import, "itself", "")
    line("python -c pass", process("-c", "pass"), numpy_import, "import numpy", "")
    line("planc --version", process("-m", "plandsl", "--version"), numpy_import, "import numpy", "")
    line("planc check", process("-m", "plandsl", "check", str(EXAMPLE)), numpy_import, "import numpy", "")
    line("planc compile, one plan", process(*compile_one), numpy_import, "import numpy", "target <= 2.5")
    line(
        "planc compile --json, one plan",
        process(*compile_one, "--json"),
        numpy_import,
        "import numpy",
        "target <= 2.5",
    )

    text = EXAMPLE.read_text(encoding="utf-8")
    (plan,) = compile_file(EXAMPLE, "hybrid")
    full = warm(lambda: compile_file(EXAMPLE, "hybrid")[0].estimate())
    line("compile and estimate, warm", full, numpy_import, "import numpy", "target < 20 ms")
    line("of it, parsing the file", warm(lambda: parse(text, "x.plan")), full, "the whole", "")
    line("of it, the estimate", warm(plan.estimate), full, "the whole", "")
    one = warm(lambda: plan.cost.evaluate(batch=96), 200)
    line("another batch, warm", one, full, "compile and estimate", "target <= 0.1 ms")
    batches = np.arange(1, 10_001)
    many = warm(lambda: plan.cost.evaluate(batch=batches), 20) / len(batches)
    line("another batch, in an array of 10,000", many, one, "one by one", "")
    search_rates(one, numpy_import)


MILLION = """
search million {
  model = llama_3_1_70b with { weights = fp8, kv_cache = fp8 }
  node = NODE
  vary tp in [1, 2, 4, 8], pp in [1, 2, 4, 8], dp in [1, 2, 4, 8]
  vary batch in 1..512 by * 2, input in 128..12800 by + 128, output in 8..800 by + 8
  where tp * pp * dp == 8
  require tpot <= 50 ms
  require ttft <= 5 s
}
"""


def search_rates(one: float, numpy_import: float) -> None:
    """Print the rate of a search over a million configurations, beside single evaluations and the formulas in numpy."""
    for node in ("mi325x_8", "h100_8"):
        search = open_text(MILLION.replace("NODE", node)).spec("search", "million")
        assert isinstance(search, SearchSpec)
        start = time.perf_counter()
        found = Run(search).run()
        took = time.perf_counter() - start
        each, count = took / found.tally.seen, found.tally.seen
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{count:,} configurations on {node}: {1 / each:,.0f}/s (target 500,000), at most {peak:.2f} GB held")
        line("  each of them", each, one, "one by one, warm", "")
        line("  each of them", each, bare(search), "bare numpy", "target <= 3")
    default = ROOT / "build" / "default.plan"
    default.parent.mkdir(exist_ok=True)
    default.write_text(MILLION.replace("NODE", "h100_8").partition("  vary")[0] + DEFAULT)
    cold = process("-m", "plandsl", "search", str(default), runs=3)
    line("planc search, cold, the default space", cold, numpy_import, "import numpy", "target < 2 s")


DEFAULT = "  workload { input = 4096, output = 512 }\n  require tpot <= 50 ms\n}\n"


def bare(search: SearchSpec) -> float:
    """Seconds per configuration when numpy evaluates only the formulas, as straight code."""
    run = Run(search)
    compiler, jobs = Compiler(), list(run.jobs())
    calls = []
    for job in jobs:
        cost = compiler.compile(job.plan).cost
        code = traced(lambda *n, cost=cost: cost.together(*n)[:9], "b", "i", "o", arrays=True)
        calls.append((code, tuple(job.grid.loads(job.slab).values())))
    start = time.perf_counter()
    for code, loads in calls:
        code(*loads)
    return (time.perf_counter() - start) / sum(job.size for job in jobs)


if __name__ == "__main__":
    main()
