"""`planc diff A B`: what differs, and terms that add up to what comes of it."""

import json
from math import isclose
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given

from plandsl.cli import main
from plandsl.driver import compile_file, compile_text, difference
from plandsl.fields import changes, fields
from plandsl.spec.model import ADAPTERS, LORA_RANK
from plandsl.testing import compiled, plans
from tests.draws import draws, some

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "llama3_70b.plan"

PAIRS = """
plan static { model = llama_3_1_70b, node = h100_8, sharding { tp = 4, pp = 2 }
  workload { input = 2000, output = 300, batch = 8 } }
plan served { model = llama_3_1_70b, node = h100_8, sharding { tp = 4, pp = 2 }, engine = vllm
  workload { input = 2000, output = 300, concurrency = 100, requests = 500 } }
plan other { model = deepseek_v3 with { weights = fp8 }, cluster = h100_8x4, sharding { ep = 16 }
  workload { input = 2000, output = 300, batch = 64 } }
"""


def pairs():
    found = [*compile_text(PAIRS), *compile_file(ROOT / "examples" / "shift_llama_3_3_70b.plan", "shift")]
    return [(a, b) for a in found for b in found if a.name < b.name]


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main([str(a) for a in arguments])
    return status, *capsys.readouterr()


def adds_up(split):
    largest = max(split.before, split.after)
    for parts in (split.parts, split.groups):
        assert abs(sum(p.change for p in parts) - split.change) <= 1e-12 * largest, split.metric
        assert [abs(p.change) for p in parts] == sorted((abs(p.change) for p in parts), reverse=True)


def opposite(a, b):
    """Whether the difference the other way is the same with other signs."""
    for ours, theirs in zip(a.splits, b.splits, strict=True):
        there = {p[:4]: p for p in theirs.parts}
        assert (ours.before, ours.after) == (theirs.after, theirs.before)
        assert {p[:4] for p in ours.parts} == set(there)
        for p in ours.parts:
            assert isclose(p.change, -there[p[:4]].change, rel_tol=1e-9, abs_tol=1e-15 * max(ours.before, ours.after))
    changed = {c.path: (c.before, c.after) for c in a.changes if c.path != "calibration"}
    assert changed == {c.path: (c.after, c.before) for c in b.changes if c.path != "calibration"}


# ---- terms


@pytest.mark.parametrize("part", range(3))
def test_terms_add_up_to_the_difference_and_turn_round(part):
    for a, b in some(pairs()[part::3], 2, part):
        terms_add_up_and_turn_round(a, b)


def terms_add_up_and_turn_round(a, b):
    there, back = difference(a, b), difference(b, a)
    for split, name in zip(there.splits, ("ttft_s", "tpot_s", "throughput_tokens_per_s"), strict=False):
        assert isclose(split.change, getattr(b.estimate(), name) - getattr(a.estimate(), name), rel_tol=1e-9)
        adds_up(split)
    adds_up(there.memory)
    opposite(there, back)


@draws(1 / 2)  # each pair of plans is compared both ways
@given(plans(), plans())
def test_differences_of_drawn_plans_add_up(first, second):
    a, b = compiled(first), compiled(second)
    there = difference(a, b)
    for split in there.splits:
        adds_up(split)
    opposite(there, difference(b, a))


@given(plans())
def test_a_plan_does_not_differ_from_itself(spec):
    found = difference(compiled(spec), compiled(spec))
    assert found.changes == ()
    for split in found.splits:
        assert split.change == 0
        assert all(p.change == 0 and p.why == "" for p in split.parts)


