"""Draws what verbs read beside plans: tables of measurements, results of benchmarks, launch commands of engines."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from plandsl.measurements import AT_MOST
from tests.fuzz.plans import Files
from tests.tables import WHOLE

ROOT = Path(__file__).resolve().parents[2]

# ---- measurements


SMALLER = frozenset(column for column, _ in AT_MOST)

LESS = {"max_batch": 16, "mean_osl_tokens": 30}
"""In the place of what a row has: to simulate a batch of 4,096 takes seconds, as it should."""


def draw_table(random: Random, name: str, rows: int | None = None) -> bytes:
    """A file of measurements of one kind, its numbers drawn around those of a whole row."""
    header, row = WHOLE[name]
    out = io.StringIO()
    write = csv.writer(out, lineterminator=random.choice(("\n", "\n", "\r\n")))
    write.writerow(header)
    for _ in range(random.choice((1, 7, 10, 14)) if rows is None else rows):
        # a column that must be at most another one keeps its number
        cells = zip(header, row, strict=True)
        write.writerow([c if column in SMALLER else _near(str(LESS.get(column, c)), random) for column, c in cells])
    return out.getvalue().encode()


def _near(cell: str, random: Random) -> str:
    """The same cell, or a number that is near it."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    if number in (0.0, 1.0) or random.random() < 0.5:
        return cell
    times = random.choice((1, 1, 2, 4))
    return str(int(number) * times) if number.is_integer() else repr(number * random.uniform(0.5, 2))


QUICK = "mla"
"""The table whose rows are fitted in the least time: a fifth of that of experts."""

SERVERS = ("serving", "mlperf")
"""Files of measured servers, whose loads are simulated."""


def draw_tables(random: Random, fits: bool = False) -> Files:
    """A file or a few of them, each under the name of its kind. What ``fits`` has enough rows of kernels for a fit."""
    known = sorted(set(WHOLE).difference(SERVERS)) if fits and random.random() < 0.95 else sorted(WHOLE)
    names = random.sample(known, 1 if fits else random.choice((1, 1, 1, 2)))
    if fits and random.random() < 0.93:
        names = [QUICK]
    rows = random.choice((12, 12, 12, 14)) if fits and random.random() < 0.65 else None
    return {f"data/{name}.csv": draw_table(random, name, 1 if name in SERVERS else rows) for name in names}


# ---- results of benchmarks


@cache
def _benches() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((ROOT / "tests" / "bench").glob("*.json*"))}


def draw_bench(random: Random) -> tuple[str, bytes]:
    """The name and content of a result file: one of those of the tests, with other numbers."""
    name = random.choice(sorted(_benches()))
    content = _benches()[name]
    if random.random() < 0.4:
        return name, _fewer(content, random)
    try:
        lines = content.splitlines() if name.endswith("l") else [content]
        texts = [json.dumps(_shaken(_small(json.loads(line)), random)) for line in lines]
    except ValueError:
        return name, content
    return name, "\n".join(texts).encode()


def _fewer(content: bytes, random: Random) -> bytes:
    """The same run with few requests, which are served in a moment."""
    few = b"%d" % random.choice((4, 8, 16))
    for before in (b": 80", b": 320", b": 1280"):
        content = content.replace(before + b",", b": " + few + b",")
    return content


def _small(value: Any) -> Any:
    """Large counts of requests become small ones: each of them is served."""
    counts = ("num_prompts", "completed", "max_concurrency", "max_concurrent_requests")
    if isinstance(value, dict):
        return {key: min(x, 16) if key in counts and isinstance(x, int) else _small(x) for key, x in value.items()}
    return [_small(x) for x in value] if isinstance(value, list) else value


def _shaken(value: Any, random: Random) -> Any:
    """Some of the numbers of a document multiplied by a little."""
    if isinstance(value, dict):
        return {key: _shaken(x, random) for key, x in value.items()}
    if isinstance(value, list):
        return [_shaken(x, random) for x in value]
    if isinstance(value, float) and random.random() < 0.2:
        return value * random.uniform(0.5, 2)
    return value


# ---- launch commands

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen3-8B",
    "deepseek-ai/DeepSeek-V3",
    "nobody/knows",
)

FLAGS = {
    "vllm": (
        "--tensor-parallel-size 2", "-tp 4", "--pipeline-parallel-size 2", "--data-parallel-size 2",
        "--max-num-seqs 64",
        "--max-num-batched-tokens 2048", "--gpu-memory-utilization 0.9", "--kv-cache-dtype fp8", "--quantization fp8",
        "--max-model-len 4096", "--enable-expert-parallel", "--enable-prefix-caching", "--no-enable-prefix-caching",
        "--dtype bfloat16", "--block-size 16", "--port 8000", "--swap-space 4", "--enforce-eager",
        "--trust-remote-code",
        """--speculative-config '{"method": "ngram", "num_speculative_tokens": 3}'""", "--max-loras 4 --enable-lora",
    ),
    "sglang": (
        "--tp 2", "--dp-size 2", "--pp-size 2", "--mem-fraction-static 0.85", "--chunked-prefill-size 4096",
        "--max-running-requests 32",
        "--enable-dp-attention", "--quantization fp8", "--kv-cache-dtype fp8_e5m2", "--ep-size 2",
        "--context-length 4096",
        "--schedule-conservativeness 0.3", "--disable-radix-cache", "--host 0.0.0.0", "--page-size 64",
    ),
    "trtllm": (
        "--tp_size 2", "--pp_size 2", "--ep_size 2", "--max_batch_size 64", "--max_num_tokens 2048",
        "--kv_cache_free_gpu_memory_fraction 0.9",
        "--max_seq_len 4096", "--backend pytorch",
    ),
}  # fmt: skip

STARTS = {
    "vllm": "vllm serve {model}",
    "sglang": "python3 -m sglang.launch_server --model-path {model}",
    "trtllm": "trtllm-serve {model}",
}


def draw_command(random: Random) -> str:
    """A command line that starts an engine."""
    engine = random.choice(sorted(FLAGS))
    flags = random.sample(FLAGS[engine], random.choice((0, 1, 2, 3, 5)))
    return " ".join((STARTS[engine].format(model=random.choice(MODELS[:4] * 4 + MODELS)), *flags))


def draw_script(random: Random) -> bytes:
    """A script of a shell with one command or two."""
    lines = ["#!/bin/bash", "set -e", "export CUDA_VISIBLE_DEVICES=0,1"][: random.randint(0, 3)]
    for _ in range(random.choices((1, 2), (12, 1))[0]):
        command = draw_command(random)
        if random.random() < 0.5:
            command = command.replace(" --", " \\\n  --")
        lines.append(command + random.choice(("", " &", "  # why", "")))
    if random.random() < 0.3:
        lines.append("vllm bench serve --random-input-len 1000 --random-output-len 100 --num-prompts 64")
    return ("\n".join(lines) + "\n").encode()


def draw_manifest(random: Random) -> bytes:
    """A manifest of Kubernetes with one container."""
    words = draw_command(random).replace("'", "").split()
    listed = ", ".join(json.dumps(word) for word in words)
    return f"""apiVersion: apps/v1
kind: Deployment
metadata: {{ name: server }}
spec:
  replicas: {random.choice((1, 1, 2, 3))}
  selector: {{ matchLabels: {{ app: server }} }}
  template:
    metadata: {{ labels: {{ app: server }} }}
    spec:
      containers:
        - name: engine
          image: some/engine
          command: [{listed}]
          resources: {{ limits: {{ nvidia.com/gpu: {random.choice((1, 2, 4, 8))} }} }}
""".encode()
