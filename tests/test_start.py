"""What reports say of an engine's start, and the settings that are said to be enough where memory is too small."""

from __future__ import annotations

import json
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from plandsl.answers.text.estimate import print_estimate
from plandsl.backends.cost.answers.start import _lower_powers
from plandsl.backends.cost.serving.serve import blocks
from plandsl.cli import main
from plandsl.driver import CompiledPlan, compile_text

ENGINE = ", engine = vllm with { step_tokens = 8192, max_requests = 1024 }"
"""An engine with the limits of larger GPUs than the card."""

CARD = f"""
plan card {{
  model = llama_3_1_8b, node = h100_8 with {{ gpu {{ memory = 23.6 GiB }} }}{ENGINE}
  workload {{ input = 39_000, output = 1_000 }}
}}
"""


def show(made: CompiledPlan) -> str:
    """The report of a plan."""
    console = Console(file=StringIO(), width=120)
    print_estimate(made.spec, made.estimate(), console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@cache
def card(*settings: tuple[str, str]) -> CompiledPlan:
    """The plan with settings as for ``--set``."""
    return compile_text(CARD, overrides=settings)[0]


def test_every_setting_that_is_said_to_be_enough_is_enough() -> None:
    found = card().estimate()
    assert not found.fits
    assert [knob.path for knob in found.start.knobs] == [
        "engine.max_requests", "step_tokens", "memory_fraction", "model.kv_cache", "sharding.tp",
    ]  # fmt: skip
    for knob in found.start.knobs:
        again = card((knob.path, knob.value)).estimate()
        assert again.fits, knob
        assert again.start.kv_tokens == knob.kv_tokens, knob
        assert again.start.knobs == ()


@pytest.mark.parametrize(
    ("path", "less"), [("engine.max_requests", "1024"), ("step_tokens", "1024"), ("memory_fraction", "93 %")]
)
def test_less_of_a_setting_is_not_enough(path: str, less: str) -> None:
    """512 requests, steps of 512 tokens and 94 % are."""
    assert not card((path, less)).estimate().fits


def test_a_requirement_on_the_cache_asks_for_settings_too() -> None:
    text = CARD.replace("39_000", "9_000").replace("\n}", "\n  require kv_capacity >= 40_000\n}")
    fits = compile_text(text)[0].estimate()
    assert fits.fits
    assert not fits.requires[0].ok
    assert fits.start.knobs
    for knob in fits.start.knobs:
        assert knob.kv_tokens >= 40_000


def test_theory_and_the_engine_are_both_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "card.plan"
    file.write_text(CARD, encoding="utf-8")
    assert main(["compile", str(file)]) == 1
    text = capsys.readouterr().out
    for line in (
        "vllm starts with  4.14 GiB of KV cache on a GPU: 33.9 K tokens",
        "longest request   33,888 tokens, and this load has 40,000",
        "in theory         this load alone fits: ",
        "enough by itself  engine.max_requests = 512: 41.2 K tokens",
    ):
        assert line in text
    main(["compile", str(file), "--json"])
    start = json.loads(capsys.readouterr().out)["plans"][0]["start"]
    assert start["kv_tokens"] == start["longest_request_tokens"] == 33_888
    assert start["theory"]["fits"]
    assert start["fitted"]
    low, high = start["kv_tokens_band"]
    assert low < high
    assert start["enough"][0] == {"set": "engine.max_requests", "value": "512", "kv_tokens": 41_152}


def test_a_share_that_is_not_free_is_refused() -> None:
    """vLLM asks for its share of the whole device, of which a part is gone when it starts."""
    found = card(("memory_fraction", "99 %"), ("workload.input", "1000")).estimate()
    assert "is not free: at most 97.8 %" in found.start.refused
    assert not found.fits
    assert not card(("memory_fraction", "99 %"), ("workload.input", "1000")).cost.evaluate().fits
    knobs = {knob.path: knob.value for knob in found.start.knobs}
    assert knobs["memory_fraction"] == "97 %"


def test_a_start_that_is_refused_has_no_longest_request() -> None:
    made = card(("memory_fraction", "99 %"), ("workload.input", "1000"))
    assert "starts with  nothing: its share of 99.0 % is not free" in show(made)
    assert "longest request" not in show(made)
    assert "is not free: its process takes all memory" in show(card(("engine.context", "500 GB")))


def test_engines_without_logs_say_that_they_are_not_fitted() -> None:
    for name, fitted in (("vllm", True), ("sglang", False), ("trtllm", False), ("atom", False)):
        assert card(("engine", name)).estimate().start.fitted == fitted


def test_a_plan_without_an_engine_says_nothing_of_a_start() -> None:
    made = compile_text(CARD.replace(ENGINE, ""))[0].estimate()
    assert made.start is None
    assert "start" not in made.as_json()


def test_simulations_have_the_blocks_that_the_engine_starts_with() -> None:
    made = card()
    assert blocks(made.cost.pools[0].one, 40_000, 39_000) * 16 == made.estimate().start.kv_tokens
    assert made.cost.evaluate(input=3000, output=200).max_batch == made.estimate().start.kv_tokens // 16 // 200


def test_both_pools_say_what_they_start_with() -> None:
    text = """plan p {
      model = llama_3_1_8b, engine = vllm
      prefill { node = h100_1 }, decode { node = h100_1 }
      transfer { bandwidth = 20 GB/s, latency = 10 us }
      workload { input = 900, output = 100 }
    }"""
    (made,) = compile_text(text)
    told = made.estimate().as_json()["pools"]
    assert told["prefill"]["start"]["kv_tokens"] == told["decode"]["start"]["kv_tokens"] > 0
    for pool in ("prefill", "decode"):
        assert f"{pool}: vllm starts with" in show(made)


def test_a_pool_whose_engine_does_not_start_does_not_fit() -> None:
    text = """plan p {
      model = llama_3_1_8b, engine = vllm
      prefill { node = h100_1, memory_fraction = 100 %% }, decode { node = h100_1%s }
      transfer { bandwidth = 20 GB/s, latency = 10 us }
      workload { input = 900, output = 100 }
    }"""
    assert not compile_text(text % "")[0].estimate().fits
    assert compile_text(text.replace("100 %%", "90 %%") % "")[0].estimate().fits


@pytest.mark.parametrize("number", [1, 2, 3, 8, 9, 500])
@pytest.mark.parametrize("least", [1, 3, 8])
def test_less_of_a_setting_goes_down_by_powers_of_two(number: int, least: int) -> None:
    wanted = [2**k for k in range(20) if least <= 2**k < number]
    assert list(_lower_powers(number, least)) == wanted[::-1]


def test_no_request_is_longer_than_the_model_takes() -> None:
    (made,) = compile_text(CARD.replace("23.6 GiB", "79 GiB"))
    start = made.estimate().start
    assert start.longest > start.context == 131_072
    assert f"131,072 tokens, the model's most; the cache has room for one of {start.longest:,}" in show(made)


def test_tokens_are_those_of_a_replica_and_steps_as_long_as_chunks() -> None:
    text = CARD.replace(ENGINE, f"{ENGINE}, sharding {{ dp = 2 }}, chunked_prefill = 2048")
    (made,) = compile_text(text)
    found = made.estimate()
    assert found.kv_capacity_tokens == 2 * found.start.kv_tokens
    assert "tokens a replica (" in show(made)
    assert "steps of at most 2048 tokens" in show(made)
    assert "steps of at most 8192 tokens" in show(compile_text(text.replace(ENGINE, ""))[0])