def test_what_of_the_work_changed_is_told():
    plain, wide, slow = compile_text("""
      plan plain { model = llama_3_1_70b, node = h100_8, sharding { tp = 4 }, workload { input = 900, output = 90 } }
      plan wide = plain with { sharding { tp = 8 } }
      plan slow = plain with { node { gpu { compute { bf16 = 500 TFLOP/s } } } }""")
    why = {p.group: p.why for p in difference(plain, wide).ttft.groups}
    assert why["GEMMs"] == "0.5x the FLOPs"
    assert difference(plain, wide).tpot.groups[0].why.endswith("x the bytes")
    why = {p.group: p.why for p in difference(plain, slow).ttft.groups}
    assert why["GEMMs"].startswith("the same FLOPs take 1.")
    assert {p.why for p in difference(*compile_text(PAIRS)[:2]).ttft.groups} >= {"only after"}


def test_bands_tell_whether_a_difference_is_one():
    close, same, far = compile_text("""
      plan close { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, workload { input = 900, output = 90 } }
      plan same = close with { workload { input = 910, output = 90 } }
      plan far = close with { workload { input = 9000, output = 90 } }""")
    assert difference(close, same).ttft.alike is True
    assert difference(close, far).ttft.alike is False
    assert difference(close, far).memory.alike is None


# ---- declarations


def test_fields_are_paths_of_the_language():
    a, b = compile_file(EXAMPLE, "tensor_parallel")[0].spec, compile_file(EXAMPLE, "hybrid")[0].spec
    found = {c.path: (c.before, c.after) for c in changes(a, b)}
    assert found == {
        "sharding.tp": ("8", "4"),
        "sharding.pp": (None, "2"),
        "require tpot": ("<= 0.02 s", "<= 0.05 s"),
        "require ttft": (None, "<= 60 s"),
    }


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("workload.batch", "32", "32"),
        ("node.gpu.bandwidth", "7 TB/s", "7.00 TB/s"),
        ("node.gpu.bandwidth", "6.001 TB/s", "6001000000000 B/s"),  # as people read them, the two would be alike
        ("node.link.latency", "3 us", "3.00 us"),
        ("model.weights", "bf16", "bf16"),
        ("step_tokens", "4096", "4096"),
        ("engine", "vllm", "vllm"),
    ],
)
def test_what_set_changes_is_what_differs(path, value, shown):
    (a,) = compile_file(EXAMPLE, "hybrid")
    (b,) = compile_file(EXAMPLE, "hybrid", overrides=[(path, value)])
    found = {c.path: c.after for c in changes(a.spec, b.spec)}
    assert found[path] == shown
    assert len(found) == 1 or path == "engine"  # that brings a memory_fraction along


def test_names_stand_for_what_they_declare():
    a, b = (
        compile_text(PAIRS, plan="static")[0].spec,
        compile_text(PAIRS, plan="static", overrides=[("model", "qwen3_32b")])[0].spec,
    )
    paths = {c.path for c in changes(a, b)}
    assert {"model", "model.hidden", "model.layers"} <= paths
    assert not any(p.startswith(("model.block", "model.head ", "calibration.")) for p in paths)
    wide = evolve(a, calibration=a.calibration.placed_on(()))
    (only,) = changes(a, wide)
    assert only.path == "calibration"
    assert only.after.endswith("other constants")
    launch = tuple((n, v + 1e-6 if n == "collective.nccl.fixed" else v) for n, v in a.calibration.values)
    (only,) = changes(a, evolve(a, calibration=evolve(a.calibration, values=launch)))
    assert only.path == "calibration.collective.nccl.fixed"


OF_ADAPTERS = {f"model.{name}" for name in (ADAPTERS, LORA_RANK)}
"""Sizes that follow from `lora`."""


@given(plans())
def test_fields_of_drawn_plans_are_read(spec):
    found = fields(spec)
    assert found["workload.input"] == str(spec.workload.input)
    assert {f"model.{name}" for name, _ in spec.model.sizes} - OF_ADAPTERS <= set(found)
    assert ("model.lora" in found) == (spec.model.lora is not None)


# ---- the command


