"""`planc laws` and `plandsl.testing.laws`: laws by name, laws of one's own, and plans that break them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings

from plandsl.backends.cost.answers.lines import PhaseLines
from plandsl.backends.cost.deployments.memory import ProgramMemory
from plandsl.backends.cost.serving.records import Kept
from plandsl.backends.cost.time.phase import PhaseModel
from plandsl.backends.reference import collectives
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.spec.hardware import ClusterSpec
from plandsl.spec.plan import PlanSpec, ShardingSpec
from plandsl.testing import (
    DoesNotApply,
    LawBroken,
    clusters,
    compiled,
    laws,
    laws_machine,
    laws_models,
    laws_relations,
    laws_traffic,
    neighbours,
    plans,
    same,
    shardings,
)
from plandsl.testing.checked import Checked, checked_text
from plandsl.testing.known import LAWS, name_of
from plandsl.testing.reduce import reduce_plan, short_text

FEW = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))

LOAD = "workload { input = 64, output = 16, batch = 8 }"


def on_8(name: str, more: str = "") -> str:
    """A plan of two replicas, two stages and two tensor ranks, with further fields."""
    fields = f"model = llama_3_2_1b, node = h100_8, sharding {{ dp = 2, pp = 2, tp = 2 }}, {LOAD}"
    return f"plan {name} {{ {fields}{more} }}\n"


SERVE = on_8("serve")
KINDS = {
    "one": SERVE,
    "pools": on_8("two", ", prefill { batch = 2 }, decode { }, transfer { bandwidth = 50 GB/s, latency = 1 us }"),
    "shift": f"""sharding base {{ sp = 2 }}
      sharding wide {{ mesh seq = 2; heads, kv_heads, ffn, vocab -> seq }}
      plan shifting {{ model = llama_3_2_1b, node = h100_2, {LOAD}
      shift {{ base = base, tensor = wide, threshold = 16 }} }}""",
    "guesses": on_8("ahead", ", speculate { draft = none, tokens = 2, acceptance = 70 % }"),
    "traffic": """plan served { model = llama_3_2_1b, node = h100_2, sharding { tp = 2 }, engine = vllm
      workload { input = uniform(20, 90), output = 9, rate = 10 req/s, requests = 20, seed = 3 } }""",
    "cluster": f"""node home {{ gpu = h100_sxm, count = 2
        link {{ topology = switch, bandwidth = 450 GB/s, latency = 2 us }} }}
      cluster mesh {{ node = home, count = 4
        network {{ topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }} }}
      plan far {{ model = llama_3_2_1b, cluster = mesh, sharding {{ pp = 2, tp = 4 }}, {LOAD} }}""",
    "experts": f"plan routed {{ model = qwen3_30b_a3b, node = h100_8, sharding {{ ep = 4, tp = 2 }}, {LOAD} }}",
}


@cache
def plan_of(kind: str = "one") -> CompiledPlan:
    return compile_text(KINDS[kind])[0]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "serve.plan"
    path.write_text(SERVE, "utf-8")
    return str(path)


def planc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(["laws", *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@contextmanager
def sums_forget_a_rank() -> Iterator[None]:
    """Every all_reduce leaves out the last rank of its group."""
    real = collectives._group

    def short(rank: int, op: Any, x: Any, place: Any) -> list[int]:
        group = real(rank, op, x, place)
        return group[:-1] if op.keyword == "all_reduce" else group

    with patch.object(collectives, "_group", short):
        yield


@contextmanager
def caches_count_too_much() -> Iterator[None]:
    """The second stage is said to hold 1 % more KV cache than it does."""
    real = ProgramMemory.kv_per_request

    def more(self: ProgramMemory, stage: int, length: Any) -> Any:
        return real(self, stage, length) * (1.01 if stage else 1)

    with patch.object(ProgramMemory, "kv_per_request", more):
        yield


# ---- the command


def test_a_sound_plan_and_its_neighbours_keep_the_laws(capsys: pytest.CaptureFixture[str], file: str) -> None:
    status, out, err = planc(capsys, file, "--draws", "2", "--law", "memory-adds-up", "--law", "requests-pass-in-order")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[:2]] == [
        ["law", "plans", "neighbours"],
        ["memory-adds-up", "held", "held,", "2", "of", "2"],
    ]
    assert "requests-pass-in-order: its load is a batch that starts together, no requests over time" in out
    assert out.endswith("1 plan and 2 neighbours (seed 0): 1 law holds, 1 does not apply\n")


def test_the_list_has_every_law_and_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = planc(capsys, "--list")
    assert status == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [name_of(law) for law in LAWS]
    body = json.loads(planc(capsys, "--list", "--json")[1])
    assert len(body["laws"]) == len(LAWS)
    assert all(law["meaning"].endswith(".") for law in body["laws"])


def test_a_wrong_collective_is_shrunk_to_two_ranks(
    capsys: pytest.CaptureFixture[str], file: str, tmp_path: Path
) -> None:
    small = str(tmp_path / "small.plan")
    again = ("--law", "sharded-equals-unsharded", "--draws", "0")
    with sums_forget_a_rank():
        status, out, _ = planc(capsys, file, *again, "-o", small)
        assert status == 1
        assert "found     prefill is off by" in out
        assert f"wrote {small}; now: planc laws {small} --law sharded-equals-unsharded --draws 0" in out
        assert planc(capsys, small, *again)[0] == 1
    assert planc(capsys, small, *again)[0] == 0
    (found,) = compile_text(Path(small).read_text("utf-8"))
    assert [(axis.name, axis.size) for axis in found.spec.sharding.axes] == [("tensor", 2)]
    assert (found.spec.workload.batch, found.spec.workload.input, found.spec.workload.output) == (1, 1, 1)


def test_a_wrong_cost_is_shrunk_to_two_stages(capsys: pytest.CaptureFixture[str], file: str) -> None:
    with caches_count_too_much():
        status, out, _ = planc(capsys, file, "--law", "weights_and_cache_are_shared_out", "--draws", "0", "--json")
    body = json.loads(out)
    (law,) = body["plans"][0]["laws"]
    assert (status, body["ok"], law["status"]) == (1, False, "broken")
    assert law["broken"]["expected"] == law["meaning"]
    assert "pp = 2" in law["broken"]["plan"]
    assert "tp = " not in law["broken"]["plan"]


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["{file}", "--law", "shards-tile-each-tenser"], "E453", "did you mean `shards-tile-each-tensor`?"),
        ([], "E400", "planc laws FILE"),
        (["{file}", "--draws", "-1"], "E400", "help"),
        (["{file}", "--law", "no.py:law"], "E456", "--law FILE.py:FUNCTION"),
        (["{file}", "--law", "{own}:lew"], "E456", "did you mean `law`?"),
        (["{file}", "--law", "{wrong}:law"], "E456", "shows where it fails"),
        (["{file}", "--plan", "no"], "E201", "serve"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], code: str, hint: str, capsys: pytest.CaptureFixture[str], file: str, tmp_path: Path
) -> None:
    own, wrong = tmp_path / "own.py", tmp_path / "wrong.py"
    own.write_text("def law(plan):\n    pass\n", "utf-8")
    wrong.write_text("1 / 0\n", "utf-8")
    status, out, err = planc(capsys, *(a.format(file=file, own=own, wrong=wrong) for a in arguments))
    assert (status, out) == (2, "")
    assert f"error[{code}]" in err
    assert hint in err


def test_a_law_of_a_file(capsys: pytest.CaptureFixture[str], file: str, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text('def small(plan):\n    """Batches are small."""\n    assert plan.spec.workload.batch < 4\n', "utf-8")
    status, out, _ = planc(capsys, file, "--law", f"{own}:small", "--draws", "0")
    assert status == 1
    assert "expected  plan.spec.workload.batch < 4\n  found     plan.spec.workload.batch = 4\n" in out
    assert "batch = 4" in out.split("smallest")[1]


def test_without_hypothesis_the_plan_itself_is_checked(
    capsys: pytest.CaptureFixture[str], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    status, out, err = planc(capsys, file, "--law", "memory-adds-up")
    assert (status, err) == (0, "")
    assert out.endswith("1 plan: 1 law holds\nno neighbours were drawn: pip install 'plandsl[testing]'\n")
    status, out, err = planc(capsys, file, "--law", "memory-adds-up", "--draws", "4")
    assert status == 2
    assert "1 law holds" in out
    assert "error[E455]" in err


def test_reports_keep_to_60_columns() -> None:
    with caches_count_too_much():
        found = [laws.run(plan_of("one"), ["weights_and_cache_are_shared_out", "requests-pass-in-order"])]
    text = checked_text(found, 60)
    assert max(map(len, text.splitlines())) <= 60
    assert "BROKEN weights-and-cache-are-shared-out, by serve" in text


# ---- every kind of plan


@pytest.mark.parametrize("kind", ["pools", "traffic", "cluster", "experts"])
def test_every_law_says_whether_it_applies(kind: str) -> None:
    slow = {f"plandsl.testing.laws_{about}" for about in ("program", "cost", "growth", "text")}
    quick = [law for law in LAWS if law.__module__ not in slow]
    found = laws.run(plan_of(kind), quick)
    assert found.ok, str(found)
    for one in found.outcomes:
        assert one.status == ("does not apply" if one.why_not else "held")
        assert one.note is None or one.note.code == "N453"


@pytest.mark.parametrize(
    ("kind", "law", "how"),
    [
        ("pools", "memory-adds-up", ("each pool by itself",)),
        ("shift", "slots-take-turns", ("each sharding by itself",)),
        ("guesses", "slots-take-turns", ("without guesses",)),
        ("traffic", "memory-adds-up", ("at the mean of its load",)),
        ("one", "memory-adds-up", ()),
    ],
)
def test_a_law_tells_what_it_was_asked_of(kind: str, law: str, how: tuple[str, ...]) -> None:
    (found,) = laws.check(plan_of(kind), law)
    assert found.how == how


# ---- new laws fail where what they name breaks


def broken(law: Any, plan: CompiledPlan) -> str:
    with pytest.raises(AssertionError) as caught:
        law(plan)
    return str(caught.value)


def test_groups_that_overlap_are_found() -> None:
    with patch.object(laws_machine, "groups", lambda mesh, axis: [range(0, 2), range(1, mesh.ranks)]):
        assert "groups along" in broken(laws_machine.groups_partition_the_ranks, plan_of())


@pytest.mark.parametrize(
    ("field", "law"),
    [("wire", laws_machine.wire_bytes_follow_their_formulas), ("flops", laws_machine.no_kernel_beats_the_hardware)],
)
def test_lines_with_wrong_numbers_are_found(field: str, law: Any) -> None:
    real = PhaseLines.line

    def wrong(*given: Any) -> Any:
        line = real(*given)
        return evolve(line, **{field: getattr(line, field) * (1.25 if field == "wire" else 1000)})

    with patch.object(PhaseLines, "line", wrong):
        assert broken(law, plan_of())


def test_parts_of_memory_that_do_not_add_up_are_found() -> None:
    plan = plan_of()
    told = plan.closed_form()
    with patch.object(plan, "closed_form", lambda: told._replace(memory=told.memory._replace(weights=1.0))):
        assert "fullest" in broken(laws_machine.memory_adds_up, plan)


def test_adapters_that_cost_nothing_break_a_law() -> None:
    lora = "lora { adapters = 2, rank = 16, targets = [w_q] }"
    text = f"plan p {{ model = llama_3_1_8b with {{ {lora} }}, node = h100_1, sharding {{ tp = 1 }}\n"
    (plan,) = compile_text(text + "workload { input = 64, output = 8, batch = 2 } }")
    laws_relations.adapters_are_never_free(plan)
    taken = laws_relations._taken

    def free(spec: PlanSpec) -> tuple[float, float, float]:
        """The model without adapters takes a second more than with them."""
        ttft, tpot, weights = taken(spec)
        return ttft + (spec.model.lora is None), tpot, weights

    with patch.object(laws_relations, "_taken", free):
        assert "without adapters" in broken(laws_relations.adapters_are_never_free, plan)


def test_relations_see_what_differs() -> None:
    plan = plan_of()
    fewer: Any = lambda sharding: evolve(sharding, axes=sharding.axes[1:], replica_axes=())  # noqa: E731
    with patch.object(laws_relations, "_single", lambda s: evolve(fewer(s), rules=())):
        assert "replicas" in broken(laws_relations.replicas_change_nothing, plan)
    with patch.object(laws_relations, "_rename", fewer):
        assert "with other names" in broken(laws_relations.names_of_axes_change_nothing, plan)
    with patch.object(laws_relations, "LOST", -1.0):
        assert "of the throughput" in broken(laws_relations.more_requests_hardly_lower_throughput, plan)
    with sums_forget_a_rank():
        assert "off by" in broken(laws_relations.permuted_ranks_change_nothing, plan)


def test_laws_of_models_see_what_grows_and_what_is_told_of_output() -> None:
    load = "node = h100_1, workload { input = 64, output = 0, batch = 2 }"
    (texts,) = compile_text(f"plan texts {{ model = arctic_embed_m, {load} }}")
    told = texts.closed_form()
    with patch.object(texts, "closed_form", lambda: told._replace(text=0)):
        assert "speaks of output" in broken(laws_models.encoders_do_not_decode, texts)
    (states,) = compile_text(f"plan s {{ model = nemotron_3_nano_30b_a3b, {load.replace('= 0', '= 8')} }}")
    held = ProgramMemory.kv_per_request
    with patch.object(ProgramMemory, "kv_per_request", lambda self, stage, n: held(self, stage, n) + 0.001 * n**2):
        assert "bytes of states" in broken(laws_models.states_keep_their_size, states)
    grow: Any = lambda self, bind: lambda context: {run: [context] * len(works) for run, works in self.work.items()}  # noqa: E731
    with patch.object(PhaseModel, "seconds", grow):
        assert "depends on the context" in broken(laws_models.states_keep_their_size, states)


def test_requests_out_of_order_are_found() -> None:
    plan = plan_of("traffic")
    run = laws_traffic.serve_some(plan)
    records, steps = run.records, run.records.steps
    for law, wrong in (
        (laws_traffic.requests_pass_in_order, records._replace(first_s=records.arrival_s - 1)),
        (laws_traffic.every_request_gets_its_tokens, records._replace(output=records.output + 1)),
        (
            laws_traffic.servers_hold_what_their_requests_need,
            records._replace(trail=Kept(records.gaps, steps._replace(blocks=steps.blocks + run.blocks + 1))),
        ),
        (laws_traffic.one_seed_is_one_run, records._replace(finish_s=records.finish_s + 1)),
    ):
        with patch.object(laws_traffic, "serve_some", lambda plan, wrong=wrong: run._replace(records=wrong)):
            assert broken(law, plan)


# ---- laws of one's own


def test_a_law_of_ones_own_is_reduced_and_told() -> None:
    def batches_are_small(plan: CompiledPlan) -> None:
        """No batch has more than 5 requests."""
        assert plan.spec.workload.batch <= 5, f"{plan.spec.workload.batch} requests"

    with pytest.raises(LawBroken) as caught:
        laws.check(plan_of(), batches_are_small)
    assert (caught.value.law, caught.value.meaning) == ("batches-are-small", "No batch has more than 5 requests.")
    assert caught.value.breach.found == "6 requests"
    (found,) = compile_text(caught.value.breach.text)
    assert (found.spec.workload.batch, found.spec.ranks) == (6, 1)
    assert "expected  No batch has more than 5 requests." in str(caught.value)


def test_a_neighbour_that_breaks_a_law_is_told_by_what_it_changes() -> None:
    def no_more_than_here(plan: CompiledPlan) -> bool:
        return plan.spec.workload.batch <= 8

    found = laws.run(plan_of(), no_more_than_here, draws=4)
    (one,) = found.broken
    assert one.broken is not None
    assert any(field.startswith("workload.batch = ") for field in one.broken.changed)
    assert "batch = 9" in one.broken.text
    assert "BROKEN by 1" in str(found)


def test_what_a_law_may_do() -> None:
    def fails(plan: CompiledPlan) -> float:
        return 1 / (plan.spec.workload.batch - 8)

    def silent(plan: CompiledPlan) -> None:
        raise DoesNotApply("it is not about this")

    found = laws.run(plan_of(), [fails, silent, "memory_adds_up"])
    assert found["fails"].broken is not None
    assert found["fails"].broken.found == "the law raises ZeroDivisionError: division by zero"
    assert (found["silent"].status, found["silent"].why_not) == ("does not apply", "it is not about this")
    assert found["memory-adds-up"].status == "held"
    assert isinstance(found, Checked)
    with pytest.raises(KeyError):
        found["no"]


def test_laws_are_asked_of_plans_in_every_form(file: str) -> None:
    law = "memory-adds-up"
    (sharding,) = {plan_of().spec.sharding}
    for subject in (plan_of(), plan_of().spec, SERVE, file):
        assert laws.check(subject, law)[0].status == "held"
    assert laws.check(sharding, law, model="llama_3_2_1b", node=plan_of())[0].status == "held"
    with pytest.raises(PlanError, match="E454"):
        laws.check(3, law)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="E454"):
        laws.check(sharding, law)
    with pytest.raises(PlanError, match="E201"):
        laws.check(sharding, law, model="llama_3_2_1x", node="h100_8")


# ---- strategies and texts


@FEW
@given(sharding=shardings(model="llama_3_2_1b", node="h100_4"))
def test_shardings_take_names(sharding: ShardingSpec) -> None:
    assert sharding.ranks <= 4
    laws.check(sharding, "shards-tile-each-tensor", model="llama_3_2_1b", node="h100_4")


@FEW
@given(spec=plans(model="llama_3_2_1b", node=clusters()))
def test_plans_take_clusters(spec: PlanSpec) -> None:
    assert isinstance(spec.cluster, ClusterSpec)
    assert spec.sharding.ranks <= spec.gpus
    compiled(spec)


@pytest.mark.parametrize("kind", ["pools", "shift", "traffic"])
def test_neighbours_compile_on_the_same_machine(kind: str) -> None:
    home = plan_of(kind)

    @settings(FEW, max_examples=2)
    @given(near=neighbours(home))
    def look(near: PlanSpec) -> None:
        assert (near.model, near.node, near.cluster) == (home.spec.model, home.spec.node, home.spec.cluster)
        compiled(near)

    look()


@pytest.mark.parametrize("kind", ["pools", "traffic", "cluster"])
def test_short_texts_mean_the_same_and_name_what_ships(kind: str) -> None:
    spec = plan_of(kind).spec
    text = short_text(spec)
    (again,) = compile_text(text)
    assert same(again.spec, spec)
    assert not [line for line in text.splitlines() if line.startswith(("model", "gpu", "calibration", "engine"))]


def test_reduction_keeps_what_breaks_and_drops_the_rest() -> None:
    spec = plan_of("pools").spec
    found = reduce_plan(spec, lambda plan: plan.spec.sharding.axis("tensor") > 1)
    assert found.split is None
    assert [axis.name for axis in found.sharding.axes] == ["tensor"]
    both = reduce_plan(spec, lambda plan: plan.spec.split is not None)
    assert both.split is not None
    assert both.split.prefill.sharding.ranks == both.split.decode.sharding.ranks == 1
    assert reduce_plan(spec, lambda plan: False) == spec
