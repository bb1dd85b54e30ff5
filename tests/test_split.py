"""A pool of GPUs for each phase: what each holds and sustains, what passes between them, and one meaning of both."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from plandsl.backends.cost.deployments.pools import Pools
from plandsl.backends.cost.deployments.transfer import TransferTimes
from plandsl.backends.reference.cache import Cache, Whole
from plandsl.backends.reference.placement import Placement
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.program import Program
from plandsl.show import show_plan
from plandsl.testing import same

BARE = """
model bare {
  layers = 4, hidden = 64, ffn = 128, vocab = 1000, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] { x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden] }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""
LINK = "transfer { bandwidth = 50 GB/s, latency = 10 us }"
LOAD = "input = 4000, output = 300, batch = 64"


def text(prefill: str, decode: str, more: str = LINK, load: str = LOAD, model: str = "llama_3_1_70b") -> str:
    nodes = "" if "cluster" in more else "node = h100_8, "
    return (
        f"plan p {{ model = {model}, workload {{ {load} }}\n  prefill {{ {nodes}{prefill} }}\n"
        f"  decode {{ {nodes}{decode} }}\n  {more}\n}}\n"
    )


@cache
def split(
    prefill: str = "sharding { tp = 4, dp = 2 }, batch = 4", decode: str = "sharding { tp = 8 }", more: str = LINK,
    load: str = LOAD, model: str = "llama_3_1_70b",
) -> CompiledPlan:  # fmt: skip
    (made,) = compile_text(text(prefill, decode, more, load, model))
    return made


@cache
def alone(fields: str, load: str = LOAD, model: str = "llama_3_1_70b") -> CompiledPlan:
    (made,) = compile_text(f"plan p {{ model = {model}, node = h100_8, {fields}, workload {{ {load} }} }}")
    return made


def moved(made: CompiledPlan) -> TransferTimes:
    model = made.cost
    assert isinstance(model, Pools)
    load = model.plan.workload
    return model.batches(model.prefill.plan.workload.batch, load.batch, load.input, load.output).rates.moved


# ---- times


def test_the_first_token_is_that_of_the_prefill_pool_and_the_others_wait_for_the_cache() -> None:
    made = split().cost.evaluate()
    first = alone("sharding { tp = 4, dp = 2 }", "input = 4000, output = 300, batch = 4").cost.evaluate()
    then = alone("sharding { tp = 8 }").cost.evaluate()
    wait = moved(split()).exposed
    assert made.ttft == first.ttft
    assert made.tpot == pytest.approx(then.tpot + wait / 299, rel=1e-12)
    assert made.latency == pytest.approx(first.ttft + wait + 299 * then.tpot, rel=1e-12)


def test_the_rate_is_the_least_of_the_three() -> None:
    model = split().cost
    assert isinstance(model, Pools)
    metrics, rates = model.evaluate(), model.batches(4, 64, 4000, 300).rates
    assert rates.prefill == pytest.approx(2 * 4 / metrics.prefill.period)
    assert rates.decode == pytest.approx(64 / (metrics.latency - metrics.ttft))
    assert metrics.throughput == pytest.approx(300 * min(rates.prefill, rates.transfer, rates.decode))
    # a slow link takes over
    slow = split(more="transfer { bandwidth = 100 MB/s, latency = 10 us }")
    e = slow.estimate()
    assert e.pools.limit == "transfer"
    # two replicas of four ports each send 2 x 2 x 80 x 128 x 2 x 4000 bytes for each request
    assert e.throughput_tokens_per_s / 300 == pytest.approx(2 * 100e6 / (2 * 2 * 80 * 128 * 2 * 4000))


def test_pools_in_balance_limit_each_other_alike() -> None:
    e = split().estimate().pools
    ours, theirs = e.prefill.requests_per_s / 2, e.decode.requests_per_s / 1
    assert ours == pytest.approx(e.balance * theirs)


# ---- what is moved: bytes of one layer's keys and values of a token are 2 * 8 * 128 * 2 in all