def test_two_plans_of_one_file(capsys):
    status, out, err = run(capsys, "diff", f"{EXAMPLE}:tensor_parallel", f"{EXAMPLE}:hybrid")
    assert (status, err) == (0, "")
    for word in ("tensor_parallel -> hybrid", "sharding.pp", "all_reduce", "2x the FLOPs", "as long", "total"):
        assert word in out
    status, out, _ = run(capsys, "diff", f"{EXAMPLE}:tensor_parallel", f"{EXAMPLE}:hybrid", "--json")
    body = json.loads(out)
    assert [p["plan"] for p in body["plans"]] == ["tensor_parallel", "hybrid"]
    for name in ("ttft_s", "tpot_s", "throughput_tokens_per_s", "memory_per_gpu_bytes"):
        own = body[name]
        assert isclose(sum(t["change"] for t in own["terms"]), own["change"], rel_tol=1e-9, abs_tol=1e-9)


PLAN = (
    "plan {} {{ model = llama_3_1_8b, node = h100_8, sharding {{ tp = {} }}, workload {{ input = 9, output = 9 }} }}\n"
)


def test_plans_need_no_name_where_there_is_no_choice(capsys, tmp_path):
    one, two = tmp_path / "one.plan", tmp_path / "two.plan"
    one.write_text(PLAN.format("a", 2))
    two.write_text(PLAN.format("a", 4) + PLAN.format("b", 8))
    assert "a -> b" in run(capsys, "diff", two)[1]
    assert "a -> b" in run(capsys, "diff", one, f"{two}:b")[1]
    status, out, _ = run(capsys, "diff", one, two, "--plan", "a", "--set", "workload.batch=3")
    assert status == 0
    assert "sharding.tp" in out
    assert "batch" not in out
    assert "nothing" in run(capsys, "diff", one, one)[1]


def test_more_memory_is_told_though_times_stay(capsys, tmp_path):
    file = tmp_path / "one.plan"
    file.write_text(
        PLAN.format("a", 2) + "plan b = a with { memory_fraction = 18 % }\nplan c = a with { memory_fraction = 5 % }\n"
    )
    out = run(capsys, "diff", f"{file}:b", f"{file}:a")[1]
    assert "TPOT" in out
    assert "the same" in out
    assert "KV capacity " in out
    assert "x as much" in out
    assert "fits" not in out
    assert "fits yes -> NO" in run(capsys, "diff", f"{file}:b", f"{file}:c")[1]


def test_standard_input_may_have_both(capsys, monkeypatch):
    import io
    import sys

    text = PLAN.format("a", 2) + PLAN.format("b", 4)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert "a -> b" in run(capsys, "diff", "-")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["{two}"], None, ""),
        (["{one}"], "E413", "planc diff {one} OTHER.plan"),
        (["{three}"], "E413", "planc diff {three}:a {three}:b"),
        (["{one}", "{two}"], "E413", "planc diff {two}:a {two}:b"),
        (["{one}", "{two}", "{three}"], "E400", "two"),
        (["{one}", "{two}:c"], "E201", "known here"),
        (["{one}", "{two}:"], "E201", "known here"),
        (["{one}", "{none}"], "E401", "add `plan"),
        (["{none}"], "E401", "add `plan"),
        (["{one}", "nowhere.plan"], "E209", ""),
        (["{one}", "nowhere.plan:a"], "E209", ""),
        (["{one}:a", "a"], "E209", ""),
    ],
)
def test_what_cannot_be_compared_is_told(capsys, tmp_path, arguments, code, hint):
    texts = {"none": "", "one": "a", "two": "ab", "three": "abc"}
    for name, plans_ in texts.items():
        (tmp_path / f"{name}.plan").write_text("".join(PLAN.format(p, 2) for p in plans_))
    at = {name: tmp_path / f"{name}.plan" for name in texts}
    status, _, err = run(capsys, "diff", *(a.format(**at) for a in arguments))
    assert status == (0 if code is None else 2)
    assert code is None or f"error[{code}]" in err
    assert hint.format(**at) in err
