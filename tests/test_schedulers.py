"""Schedulers and routers in the language: what a plan may say of them, and that it reaches the simulation."""

from __future__ import annotations

from functools import cache

import attrs
import pytest
from attrs import evolve
from hypothesis import given

from plandsl.backends.cost.deployments.build import build_replicas
from plandsl.backends.cost.serving.serve import policy
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, open_text
from plandsl.show_engine import show_engine
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.scheduler import LIMITS, ROUTERS, SchedulerSpec
from plandsl.testing.traffic import schedulers

POLICIES = {"vllm": Vllm, "sglang": Sglang, "trtllm": Trtllm}


@cache
def plan(engine: str = "engine = vllm", more: str = "", sharding: str = "dp = 2") -> CompiledPlan:
    load = "workload { input = 400, output = 20, rate = 40 req/s, requests = 80 }"
    head = f"model = llama_3_1_8b, node = h100_8, sharding {{ {sharding} }}, {engine}"
    (made,) = compile_text(f"plan p {{ {head}\n {load}\n {more} }}")
    return made


@given(schedulers())
def test_a_scheduler_is_read_as_it_is_shown(spec: SchedulerSpec) -> None:
    engine = EngineSpec("e", scheduler=spec)
    assert open_text(show_engine(engine)).spec("engine", "e").scheduler == spec


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_fields_of_the_policy_that_has_them(name: str) -> None:
    fields = attrs.fields_dict(POLICIES[name])
    for limit, kind in LIMITS[name].items():
        default = fields[limit].default
        assert isinstance(default, bool) == (kind.kind == "flag")
        assert isinstance(default, str) == (kind.kind == "word")
        assert kind.kind != "word" or kind.words[0] == default


@given(schedulers())
def test_a_policy_has_the_limits_that_its_engine_states(spec: SchedulerSpec) -> None:
    server = build_replicas(plan()).one
    engine = evolve(server.plan.effective_engine, scheduler=spec)
    made = policy(engine.scheduler_name, server.on(evolve(server.plan, engine=engine)))
    for limit, value in spec.limits:
        assert getattr(made, limit) == value


@pytest.mark.parametrize(("engine", "scheduler"), [("sglang", "sglang"), ("trtllm", "trtllm"), ("atom", "vllm")])
def test_an_engine_has_the_scheduler_of_its_kernels(engine: str, scheduler: str) -> None:
    assert plan(f"engine = {engine}").spec.effective_engine.scheduler_name == scheduler


def test_an_engine_may_name_another_scheduler() -> None:
    found = plan("engine = vllm with { scheduler = trtllm, room = max_utilisation }")
    assert found.simulate(5).simulation.scheduler == "trtllm"


def test_without_a_prefix_cache_nothing_is_found_again() -> None:
    load = "input = 200, output = 5, rate = 4 req/s, requests = 30; sessions { turns = 3, think = 1 s, system = 640 }"
    for found in ("true", "false"):
        (made,) = compile_text(
            f"plan p {{ model = llama_3_1_8b, node = h100_1, engine = vllm with {{ prefix_cache = {found} }}\n"
            f"workload {{ {load} }} }}"
        )
        assert made.simulate().records.cached.any() == (found == "true")


@pytest.mark.parametrize("router", ROUTERS)
def test_a_router_shares_requests_between_replicas(router: str) -> None:
    found = plan(more=f"router = {router}").simulate()
    assert found.simulation.router == router
    assert set(found.records.replica.tolist()) == {0, 1}


@pytest.mark.parametrize("router", ROUTERS)
def test_a_router_changes_nothing_of_one_replica(router: str) -> None:
    one, other = (plan(more=f"router = {r}", sharding="tp = 2").simulate(20) for r in ("round_robin", router))
    assert one.records.finish_s.tobytes() == other.records.finish_s.tobytes()


def test_an_estimate_knows_no_scheduler() -> None:
    load = "workload { input = 400, output = 20, batch = 4 }"
    engines = ("vllm", "vllm with { scheduler = sglang, conservativeness = 0.1, prefix_cache = false }")
    bare, other = (
        compile_text(f"plan p {{ model = llama_3_1_8b, node = h100_8, engine = {e}, router = {r}, {load} }}")[0]
        for e, r in zip(engines, ("round_robin", "prefix"), strict=True)
    )
    assert bare.estimate().as_json() == other.estimate().as_json()


@pytest.mark.parametrize(
    ("said", "code", "hint"),
    [
        ("engine = vllm with { scheduler = slang }", "E210", "did you mean `sglang`"),
        ("engine = sglang with { order = longest_prefx }", "E210", "did you mean `longest_prefix`"),
        ("engine = sglang with { watermark = 1 % }", "E229", "its limits are|known here"),
        ("engine = vllm with { room = no_evict }", "E229", ""),
        ("engine = vllm with { watermark = 100 % }", "E214", "`watermark = 1 %`"),
        ("engine = vllm with { watermak = 1 % }", "E206", "did you mean `watermark`"),
        ("engine = sglang with { max_joining = 0 }", "E214", ""),
        ("engine = trtllm with { equal = 3 }", "E210", ""),
        ("router = prefx", "E210", "did you mean `prefix`"),
        ("router = 3", "E210", ""),
    ],
)
def test_wrong_words_are_diagnosed(said: str, code: str, hint: str) -> None:
    with pytest.raises(PlanError) as found:
        plan(said)
    (wrong,) = found.value.diagnostics
    assert wrong.code == code
    assert wrong.span is not None
    assert any(word in (wrong.hint or "") for word in hint.split("|"))


def test_a_setting_reaches_the_engine(capsys, tmp_path) -> None:
    file = tmp_path / "a.plan"
    file.write_text(
        "plan p { model = llama_3_1_8b, node = h100_8, engine = vllm, sharding { dp = 2 }\n"
        "workload { input = 50, output = 2, rate = 9 req/s, requests = 9 } }\n"
    )
    said = ["--set", "engine.scheduler=sglang", "--set", "router=least_loaded"]
    assert main(["simulate", str(file), *said]) == 0
    out = capsys.readouterr().out
    assert "scheduler of SGLang" in out
    assert "(least_loaded)" in out