TOKEN = 80 * 2 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("prefill", "decode", "sent", "received"),
    [
        ("tp = 4", "tp = 8", 1 / 4, 1 / 8),
        ("tp = 8", "tp = 2", 1 / 8, 1 / 2),
        ("tp = 2, pp = 2", "tp = 8", 1 / 4, 1 / 8),
        ("tp = 4", "pp = 4", 1 / 4, 1 / 4),
        ("dp = 2, tp = 4", "dp = 4, tp = 2", 1 / 4, 1 / 2),
        ("cp = 4, tp = 2", "tp = 8", 1 / 8, 1 / 8),
        ("sp = 8", "tp = 8", 1 / 8, 1 / 8),
    ],
)
def test_each_port_moves_its_part_of_the_cache(prefill: str, decode: str, sent: float, received: float) -> None:
    found = moved(split(f"sharding {{ {prefill} }}", f"sharding {{ {decode} }}", load="input = 4000, output = 9"))
    assert found.request == TOKEN * 4000
    assert found.sent == pytest.approx(TOKEN * 4000 * sent)
    assert found.received == pytest.approx(TOKEN * 4000 * received)
    assert found.seconds == pytest.approx(10e-6 + TOKEN * 4000 * max(sent, received) / 50e9)


def test_replicated_heads_travel_in_every_copy() -> None:
    big = "node = h100_8 with { count = 16 }, sharding { tp = 16 }"
    (made,) = compile_text(
        text("sharding { tp = 4 }", big, load="input = 4000, output = 9").replace("node = h100_8, n", "n")
    )
    found = moved(made)
    assert found.received == pytest.approx(TOKEN * 4000 / 8)  # one head each, though there are 16 ranks
    assert found.sent == pytest.approx(TOKEN * 4000 * 2 / 4)
    latent = moved(
        split("sharding { tp = 2 }", "sharding { tp = 8 }", load="input = 4000, output = 9", model="deepseek_v3")
    )
    whole = 61 * (512 + 64) * 2 * 4000  # every rank keeps all of a latent cache
    assert (latent.request, latent.received, latent.sent) == pytest.approx((whole, whole, whole * 8 / 2))


def test_requests_on_ranks_of_their_own_share_the_ports() -> None:
    found = split("sharding { ep = 4 }, batch = 8", "sharding { ep = 8 }", load=LOAD, model="mixtral_8x7b")
    assert moved(found).seconds == pytest.approx(10e-6 + 2 * 32 * 2 * 8 * 128 * 2 * 4000 / 50e9)


def test_a_window_bounds_what_travels() -> None:
    model = "gemma_2_27b"
    short, long = (moved(split(load=f"input = {n}, output = 9", model=model)).request for n in (4096, 8192))
    assert long == pytest.approx(1.5 * short)  # half of the layers keep 4096 tokens


def test_only_what_the_decode_pool_lacks_is_sent() -> None:
    own, shared = (moved(split(load=f"{LOAD}, reuse = 60 %, prefix = {p}")).request for p in ("own", "shared"))
    assert (own, shared) == (TOKEN * 4000, TOKEN * 1600)


def played(layers: int, compute: float, port: float) -> float:
    """Seconds after the last layer until all are sent, each as soon as it is computed and the port free."""
    free = 0.0
    for layer in range(1, layers + 1):
        free = max(free, layer * compute) + port
    return free - layers * compute


@pytest.mark.parametrize("bandwidth", ["50 GB/s", "2 GB/s", "0.2 GB/s"])
def test_layer_by_layer_only_what_is_late_shows(bandwidth: str) -> None:
    link = f"transfer {{ bandwidth = {bandwidth}, latency = 10 us }}\n kv_transfer = layerwise"
    made = split(more=link)
    found, prefill = moved(made), made.cost.evaluate().prefill.through
    late = played(80, prefill / 80, (found.seconds - 10e-6) / 80)
    assert found.exposed == pytest.approx(10e-6 + late, rel=1e-9)
    after = moved(split(more=link.replace("layerwise", "after")))
    assert after.exposed == after.seconds == found.seconds >= found.exposed


# ---- memory, arrays, forms


def test_each_pool_holds_what_it_needs_and_both_must_fit() -> None:
    e = split().estimate()
    first, second = e.pools.prefill.estimate, e.pools.decode.estimate
    assert first.memory.kv_cache == pytest.approx(2 * 4 * 4000 * TOKEN / 4)  # a batch, and one on its way
    assert second.memory.kv_cache == pytest.approx(64 * 4300 * TOKEN / 8)
    assert e.gpus == 16
    assert e.max_batch == second.max_batch
    crowded = split("sharding { tp = 4, dp = 2 }, batch = 400")
    assert not crowded.estimate().fits
    assert crowded.estimate().pools.decode.estimate.fits
    assert not crowded.cost.evaluate().fits


