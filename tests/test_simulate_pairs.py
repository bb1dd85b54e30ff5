"""Each kind of deployment with each scheduler and each other feature, two at a time, with a few requests each."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.testing import assert_law
from plandsl.testing.known import OF_TRAFFIC, name_of
from tests.draws import pick, some

MESH = "mesh own = 2, tensor = {tp}\n heads, ffn, vocab -> tensor\n batch -> own"

FEATURES: dict[str, dict[str, str]] = {
    # how steps are taken
    "shift": {"sharding": "shift"},
    "stages": {"sharding": "sharding { pp = 2, tp = 2 }"},
    "ranks": {"sharding": "sharding { " + MESH.format(tp=2) + " }"},
    "replicas": {"sharding": "sharding { dp = 2, tp = 2 }"},
    "lookup": {"speculate": "speculate { draft = none, tokens = 2, acceptance = 60 % }"},
    "draft": {"speculate": "speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 70 % }"},
    "chunks": {"chunked": "chunked_prefill = 256"},
    "pools": {"pools": "after"},
    "layerwise": {"pools": "layerwise"},
    # how an engine composes them
    "vllm": {"engine": "vllm"},
    "sglang": {"engine": "sglang"},
    "trtllm": {"engine": "trtllm"},
    "graphs": {"graphs": "graph_sizes = [1, 2, 4, 8]"},
    "priority": {"priority": "order = priority"},
    "no cache": {"cache": "prefix_cache = false"},
    # who gets a request, and which come
    "least loaded": {"router": "least_loaded"},
    "two choices": {"router": "two_choices"},
    "prefix": {"router": "prefix"},
    "affinity": {"router": "adapter"},
    "adapters": {"model": "lora { adapters = 2, rank = 8, targets = all, host_bandwidth = 25 GB/s }"},
    "closed": {"load": "concurrency = 4, requests = 12"},
}

SHIFT = "shift { base { sp = 4 }, tensor { tp = 4 }, threshold = 64 }"


def together(*names: str) -> dict[str, str] | None:
    """The fields of features; None where two of them set one field to unlike values."""
    said: dict[str, str] = {}
    for name in names:
        for field, value in FEATURES[name].items():
            if said.setdefault(field, value) != value:
                return None
    return None if said.get("engine") == "trtllm" and "priority" in said else said


def compiled(said: dict[str, str]) -> CompiledPlan:
    """A plan with some features: twelve requests of two classes."""
    limits = ", ".join(said[name] for name in ("graphs", "priority", "cache") if name in said)
    sharding = SHIFT if said.get("sharding") == "shift" else said.get("sharding", "sharding { tp = 2 }")
    named = ", adapters = uniform(1, 5)" if "model" in said else ""
    fields = [
        f"model = llama_3_1_8b with {{ {said.get('model', '')} }}",
        f"engine = {said.get('engine', 'vllm')} with {{ max_requests = 6, {limits} }}",
        f"router = {said.get('router', 'round_robin')}",
        *(said[name] for name in ("speculate",) if name in said),
        "workload { " + said.get("load", "rate = 60 req/s, requests = 12") + "\n"
        f"class chat {{ share = 60 %, input = uniform(100, 400), output = uniform(1, 9){named} }}\n"
        "class batch { share = 40 %, input = 600, output = 12, priority = 2 } }",
    ]
    own = f"node = h100_8, {sharding}"
    if "pools" in said:
        prefill = f"{own}, {said['chunked']}" if "chunked" in said else own
        fields += [f"prefill {{ {prefill} }}", f"decode {{ {own} }}", f"kv_transfer = {said['pools']}"]
        fields.append("transfer { bandwidth = 20 GB/s, latency = 10 us }")
    else:
        fields += [own, *([said["chunked"]] if "chunked" in said else [])]
    return compile_text("plan p {\n" + "\n".join(fields) + "\n}")[0]


NAMES = [names for n in (1, 2) for names in combinations(FEATURES, n) if together(*names)]
SHARES, DRAWN = 8, 4
"""The pairs in shares, and one of how many each run draws."""


@pytest.mark.parametrize("share", range(SHARES))
def test_each_pair_serves_its_requests(share: int) -> None:
    laws = sorted(OF_TRAFFIC, key=name_of)
    for names in some(NAMES[share::SHARES], DRAWN, share):
        said = together(*names)
        assert said is not None, "filtered"
        try:
            made = compiled(said)
            found = made.simulate()
        except PlanError as error:
            pytest.fail(f"{names}: {error}")
        assert_law(laws[pick(len(laws), share)], made)
        r, told = found.records, found.simulation
        assert r.served.all(), names
        assert (r.ttft_s > 0).all(), names
        assert (r.finish_s >= r.first_s).all(), names
        assert told.summary.served == 12, names
        steps = r.steps
        tokens = int((r.input - r.cached).sum())
        assert steps.prompt_tokens.sum() == tokens or r.preemptions.any(), names
        guesses = "speculate" in said
        pooled = "pools" in said
        assert (r.transfer_s is not None) == pooled, names
        if not guesses:
            assert steps.decodes.sum() == (r.output - 1).sum() or r.preemptions.any(), names
        else:
            assert steps.decodes.sum() <= (r.output - 1).sum(), names
        if pooled:
            assert (np.isnan(r.transfer_s) == (r.output == 1)).all(), names


def test_shift_parallelism_chooses_for_each_step() -> None:
    """Steps of few tokens take the time of one sharding, those of many that of the other."""
    made = compiled({"sharding": "shift"})
    base, tensor = (
        compiled({"sharding": f"sharding {{ {degree} = 4 }}"}).simulate().records.steps for degree in ("sp", "tp")
    )
    found = made.simulate().records.steps
    small = (found.prompt_tokens == 0) & (found.decodes == 1)
    large = found.prompt_tokens > 64
    assert small.any()
    assert large.any()

    def least(steps, which) -> float:
        return float((steps.end_s - steps.start_s)[which].min())

    few = [least(one, (one.prompt_tokens == 0) & (one.decodes == 1)) for one in (found, tensor, base)]
    assert few[0] == pytest.approx(few[1], rel=0.02)
    assert few[0] < 0.9 * few[2]
