"""Wrong arguments of the Python API: each is a diagnostic that names the argument, and never a raw exception."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import plandsl
from plandsl import Model, Plan, Search, Sharding, Workload
from plandsl.api import kinds
from plandsl.api.parts import Part
from plandsl.arguments import guarded, set_pairs
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text

TEXT = """
plan serve {
  model = llama_3_1_8b, node = h100_8, sharding { tp = 2, pp = 2 }
  workload { input = 1024, output = 128, batch = 8 }
}
plan chat {
  model = llama_3_1_8b, node = h100_1, engine = vllm
  workload { input = uniform(100, 900), output = 20, rate = 10 req/s, requests = 20, seed = 3 }
}
"""
HUGE = 10**400
PLAN = Plan(model="llama_3_1_8b", node="h100_1", workload=Workload(input=100, output=10))


@cache
def plans() -> list[CompiledPlan]:
    return compile_text(TEXT)


def serve() -> CompiledPlan:
    return plans()[0]


class Slip(NamedTuple):
    """A call with a wrong argument, the code, and words of the message and of the excerpt that the caret is under."""

    call: Callable[[], Any]
    code: str
    says: str
    at: str = ""


def load(value: object, found: str, **more: Any) -> Slip:
    """A value that no load can have."""
    return Slip(lambda: serve().evaluate(batch=value, **more), "E445", found, "evaluate(batch=")  # type: ignore[arg-type]


SLIPS = {
    "no requests": load(0, "found 0"),
    "less than none": load(-1, "found -1"),
    "not a number": load(float("nan"), "found nan"),
    "without end": load(float("inf"), "found inf"),
    "a word": load("many", "found 'many'"),
    "a truth value": load(True, "found True"),
    "a huge number": load(HUGE, "found a whole number of 401 digits"),
    "a large number": load(1e30, "found 1e+30"),
    "a complex number": load(2 + 3j, "found a complex"),
    "an object": load(object(), "found an object"),
    "a list with a zero": load([0, 1], "must hold numbers from 1"),
    "an array with nan": load(np.array([1.0, np.nan]), "found nan"),
    "an array of words": load(np.array(["a"]), "found an array of <U1"),
    "a ragged list": load([[1], [1, 2]], "found a list of 2"),
    "through the cost model": Slip(lambda: serve().cost.evaluate(output=0), "E445", "`output` must be a number"),
    "shapes": Slip(
        lambda: serve().evaluate(batch=np.arange(1, 3), input=np.arange(1, 4)), "E447", "`batch` (2,), `input` (3,)"
    ),
    "two loads": Slip(lambda: serve().evaluate(batch=4, concurrency=4), "E447", "and `concurrency` is one of requests"),
    "unknown load": Slip(lambda: serve().evaluate(bach=4), "E446", "no argument `bach`", "evaluate(bach=4)"),  # type: ignore[call-arg]
    "a load twice": Slip(lambda: serve().evaluate(1, batch=4), "E446", "two values for `batch`"),  # type: ignore[misc]
    "too many loads": Slip(lambda: serve().evaluate(*[1] * 6), "E446", "takes 5 arguments"),  # type: ignore[call-arg]
    "view": Slip(lambda: serve().draw("device"), "E432", "found 'device'", "draw(view='device'"),
    "view None": Slip(lambda: serve().draw(None), "E432", "found None"),  # type: ignore[arg-type]
    "phase": Slip(lambda: serve().draw("block", "train"), "E432", "found 'train'"),
    "phase of a program": Slip(lambda: serve().program("train"), "E445", "`prefill` or `decode`, found 'train'"),
    "pass": Slip(lambda: serve().program("decode", after="fusion"), "E404", "found 'fusion'"),
    "steps": Slip(lambda: serve().verify(-1), "E445", "`steps` must be a whole number from 0 to 64"),
    "steps of a run": Slip(lambda: plandsl.run(PLAN, steps=-1), "E445", "`steps` must be a whole number from 0 to 64"),
    "half a step": Slip(lambda: serve().verify(1.5), "E445", "found 1.5"),  # type: ignore[arg-type]
    "seed": Slip(lambda: serve().verify(1, "x"), "E445", "`seed` must be a whole number"),  # type: ignore[arg-type]
    "requests": Slip(lambda: serve().simulate(0), "E445", "`requests` must be a whole number from 1"),
    "requests below zero": Slip(lambda: plans()[1].find_rate(-5), "E445", "found -5"),
    "tick": Slip(lambda: serve().simulate(1, tick=3), "E445", "`tick` must be a function"),  # type: ignore[arg-type]
    "seeds": Slip(lambda: plans()[1].simulate_seeds(0), "E445", "`number` must be"),
    "no seeds": Slip(lambda: plans()[1].simulate_seeds(), "E446", "needs the argument `number`"),  # type: ignore[call-arg]
    "every": Slip(lambda: plans()[1].autoscale(every=0), "E445", "`every` must be a number above 0"),
    "least": Slip(lambda: plans()[1].autoscale(least=-1), "E445", "`least` must be a whole number from 0"),
    "difference": Slip(lambda: serve().diff("x.plan"), "E445", "`other` must be a compiled plan"),  # type: ignore[arg-type]
    "no rate": Slip(lambda: serve().find_rate(), "E329", "no rate that could grow", "workload {"),
    "band": Slip(lambda: serve().closed_form().band("ttft"), "E445", "`ttft_s`, `tpot_s`"),
    "communication": Slip(lambda: serve().closed_form().communication.of("train"), "E445", "found 'train'"),
    "overrides": Slip(lambda: compile_text(TEXT, overrides=8), "E445", "`overrides` must be a mapping"),  # type: ignore[arg-type]
    "overrides as text": Slip(lambda: compile_text(TEXT, overrides="a=1"), "E445", "found 'a=1'"),  # type: ignore[arg-type]
    "a path that is none": Slip(lambda: compile_text(TEXT, overrides={8: 8}), "E445", "found 8"),  # type: ignore[dict-item]
    "a name inside a section that is none": Slip(
        lambda: compile_text(TEXT, overrides={"sharding": {8: 8}}),
        "E445",
        "a name in `sharding` must be a string, found 8",
    ),
    "an argument twice": Slip(lambda: serve().draw("devices", view="devices"), "E446", "has two values for `view`"),  # type: ignore[misc]
    "a value that is none": Slip(lambda: compile_text(TEXT, overrides={"chunks": object()}), "E445", "found an object"),
    "nan as a value": Slip(lambda: compile_text(TEXT, overrides={"chunks": float("nan")}), "E445", "found nan"),
    "None as a value": Slip(lambda: compile_text(TEXT, overrides={"chunks": None}), "E445", "found None"),
    "a huge value": Slip(lambda: compile_text(TEXT, overrides={"chunks": HUGE}), "E445", "401 digits"),
    "a path with dashes": Slip(lambda: compile_text(TEXT, overrides={"a-b": 1}), "E218", "not a path to a field"),
    "no file": Slip(lambda: plandsl.compile("x.plan"), "E449", "'x.plan' is neither", "compile(source='x.plan')"),
    "no plan": Slip(lambda: plandsl.compile(3), "E449", "must be a Plan, a compiled plan, a path"),  # type: ignore[arg-type]
    "None": Slip(lambda: plandsl.estimate(None), "E449", "found None"),  # type: ignore[arg-type]
    "nothing": Slip(lambda: plandsl.compile(""), "E449", "'' is neither a file"),
    "a NUL byte": Slip(lambda: plandsl.compile("a\0"), "E449", "is neither a file"),
    "a long path": Slip(lambda: plandsl.compile("a" * 9999), "E449", "... is neither a file"),
    "a search": Slip(lambda: plandsl.compile(Search(plan=PLAN)), "E449", "found a Search"),  # type: ignore[arg-type]
    "which plan": Slip(lambda: plandsl.compile(TEXT), "E403", "has 2 plans: serve, chat"),
    "a name of no plan": Slip(lambda: plandsl.compile(TEXT, "server"), "E201", "found 'server'"),
    "another plan": Slip(lambda: plandsl.estimate(PLAN, "other"), "E445", "the plan is called `plan`"),
    "a plan as a number": Slip(lambda: plandsl.explain(PLAN, 3), "E445", "`plan` must be a string"),  # type: ignore[arg-type]
    "the second plan": Slip(lambda: plandsl.diff(PLAN, "q"), "E449", "'q' is neither a file", "diff(b='q')"),
    "no plans": Slip(lambda: plandsl.simulate([]), "E445", "the list has none"),
    "plans that are none": Slip(lambda: plandsl.simulate([3]), "E449", "found 3"),  # type: ignore[list-item]
    "unknown argument": Slip(lambda: plandsl.verify(PLAN, step=1), "E446", "no argument `step`"),  # type: ignore[call-arg]
    "no argument": Slip(lambda: plandsl.draw(), "E446", "`draw` needs the argument `source`"),  # type: ignore[call-arg]
    "load of a function": Slip(lambda: plandsl.evaluate(PLAN, batch=0), "E445", "`batch` must be a number from 1"),
    "top": Slip(lambda: plandsl.search(PLAN, top=0), "E445", "`top` must be a whole number from 1"),
    "no search": Slip(lambda: plandsl.search(TEXT), "E401", "has no search to run"),
    "name of a search": Slip(lambda: plandsl.search(PLAN, name=3), "E445", "`name` must be a string"),  # type: ignore[arg-type]
    "tick of a search": Slip(lambda: plandsl.search(PLAN, tick=3), "E445", "`tick` must be a function"),  # type: ignore[arg-type]
    "findings of nothing": Slip(lambda: plandsl.check(3), "E449", "found 3"),  # type: ignore[arg-type]
    "ending": Slip(lambda: serve().draw().save("x.xyz"), "E431", "unknown picture format"),
    "no path": Slip(lambda: serve().draw().save(3), "E445", "`path` must be the path"),  # type: ignore[arg-type]
    "no table": Slip(lambda: serve().closed_form().table("ops"), "E445", "found 'ops'"),
    "no column": Slip(lambda: serve().closed_form().table("decode")["time"], "E445", "no column 'time'"),
    "no such plan": Slip(lambda: plandsl.compile_all(TEXT)["x"], "E445", "`serve` or `chat`, found 'x'"),
    "field of a plan": Slip(lambda: Plan(modle="x"), "E446", "`Plan` has no `modle`", "Plan(modle='x')"),
    "field of another tool": Slip(lambda: Sharding(tensor_parallel_size=3), "E446", "has no `tensor_parallel_size`"),
    "a number as a model": Slip(lambda: Plan(model=3), "E445", "`model` must be a Model, or the name of one"),
    "two words": Slip(lambda: Plan(model="a b"), "E445", "`model` is no value of a plan: unexpected `b`"),
    "nan in a plan": Slip(lambda: Workload(batch=float("nan")), "E445", "found nan"),
    "infinity in a plan": Slip(lambda: Workload(batch=float("inf")), "E445", "found inf"),
    "huge in a plan": Slip(lambda: Workload(batch=HUGE), "E445", "401 digits"),
    "zero in a plan": Slip(lambda: PLAN.with_({"workload.batch": 0}).estimate(), "E214", "must be 1 or more, found 0"),
    "the wrong part": Slip(lambda: Plan(sharding=Workload()), "E445", "`sharding` must be a Sharding"),
    "a part as a number": Slip(lambda: Sharding(8), "E445", "`base` must be the name of a sharding"),  # type: ignore[arg-type]
    "a name with dashes": Slip(lambda: Plan(name="a-b"), "E445", "`name` must be a name of letters"),
    "requirement": Slip(lambda: Plan(require="ttft <"), "E445", "expected a value after `<`"),
    "requirement as a number": Slip(lambda: Plan(require=3), "E445", "`require` must be text"),
    "rule": Slip(lambda: Sharding(rules="heads"), "E445", "`rules` must be a rule such as"),
    "mesh": Slip(lambda: Sharding(mesh={"a": "b c"}), "E445", "`mesh` is no value"),
    "block": Slip(lambda: Model(blocks="x"), "E445", "`blocks` must be the text of a `block`"),
    "class": Slip(lambda: Workload(classes={"a": 3}), "E445", "`classes` must be a mapping"),
    "vary": Slip(lambda: Search(vary={"tp": object()}), "E445", "`vary` must be a mapping of paths"),
    "declared without a name": Slip(lambda: Plan(declare=Model("x")), "E445", "`declare` must be parts with a name"),
    "a file to use": Slip(lambda: Plan(use=3), "E445", "`use` must be the path of a file"),
    "no overrides": Slip(lambda: PLAN.with_(3), "E445", "`overrides` must be a mapping"),  # type: ignore[arg-type]
    "no path in a plan": Slip(lambda: PLAN.with_({3: 3}), "E445", "a path must be a string"),  # type: ignore[dict-item]
    "no such field": Slip(lambda: PLAN.with_(foo=3), "E446", "`Plan` has no `foo`"),
    "a plan that is none": Slip(lambda: Plan.of(3), "E445", "`plan` must be a compiled plan"),  # type: ignore[arg-type]
    "a text without a plan": Slip(lambda: Plan.read("let a = 1\n"), "E401", "has no plan"),
    "an open brace": Slip(lambda: Plan.read("plan p {"), "E104", "expected `}`"),
    "no field": Slip(lambda: compile_text(TEXT, overrides={"sharding": {"tpp": 2}}), "E206", "no field `tpp`"),
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_a_wrong_argument_is_a_diagnostic(slip: Slip) -> None:
    with pytest.raises(PlanError) as caught:
        slip.call()
    first, shown = caught.value.diagnostics[0], str(caught.value)
    assert first.code == slip.code
    assert slip.says in first.message
    assert slip.at in shown
    assert first.span is None or first.span.file != "<call>" or "^" in shown


def test_a_type_error_inside_a_function_stays_one() -> None:
    @guarded
    def add(a: object, b: object) -> object:
        return a + b  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        add(1, "one")


def test_numbers_of_all_kinds_are_taken() -> None:
    same = [8, 8.0, np.int64(8), np.float32(8), np.array(8)]
    assert len({float(serve().evaluate(batch=n).ttft) for n in same}) == 1
    lists = serve().evaluate(batch=[8, 16], output=(128, 64))  # type: ignore[arg-type]
    assert lists.ttft.shape == (2,)


def test_overrides_are_mappings_of_plain_values_or_pairs() -> None:
    given = {"workload.batch": 8, "sharding": {"tp": 4, "cut": [16, 16]}, "fuse_norms": False, "memory_fraction": 0.5}
    assert set_pairs(given) == [
        ("workload.batch", "8"),
        ("sharding.tp", "4"),
        ("sharding.cut", "[16, 16]"),
        ("fuse_norms", "false"),
        ("memory_fraction", "0.5"),
    ]
    assert set_pairs([("workload.batch", "8"), ("memory_fraction", "90 %")])[1] == ("memory_fraction", "90 %")
    made = compile_text(TEXT, plan="serve", overrides={"sharding": {"tp": 4}, "workload.batch": np.int64(16)})[0]
    assert (made.spec.sharding.axis("tensor"), made.spec.workload.batch) == (4, 16)


NOTHING = object()
HOSTILE = (0, -1, float("nan"), float("inf"), HUGE, True, "x", b"x", NOTHING, [None], {"a": NOTHING}, np.array([0, 1]))
"""Values that few arguments can have."""

PARTS = [Plan, Search, *(x for x in vars(kinds).values() if isinstance(x, type) and issubclass(x, Part))]


def raw(call: Callable[[], Any]) -> str:
    """What a call raises that is no diagnostic."""
    try:
        str(call())
    except PlanError:
        return ""
    except Exception as error:  # the test is about what these are
        return repr(error)
    return ""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_part_raises_nothing_but_diagnostics(part: Any) -> None:
    keys = ("name", *(part.known or ("layers", "weights")), *part.special)
    found = {(key, i): raw(partial(part, **{key: x})) for key in keys for i, x in enumerate(HOSTILE)}
    found |= {("base", i): raw(partial(part, x)) for i, x in enumerate(HOSTILE)}
    assert {key: error for key, error in found.items() if error} == {}


CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "compile": (plandsl.compile, ("source", "plan", "overrides", "file")),
    "compile_all": (plandsl.compile_all, ("source", "overrides", "file")),
    "check": (plandsl.check, ("source", "overrides", "file")),
    "evaluate": (plandsl.evaluate, ("source", "batch", "input", "output", "concurrency", "requests")),
    "draw": (plandsl.draw, ("source", "view", "phase", "plan")),
    "verify": (plandsl.verify, ("source", "steps", "seed")),
    "simulate": (plandsl.simulate, ("source", "requests", "tick", "keep_steps")),
    "search": (plandsl.search, ("name", "top", "simulate", "requests", "scheduler")),
    "diff": (plandsl.diff, ("a", "b")),
    "with_": (PLAN.with_, ("model", "sharding", "workload", "require", "name", "let")),
    "read": (Plan.read, ("source", "name")),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_function_raises_nothing_but_diagnostics(name: str) -> None:
    function, arguments = CALLS[name]
    given: dict[str, Any] = {key: PLAN for key in ("source", "a", "b") if key in arguments}
    given |= {"source": str(PLAN)} if name == "read" else {"source": TEXT} if name == "search" else {}
    values = [x for x in HOSTILE if not (x is True or (isinstance(x, str) and name == "search"))]
    found = {(key, i): raw(partial(function, **{**given, key: x})) for key in arguments for i, x in enumerate(values)}
    assert {key: error for key, error in found.items() if error} == {}