def test_arrays_equal_numbers() -> None:
    b, i, o = np.array([1, 64, 200]), np.array([100, 4000, 9000]), np.array([1, 300, 20])
    made = split("sharding { tp = 4, pp = 2 }, batch = 3", more=f"{LINK}\n kv_transfer = layerwise")
    many = made.cost.evaluate(b, i, o)
    for at in range(3):
        one = made.cost.evaluate(int(b[at]), int(i[at]), int(o[at]))
        for name in ("ttft", "tpot", "latency", "throughput", "memory", "max_batch", "fits"):
            assert getattr(many, name)[at] == pytest.approx(getattr(one, name), rel=1e-12), name


def test_parts_of_one_cluster_are_joined_by_its_network() -> None:
    pools = "nodes = 1, sharding { tp = 8 }", "nodes = 3, sharding { dp = 3, tp = 8 }"
    made = split(*pools, more="cluster = h100_8x4")
    e = made.estimate()
    assert (e.gpus, e.pools.sent.between, e.pools.sent.bandwidth) == (32, "h100_8x4", 50e9)
    linked = split(*pools, more=f"cluster = h100_8x4\n {LINK}")
    assert linked.estimate().pools.sent.between == ""


def test_a_pool_may_have_two_shardings_and_an_engine() -> None:
    made = split(
        "shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 256 }, batch = 4", more=f"{LINK}\n engine = vllm"
    )
    assert made.verify().ok
    assert made.estimate().engine == "vllm"


def test_prices_and_requirements_are_of_both_pools() -> None:
    more = f"{LINK}\n require cost <= 500 USD and memory <= 95 % and ttft <= 1 ms"
    pool = "node = h100_8 with {{ gpu {{ price = {} USD/h }} }}, sharding {{ tp = 8 }}"
    source = text(pool.format(2), pool.format(4), more).replace("node = h100_8, node", "node")
    (made,) = compile_text(source)
    e = made.estimate()
    assert e.cost_usd_per_mtok == pytest.approx((8 * 2 + 8 * 4) / 3600 / e.throughput_tokens_per_s * 1e6)
    assert [r.ok for r in e.requires] == [True, True, False]
    free = text("node = h20_8, sharding { tp = 8 }", "node = h20_8, sharding { tp = 8 }", more)
    with pytest.raises(PlanError) as caught:
        compile_text(free.replace("node = h100_8, node", "node"))
    assert {d.code for d in caught.value.diagnostics} == {"E309"}


def test_a_split_plan_reads_back() -> None:
    made = split(more=f"{LINK}\n kv_transfer = layerwise\n require ttft <= 9 s")
    (again,) = compile_text(show_plan(made.spec))
    assert evolve(again.spec.split.prefill.workload, name="w") == evolve(made.spec.split.prefill.workload, name="w")
    ours, theirs = again.cost.evaluate(), made.cost.evaluate()
    assert (ours.ttft, ours.tpot, ours.throughput, ours.memory) == (
        theirs.ttft, theirs.tpot, theirs.throughput, theirs.memory,
    )  # fmt: skip


GUESS = "speculate {{ draft = llama_3_2_1b, tokens = 3, acceptance = {} {} }}"


@pytest.mark.parametrize(
    ("prefill", "decode", "more"),
    [
        ("sharding { tp = 2 }", "sharding { tp = 8 }", GUESS.format("70 %", "")),
        (
            "sharding { tp = 2 }",
            f"sharding {{ tp = 8 }}, {GUESS.format('70 %', ', sharding { tp = 4 }')}",
            GUESS.format("70 %", ""),
        ),
        ("sharding { tp = 2 }", "sharding { tp = 8 }, speculate { tokens = 2, acceptance = 50 % }", ""),
    ],
)
def test_pools_that_guess_read_back_and_verify_the_draft_too(prefill: str, decode: str, more: str) -> None:
    made = split(prefill, decode, f"{LINK}\n {more}", model="llama_3_1_8b")
    assert made.verify().ok
    (again,) = compile_text(show_plan(made.spec))
    assert same(again.spec, made.spec)


