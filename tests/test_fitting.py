"""Notes on a load that leaves ranks without requests, and on an engine that was fitted on other GPUs."""

from __future__ import annotations

import pytest

from plandsl.driver import check_module, open_text

ON = """plan p {{ model = {model}, {home}, sharding {{ {sharding} }}, {engine}
  workload {{ input = 100, output = 10, {load} }} }}"""


def notes_on(load, sharding="dp = 4", model="llama_3_1_8b", home="node = h100_8", engine=""):
    text = ON.format(model=model, home=home, sharding=sharding, load=load, engine=engine and f"engine = {engine},")
    return {d.code: d.message for d in check_module(open_text(text))}


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ("concurrency = 3", "3 requests in flight for 4 replicas: 1 of them has none"),
        ("concurrency = 1", "1 request in flight for 4 replicas: 3 of them have none"),
        ("concurrency = 4", None), ("batch = 1", None), ("rate = 1 req/s, requests = 10", None),
    ],
)  # fmt: skip
def test_replicas_without_requests_are_noted(load, said):
    assert notes_on(load).get("N468") == said


@pytest.mark.parametrize(("batch", "idle"), [(1, 7), (7, 1), (8, 0), (9, 0)])
def test_ranks_without_a_part_of_the_batch_are_noted(batch, idle):
    said = notes_on(f"batch = {batch}", "ep = 8", "mixtral_8x7b").get("N468")
    assert (said is not None) == (idle > 0)
    assert said is None or f"{idle} of them ha" in said


@pytest.mark.parametrize(
    ("engine", "home", "noted"),
    [
        ("vllm", "node = mi325x_8", True), ("vllm", "node = h200_8", False), ("vllm", "node = l40s_8", False),
        ("atom", "node = h100_8", True), ("atom", "node = mi300x_8", False), ("vllm_rocm", "node = h100_8", True),
        ("sglang", "node = mi300x_8", False), ("sglang", "node = h100_8", False), ("", "node = mi300x_8", False),
        ("vllm", "node = h100_8 with { gpu = mi300x with { bandwidth = 5 TB/s } }", True),
    ],
)  # fmt: skip
def test_an_engine_of_another_vendor_is_noted(engine, home, noted):
    found = notes_on("batch = 8", "tp = 4", home=home, engine=engine)
    assert ("N469" in found) == noted


def test_every_gpu_of_the_catalog_has_a_vendor():
    from plandsl.grammar import catalog
    from plandsl.spec.origins import vendor_of

    assert all(vendor_of((name,)) for name in catalog.names("gpu"))
