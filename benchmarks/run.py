"""Speed of the compiler, as ratios within one run: ``make bench``.

Times are medians of several runs. A ratio compares two times from the same machine and run, so it says more than either
time. Each line ends with its target. Cold starts take turns with `import numpy`, and count processor seconds: other
load on the machine then affects both alike.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.editing import main as editing
from benchmarks.simulations import main as simulations
from plandsl.backends.cost.time.trace import trace
from plandsl.driver import compile_file, compile_text, open_text
from plandsl.grammar.parse import parse
from plandsl.playground.answers import answer
from plandsl.searches.run import Compiler, Run
from plandsl.spec.search import SearchSpec

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "llama3_70b.plan"


NUMPY = ("-c", "import numpy")
"""What a cold start is compared with."""


def spent(*arguments: str) -> float:
    """Seconds that a cold Python process keeps the processor busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, cwd=ROOT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 1), done.stderr.decode()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cold(what: str, *arguments: str, target: str = "", runs: int = 15) -> float:
    """Print the row of a cold process, run in turns with `NUMPY`; gives the median seconds of the latter.

    The first turn, which fills the caches of the disk, is not counted.
    """
    turns = [(spent(*NUMPY), spent(*arguments)) for _ in range(runs + 1)][1:]
    numpy_import = statistics.median(base for base, _ in turns)
    ratio = statistics.median(own / base for base, own in turns)
    line(what, ratio * numpy_import, numpy_import, "import numpy", target)
    return numpy_import


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
    print(f"{'what':<46}{'median':>13}{'ratio':>10}")
    numpy_import = cold("python -c pass", "-c", "pass")
    line("python -c 'import numpy'", numpy_import, numpy_import, "itself", "")
    cold("planc --version", "-m", "plandsl", "--version")
    cold("planc check", "-m", "plandsl", "check", str(EXAMPLE))
    cold("planc compile, one plan", *compile_one, target="target <= 1.4")
    cold("planc compile --json, one plan", *compile_one, "--json", target="target <= 1.1")

    text = EXAMPLE.read_text(encoding="utf-8")
    (plan,) = compile_file(EXAMPLE, "hybrid")
    full = warm(lambda: compile_file(EXAMPLE, "hybrid")[0].estimate())
    line("compile and estimate, warm", full, numpy_import, "import numpy", "target < 20 ms")
    line("of it, parsing the file", warm(lambda: parse(text, "x.plan")), full, "the whole", "")
    line("of it, the estimate", warm(plan.estimate), full, "the whole", "")
    typed = count(1)
    small = warm(lambda: compile_text(SMALL.replace("BATCH", str(next(typed))))[0].estimate())
    line("a small plan, with another batch each time", small, numpy_import, "import numpy", "target <= 2 ms")
    one = warm(lambda: plan.cost.evaluate(batch=96), 200)
    line("another batch, warm", one, full, "compile and estimate", "target <= 0.06 ms")
    batches = np.arange(1, 10_001)
    many = warm(lambda: plan.cost.evaluate(batch=batches), 20) / len(batches)
    line("another batch, in an array of 10,000", many, one, "one by one", "")
    under_load()
    playground(text, full)
    editing()
    search_rates(one)
    simulations()


def playground(text: str, full: float) -> None:
    """Print what a key in the playground takes, in its worker: a file of three plans, of which one is shown."""
    versions = [text.replace("batch = 64", f"batch = {batch}") for batch in range(65, 700)]
    chosen = iter([json.dumps({"text": version, "plan": "hybrid"}).encode() for version in versions])
    edit = warm(lambda: answer("estimate", next(chosen), 60.0))
    line("playground, an edit to its answer", edit, full, "compile and estimate", "target <= 1.5")
    spaces = iter([json.dumps({"text": text + "\n" * n, "plan": "hybrid"}).encode() for n in range(1, 600)])
    same = warm(lambda: answer("estimate", next(spaces), 60.0))
    line("playground, an edit of white space", same, full, "compile and estimate", "")


def under_load() -> None:
    """Print what planc takes from its start for plans whose requests arrive over time."""
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    experts = (ROOT / "plandsl" / "catalog" / "models" / "qwen3_30b_a3b.plan").read_text("utf-8")
    varying = experts.replace("top_k = 8", "top_k = 8, imbalance = lognormal(mean = 1.2, p95 = 1.6)")
    texts = {"pools": varying.replace("model qwen3_30b_a3b", "model q") + POOLS, "chat": CHAT}
    for name, text in texts.items():
        (folder / f"{name}.plan").write_text(text)
    pools, chat = (str(folder / f"{name}.plan") for name in texts)
    compare = ("-m", "plandsl", "compare", chat, str(ROOT / "tests" / "bench" / "vllm_32.json"))
    cold("planc compile, two pools under load", "-m", "plandsl", "compile", pools, target="target < 2 s", runs=3)
    cold("planc compare, a run of a benchmark", *compare, target="target < 2 s", runs=3)


POOLS = """
plan pools {
  model = q
  engine = vllm
  prefill { node = h100_4, sharding { ep = 4 } }
  decode { node = h100_8, sharding { ep = 8 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
  workload { input = lognormal(mean = 900, p95 = 3200), output = 180, rate = 4 req/s, requests = 500 }
}
"""

CHAT = """plan chat {
  model = llama_3_1_8b
  node = h100_1
  engine = vllm
  workload { input = 1024, output = 128, concurrency = 32 }
}
"""

SMALL = """plan small {
  model = llama_3_1_8b
  node = h100_8
  sharding { tp = 2 }
  workload { batch = BATCH, input = 1024, output = 128 }
}
"""

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


def search_rates(one: float) -> None:
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
    cold("planc search, the default space", "-m", "plandsl", "search", str(default), target="target < 2 s", runs=3)


DEFAULT = "  workload { input = 4096, output = 512 }\n  require tpot <= 50 ms\n}\n"


def bare(search: SearchSpec) -> float:
    """Seconds per configuration when numpy evaluates only the formulas, as straight code."""
    run = Run(search)
    compiler, jobs = Compiler(), list(run.jobs())
    calls = []
    for job in jobs:
        cost = compiler.compile(job.plan).cost
        code = trace(lambda *n, cost=cost: cost.together(*n)[:9], "b", "i", "o", arrays=True)
        calls.append((code, tuple(job.grid.loads(job.slab).values())))
    start = time.perf_counter()
    for code, loads in calls:
        code(*loads)
    return (time.perf_counter() - start) / sum(job.size for job in jobs)


if __name__ == "__main__":
    main()
