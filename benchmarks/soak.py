"""Long runs and large inputs, each in a process of its own: ``make soak [PARTS="compiles threads"]``.

A row has the processor seconds and the peak memory of a part, and what it found: a ratio within one run, equal answers,
or a diagnostic. A part that finds something else is marked, and the exit status is then 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from pathlib import Path

from plandsl.cli import main as planc
from plandsl.driver import compile_text

ROOT = Path(__file__).resolve().parent.parent
KINDS = (
    "llama3_70b", "experts", "long_context", "speculate", "shift_llama_3_3_70b", "adapters", "sparse_attention",
    "unlike_gpus", "vision", "split_llama_3_3_70b",
)  # fmt: skip
"""Examples with a kind of deployment each."""

Found = tuple[str, bool]
"""What a part found, and whether that is as it should be."""


def example(name: str) -> str:
    """The text of an example."""
    return (ROOT / "examples" / f"{name}.plan").read_text("utf-8")


def resident() -> float:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run(*arguments: str) -> tuple[int, float, str]:
    """The status of a command, its processor seconds, and the first line of its diagnostics."""
    told = io.StringIO()
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        status = planc(arguments)
    return status, time.process_time() - start, told.getvalue().partition("\n")[0]


# ---- long runs


DENSE = """
model m {{
  layers = {layers}, hidden = {hidden}, heads = 8, kv_heads = 8, head_dim = 16, ffn = {ffn}, vocab = 1024
  weights = bf16, activations = bf16, kv_cache = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{
    h = rms_norm(x)
    k = h @ w_k[hidden, kv_heads, head_dim]
    x = x + attention(h @ w_q[hidden, heads, head_dim], k, k) @ w_o[heads, head_dim, hidden]
    x = x + silu(x @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }}
  head x @ w_head[hidden, vocab]
}}
plan p {{
  model = m, node = h100_8, sharding {{ tp = {tp}, pp = {pp} }}
  workload {{ input = {input}, output = {output}, batch = {batch} }}
}}
"""


def compiles(number: int = 10_000) -> Found:
    """Compile and estimate so many different plans in one process; memory at the end over that at two fifths."""
    rng, after = random.Random(1), 0.0
    for at in range(number):
        sizes = {name: rng.randint(1, 999) for name in ("input", "output", "batch")}
        text = DENSE.format(
            layers=rng.randint(4, 99), hidden=64 * rng.randint(1, 99), ffn=64 * rng.randint(1, 99),
            tp=rng.choice((1, 2)), pp=rng.choice((1, 2, 4)), **sizes,
        )  # fmt: skip
        compile_text(text)[0].estimate()
        if at == 2 * number // 5:
            after = resident()
    growth = resident() / after
    return f"{number:,} compiles: memory {growth:.3f} of that after {2 * number // 5:,}", growth <= 1.05


def answers(name: str) -> str:
    """Estimates and explanations of an example's plans."""
    plans = compile_text(example(name), f"{name}.plan")
    return json.dumps([[p.estimate().as_json(), p.explain().as_json()] for p in plans], sort_keys=True, default=str)


