"""The target that reads results of benchmarks, as `planc compare` does."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.after import assert_finite, seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.documents import shaken, spoiled
from tests.fuzz.mutate import mutate_one

BENCH = Path(__file__).resolve().parents[1] / "bench"
COUNTS = ("num_prompts", "completed", "max_concurrency", "max_concurrent_requests", "conc", "streams", "successful")


@cache
def _texts() -> tuple[str, ...]:
    """The runs of the files of the tests, one run a text."""
    found = []
    for path in sorted(BENCH.glob("*.json*")):
        text = path.read_text("utf-8")
        for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
            found.append(json.dumps(_small(json.loads(line))))
    return tuple(found)


def _small(value: Any) -> Any:
    """Few requests, and short lists of them."""
    if isinstance(value, dict):
        return {key: min(x, 8) if key in COUNTS and isinstance(x, int) else _small(x) for key, x in value.items()}
    return [_small(x) for x in value[:8]] if isinstance(value, list) else value


MORE = {
    "input_lens": [100, 200, 1], "output_lens": [10, 20, 1], "errors": ["", "", "x"], "burstiness": 0.5,
    "request_rate": "inf", "max_concurrency": 4, "dataset_name": "random", "random_input_len": 1000,
    "random_output_len": 100, "random_range_ratio": 0.5, "num_prefill_gpu": 4, "num_decode_gpu": 4, "disagg": "true",
    "label": "mine", "tp": 2, "num_gpus": 1,
}  # fmt: skip
"""Fields that a result may have besides."""


def _draw(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.15:
        return mutate_one(random, corpus)
    documents = []
    for _ in range(random.choice((1, 1, 1, 2))):
        document = shaken(json.loads(random.choice(_texts())), random, 0.2)
        if isinstance(document, dict):
            document |= {key: value for key, value in MORE.items() if random.random() < 0.05}
        documents.append(document)
    if len(documents) == 1:
        return Case({"b.json": spoiled(documents[0], random)})
    if random.random() < 0.5:
        return Case({"b.json": spoiled(documents, random)})
    return Case({"b.json": b"\n".join(spoiled(one, random) for one in documents)})


def _bench(case: Case) -> object:
    """Read the runs; draw the requests of each, and compare one with a plan now and then."""
    from plandsl.backends.compare.compare import read_runs
    from plandsl.backends.compare.loads import count_of, requests_of

    found = read_runs(["b.json"])
    for one in found:
        assert_finite([*one.measured.values(), one.rate, one.shape, one.input, one.output, *one.settings])
        assert 0 < one.requests <= 10**8
        assert one.clients >= 0
        assert one.cap >= 0
        assert one.failed >= 0
        if one.lengths_stated:
            assert all(1 <= length.mean <= 1e9 for length in (one.input, one.output)), (one.input, one.output)
            if count_of(one) <= 500:
                load = requests_of(_plan().spec, one, count_of(one))
                assert ((load.requests.input >= 1) & (load.requests.output >= 1)).all()
    if seldom(case.files["b.json"], 192) and all(one.requests <= 80 and one.output.mean < 300 for one in found):
        assert_finite(_plan().compare(["b.json"]).as_json())
    return len(found)


@cache
def _plan() -> Any:
    from plandsl.driver import compile_text

    return compile_text(PLAN)[0]


PLAN = """plan chat {
  model = llama_3_1_8b, node = h100_1, engine = vllm
  workload { input = 64, output = 16, concurrency = 8 }
}
"""

BENCHES = (Target("bench", "reader", _draw, _bench),)