def test_the_draft_of_each_pool_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft whose cache arrives in another order guesses from it."""
    made = split(
        "sharding { tp = 2 }", "sharding { tp = 4 }", f"{LINK}\n {GUESS.format('70 %', '')}", model="llama_3_1_8b"
    )
    whole = Cache.whole

    def broken(cache: Cache, program: Program, place: Placement) -> Whole:
        found = whole(cache, program, place)
        return {k: v[:, :, ::-1] for k, v in found.items()} if program.model == "llama_3_2_1b" else found

    monkeypatch.setattr(Cache, "whole", broken)
    verdict = made.verify()
    assert not verdict.ok
    assert verdict.where == "the draft's decode step 1"


def test_the_report_and_json_say_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.plan"
    file.write_text(text("sharding { tp = 4, dp = 2 }, batch = 4", "sharding { tp = 8 }"), encoding="utf-8")
    assert main(["compile", str(file), "--json", "--set", "prefill.batch=2"]) == 0
    body = json.loads(capsys.readouterr().out)["plans"][0]
    assert body["pools"]["prefill"]["batch"] == 2
    assert body["gpus"] == 16
    assert body["decode"]["time_s"] == body["tpot_s"]
    parts = [body["decode"][f"{n}_s"] for n in ("compute", "communication", "bubble", "engine", "waiting", "mixed")]
    assert sum(parts) == pytest.approx(body["tpot_s"])
    assert {"entry": "transfer", "field": "kv_transfer", "value": "after the prefill"} in body["assumed"]
    assert main(["compile", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "prefill limits; one prefill replica feeds" in shown
    for view, phase in (("devices", "prefill"), ("timeline", "decode"), ("memory", "prefill")):
        assert main(["render", str(file), "--view", view, "--phase", phase, "-o", str(tmp_path / "p.dot")]) == 0
    assert main(["compile", str(file), "--dump", "build", "--phase", "decode"]) == 0


# ---- meaning

LAYOUTS = [
    ("tp = 4, dp = 2", "tp = 8", "llama_3_1_8b"),
    ("cp = 2, tp = 2", "pp = 3, tp = 2", "llama_3_1_8b"),
    ("sp = 4", "dp = 2, tp = 2", "gemma_2_27b"),
    ("pp = 2, tp = 2", "cp = 4", "llama_3_1_8b"),
    ("tp = 8", "ep = 4, tp = 2", "mixtral_8x7b"),
    ("tp = 2", "tp = 4", "deepseek_v3"),
]


@pytest.mark.parametrize(("prefill", "decode", "model"), LAYOUTS)
def test_one_pool_goes_on_exactly_with_the_cache_of_the_other(prefill: str, decode: str, model: str) -> None:
    made = split(f"sharding {{ {prefill} }}", f"sharding {{ {decode} }}", load=LOAD, model=model)
    verdict = made.verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


def test_a_cache_that_is_handed_over_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = split("sharding { tp = 2 }", "sharding { tp = 4 }", model="llama_3_1_8b")
    whole = Cache.whole
    monkeypatch.setattr(Cache, "whole", lambda *args: {k: v[:, :, ::-1] for k, v in whole(*args).items()})
    assert not made.verify().ok


# ---- what cannot be meant


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        (text("sharding { tp = 8 }", "sharding { tp = 8 }", ""), ["E207"]),
        ("plan p { model = llama_3_1_8b, prefill { node = h100_8 }, workload { input = 9, output = 9 } }", ["E207"]),
        (
            f"plan p {{ model = llama_3_1_8b, node = h100_8, workload {{ input = 9, output = 9 }}\n {LINK} }}",
            ["E207"] * 2,
        ),
        (text("nodes = 3", "nodes = 2", "cluster = h100_8x4"), ["E321"]),
        (text("nodes = 3", "sharding { tp = 8 }", "cluster = h100_8x4"), ["E321"]),
        (text("nodes = 3", "sharding { tp = 8 }"), ["E321"]),
        (text("sharding { tp = 8 }", "model = llama_3_1_8b"), ["E322"]),
        (text("sharding { tp = 8 }", "workload { input = 9 }"), ["E322"]),
        (text("sharding { tp = 8 }", f"sharding {{ tp = 8 }}, {GUESS.format('70 %', '')}"), ["E322"]),
        (text("sharding { tp = 8 }", GUESS.format("70 %", ""), f"{LINK}\n {GUESS.format('60 %', '')}"), ["E322"]),
        (text("sharding { tp = 8 }", "model = llama_3_1_70b with { kv_cache = fp8 }"), ["E322"]),
        (BARE + text("", "", model="bare"), ["E322"]),
        (text("sharding { tp = 3 }", "sharding { tp = 8 }"), ["E301"]),
        (text("bach = 4", "sharding { tp = 8 }"), ["E206"]),
        (text("require ttft <= 1 s", "sharding { tp = 8 }"), ["E210"]),
        (text("", "", "transfer { bandwidth = 50 GB, latency = 1 us }"), ["E204"]),
        (text("", "", f"{LINK}\n kv_transfer = early"), ["E210"]),
    ],
)
def test_what_is_missing_or_wrong_is_said(source: str, codes: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        compile_text(source)
    found = caught.value.diagnostics
    assert [d.code for d in found] == codes
    assert all(d.span for d in found)
    assert all(d.hint for d in found if d.code != "E210")