def threads(number: int = 8) -> Found:
    """So many threads ask different plans at once of cold caches; a process of its own asks one after another."""
    program = "import json; from benchmarks.soak import KINDS, answers; print(json.dumps([answers(k) for k in KINDS]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    wanted = dict(zip(KINDS, json.loads(done.stdout), strict=True))
    found: list[tuple[str, str]] = []
    start = threading.Barrier(number)

    def ask(own: int) -> None:
        order = random.Random(own).sample(KINDS, len(KINDS))
        start.wait()
        found.extend((name, answers(name)) for name in order)

    sys.setswitchinterval(1e-6)
    asking = [threading.Thread(target=ask, args=(own,)) for own in range(number)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    right = sum(wanted[name] == text for name, text in found)
    return f"{number} threads: {right} of {number * len(KINDS)} answers right", right == number * len(KINDS)


def day(rate: int = 20, hours: int = 24) -> Found:
    """Serve a day of a busy server, the rows into a file; memory beside that of an hour."""
    text = f"""plan p {{
      model = llama_3_1_8b, node = h100_1, engine = vllm
      workload {{ input = lognormal(mean = 400, p95 = 1200), output = lognormal(mean = 100, p95 = 300)
        rate = {rate} req/s, duration = {hours} h }}
    }}"""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "p.plan"
        plan.write_text(text)
        run("simulate", str(plan), "--set", "workload.duration=1 h", "--rows", f"{folder}/rows.csv")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        status, spent, _ = run("simulate", str(plan), "--rows", f"{folder}/rows.csv")
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / before
        with open(f"{folder}/rows.csv", "rb") as file:
            rows = sum(1 for _ in file) - 1
    return f"{hours} h at {rate} requests/s: {rows:,} requests in {spent:.0f} s, memory {growth:.2f} of an hour's", (
        not status and rows > 0.99 * rate * 3600 * hours
    )


# ---- large inputs: each verb answers, or a diagnostic says what to do


def verbs(text: str, asked: dict[str, tuple[str, ...]], most: str = "") -> Iterator[tuple[str, int, float, str]]:
    """The status, processor seconds and first diagnostic of each verb on a text."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "p.plan"
        plan.write_text(text)
        for verb, more in asked.items():
            given = (verb.split()[0], str(plan), *(word.replace("OUT", f"{folder}/out") for word in more))
            yield verb, *run(*given, *(("--max", most) if most else ()))


def tell(what: str, text: str, asked: dict[str, tuple[str, ...]], most: str = "") -> Found:
    """What `verbs` found, in a line."""
    found = list(verbs(text, asked, most))
    shown = [f"{verb} {spent:.1f} s" + (f" {said[5:12]}" if status == 2 else "") for verb, status, spent, said in found]
    return f"{what}: {', '.join(shown)}", all(status < 2 or said.startswith("error[E") for _, status, _, said in found)


def plans(number: int = 1_000) -> Found:
    """A file of so many plans, under a limit raised to them; without that a diagnostic names the limit."""
    text = "".join(
        f"plan p{n} {{ model = llama_3_2_1b, node = h100_8, sharding {{ tp = {(1, 2, 4, 8)[n % 4]} }}\n"
        f"  workload {{ input = {n + 1}, output = 9, batch = 8 }} }}\n"
        for n in range(number)
    )
    asked = {"check": (), "compile": ("--json",), "compile --plan": ("--plan", "p7"), "fmt": ("--check",)}
    found, good = tell(f"{number:,} plans", text, asked, f"plans={number}")
    refused = [said for *_, said in verbs(text, {"compile": ()})]
    return f"{found}; unless the limit is raised, {refused[0][:11]}", good and refused[0].startswith("error[E408]")


def candidates() -> Found:
    """A search of ten million configurations of a few plans."""
    text = """search s {
      model = llama_3_1_8b, node = h100_8
      workload { input = 1000, output = 100 }
      vary tp in [1, 2, 4, 8], batch in 1..500, input in 100..50_000 by + 100, output in 10..100 by + 10
      maximize throughput_per_gpu
    }"""
    return tell("10^7 candidates", text, {"search": ()})


RANKS = """plan p {
  model = llama_3_1_8b
  cluster { node = h100_8, count = 8192, network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us } }
  sharding { dp = 256, tp = 8, pp = 32 }
  engine = vllm
  workload { input = 1000, output = 100, batch = 65536 }
}"""
PICTURES = {
    f"render --view {view}": ("--view", view, "-o", "OUT.svg") for view in ("devices", "communication", "memory")
}
ASKED = {
    "check": (), "compile": (), "explain": (), "verify": (), "compare-comm": (),
    "report": ("-o", "OUT.html"), "export": ("--to", "perfetto", "-o", "OUT.json"), **PICTURES,
}  # fmt: skip


def ranks() -> Found:
    """65,536 ranks."""
    return tell("65,536 ranks", RANKS, ASKED)


def replicas() -> Found:
    """20,000 requests that are served by 65,536 replicas."""
    load = "rate = 20_000 req/s, requests = 20_000 }"
    text = RANKS.replace("dp = 256, tp = 8, pp = 32", "dp = 65536").replace("batch = 65536 }", load)
    return tell("65,536 replicas", text, {"simulate": ()})


def stages() -> Found:
    """10,000 stages of a layer each."""
    text = DENSE.format(layers=10_000, hidden=64, ffn=128, tp=1, pp=10_000, input=64, output=8, batch=4)
    node = "node n = h100_8 with { count = 10_000 }\n"
    text = node + text.replace("h100_8", "n")
    return tell("10,000 stages", text, ASKED)


def layers(number: int = 1_000) -> Found:
    """So many layers, each of a kind of its own."""
    block = """block b{at} [layers = {at}..{end}] x[tokens, hidden] {{
      k = x @ w_k[hidden, kv_heads, head_dim]
      x = x + attention(x @ w_q[hidden, heads, head_dim], k, k, window = {end}) @ w_o[heads, head_dim, hidden]
    }}
    """
    text = DENSE.format(layers=number, hidden=64, ffn=128, tp=1, pp=1, input=64, output=2 * number, batch=4)
    start, end = text.index("  block"), text.index("  head")
    blocks = "".join(block.format(at=at, end=at + 1) for at in range(number))
    text = (text[:start] + blocks + text[end:]).replace(" ffn = 128,", "")
    return tell(f"{number:,} unlike layers", text, {"check": (), "compile": (), "explain": ()})


COUNTED = """
model m = llama_3_2_1b with {
  experts = 8, expert_ffn = 64
  block x[tokens, hidden] {
    h = rms_norm(x)
    k = h @ w_k[hidden, kv_heads, head_dim]
    a = attention(h @ w_q[hidden, heads, head_dim], k, h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    y = experts(h, w_router[hidden, experts], top_k = 2, imbalance = zipf(0.6)) {
      silu(h @ w_up[hidden, expert_ffn]) @ w_down[expert_ffn, hidden]
    }
    x = x + y
  }
}
plan p {
  model = m, node = h100_8, engine = vllm, sharding { tp = 1, pp = 1, dp = 1 }
  workload { input = 1000, output = 100, LOAD }
}
"""
"""A plan in which most counts of the language have a place."""

LARGEST = {
    "batch": {
        "model.layers": 10_000, "model.heads": 10**9, "model.experts": 4096, "model.ffn": 10**9, "model.vocab": 10**9,
        "node.count": 65_536, "sharding.dp": 65_536, "sharding.pp": 8, "sharding.tp": 8, "workload.input": 10**9,
        "workload.output": 10**9, "workload.batch": 10**9, "workload.in_flight": 10**9, "chunked_prefill": 10**9,
        "step_tokens": 10**9, "engine.max_requests": 10**9, "micro_batches": 8, "chunks": 64,
        "engine.kv_block": 10**9,
    },
    "rate": {
        "workload.requests": 10**8, "workload.input": 10**9, "workload.output": 10**9, "workload.seed": 2**63 - 1,
        "workload.rate": "1e9 req/s", "workload.duration": "1e9 s", "node.count": 65_536, "sharding.dp": 65_536,
        "model.layers": 10_000, "engine.max_requests": 10**9, "engine.kv_block": 10**9,
    },
}  # fmt: skip
"""For each kind of load, counts of the language and the largest of their values."""

LOADS = {"batch": "batch = 8", "rate": "rate = 2 req/s, requests = 200"}


def counts(seconds: float = 2.0) -> Found:
    """Each count at its largest value, alone and in pairs: an answer or diagnostics, and the slowest."""
    slow, tried = [], 0
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "p.plan"
        for load, fields in LARGEST.items():
            plan.write_text(COUNTED.replace("LOAD", LOADS[load]))
            for one, other in combinations_with_replacement(fields, 2):
                given = [f"--set={name}={fields[name]}" for name in dict.fromkeys((one, other))]
                status, spent, _ = run("compile", str(plan), *given)
                tried += 1
                if spent > seconds or status not in (0, 1, 2):
                    slow.append((spent, f"{one} with {other} {spent:.1f} s"))
    worst = ", ".join(said for _, said in sorted(slow, reverse=True)[:8])
    return f"{tried} plans with counts at their largest: {len(slow)} took over {seconds:g} s {worst}", not slow


PARTS: dict[str, Callable[[], Found]] = {
    "counts": counts,
    "compiles": compiles, "threads": threads, "day": day, "plans": plans, "candidates": candidates, "ranks": ranks,
    "replicas": replicas, "stages": stages, "layers": layers,
}  # fmt: skip


def main(names: list[str]) -> int:
    """Run the parts, or those of some names, each in a process of its own; print a row for each."""
    failed = 0
    for name in names or PARTS:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.soak", "--part", name],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        said, _, peak = done.stdout.strip().rpartition("\t")
        failed += done.returncode != 0
        print(f"{'FAILED ' * (done.returncode != 0)}{name:11} {spent:6.0f} s  {peak or '?':>6} MB  {said}", flush=True)
        if done.returncode not in (0, 1) or not said:
            print(done.stderr, file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        shown, good = PARTS[sys.argv[2]]()
        print(f"{shown}\t{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
        sys.exit(0 if good else 1)
    sys.exit(main(sys.argv[1:]))
