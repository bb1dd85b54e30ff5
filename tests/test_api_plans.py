"""Plans written in Python: they print as `.plan` text, which reads back as the same plan."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plandsl
from plandsl import (
    Engine,
    Gpu,
    Link,
    Model,
    Node,
    Plan,
    PlanError,
    Pool,
    RequestClass,
    Search,
    Sessions,
    Sharding,
    Shift,
    Speculate,
    Transfer,
    Workload,
)
from plandsl.driver import open_file, open_text
from plandsl.grammar.fmt import format_text
from plandsl.grammar.plans import PLAN
from plandsl.spec.plan import PlanSpec
from plandsl.testing import deployments, plans, same, show_plan, traffic

ROOT = Path(__file__).parents[1]
LOAD = Workload(input=1024, output=128, batch=8)
SERVE = Plan(
    name="serve",
    model="llama_3_1_8b",
    node="h100_8",
    sharding=Sharding(tp=4, pp=2),
    workload=LOAD,
    require=["tpot <= 50 ms", "memory <= 95 %"],
)
BLOCK = """block x[tokens, hidden] {
  h = rms_norm(x), q = rope(h @ w_q[hidden, heads, head_dim]), k = rope(h @ w_k[hidden, heads, head_dim])
  v = h @ w_v[hidden, heads, head_dim], a = attention(q, k, v)
  x = x + a @ w_o[heads, head_dim, hidden], h = rms_norm(x)
  x = x + gelu(h @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
}"""
OWN = Model(
    name="small",
    layers=4,
    hidden=256,
    heads=4,
    head_dim=64,
    ffn=512,
    vocab=1000,
    weights="bf16",
    embedding="w_embed[vocab, hidden]",
    blocks=[BLOCK],
    head="rms_norm(x) @ w_embed[vocab, hidden]",
)
MINE = Gpu("h100_sxm", name="mine", memory="96 GB", price="2.5 USD/h")
CLASSES = {
    "chat": RequestClass(share="80 %", input="uniform(10, 90)", output=20, require="p95(ttft) <= 1 s"),
    "batch": {"share": "20 %", "input": 400, "output": 20, "priority": 1},
}
POOL = {
    "prefill": Pool(node="h100_8", sharding=Sharding(tp=4, dp=2), batch=2),
    "decode": {"node": "h200_8", "sharding": {"tp": 8}},
    "transfer": Transfer(bandwidth="50 GB/s", latency="10 us"),
}
RULES = ["tokens -> seq", "place seq in node", "heads, kv_heads, ffn, vocab -> tensor", "in attention { heads -> seq }"]


def serve(**more: Any) -> Plan:
    return SERVE.with_(**more)


WRITTEN = {
    "degrees": SERVE,
    "engine": serve(engine=Engine("vllm", max_requests=64), workload=Workload(input=100, output=9, concurrency=32)),
    "a model with changes": serve(model=Model("llama_3_1_70b", weights="fp8", kv_cache="fp8"), node="h100_8"),
    "own model": serve(model=OWN, sharding=Sharding(tp=2)),
    "own node": serve(node=Node(gpu=MINE, count=8, link=Link(topology="switch", bandwidth="450 GB/s", latency="2 us"))),
    "unlike gpus": serve(
        node=Node(gpus=["4 * mine", "4 * h200_sxm"], link=Link(topology="switch", bandwidth="1 GB/s", latency="2 us")),
        declare=MINE,
    ),
    "rules": serve(sharding=Sharding(mesh={"seq": 2, "tensor": 2}, rules=RULES)),
    "a degree between rules": serve(sharding=Sharding(mesh={"b": 2}, rules=["vocab -> b", "tp = 2", "tokens -> b"])),
    "traffic": serve(engine="vllm", workload=Workload(input="uniform(9, 90)", output=9, rate="4 req/s", requests=20)),
    "classes": serve(engine="vllm", workload=Workload(rate="4 req/s", requests=20, classes=CLASSES)),
    "sessions": serve(
        engine="vllm",
        workload=Workload(
            input=50, output=9, rate="1 req/s", requests=9, sessions=Sessions(turns=3, think="2 s", system=16)
        ),
    ),
    "trace": serve(engine="vllm", workload=Workload(trace=Path("examples/traffic/service.csv"))).in_folder(ROOT),
    "pools": Plan(model="llama_3_1_8b", workload=LOAD, kv_transfer="layerwise", **POOL),
    "shift": serve(shift=Shift(base=Sharding(sp=4), tensor=Sharding(tp=4), threshold=64), sharding=None),
    "speculate": serve(speculate=Speculate(draft="llama_3_2_1b", tokens=3, acceptance=[0.8, 0.7, 0.6])),
    "another plan": Plan(SERVE, name="second", sharding={"tp": 8, "pp": 1}, chunks=2),
    "names for values": serve(let={"wide": 4}, sharding=Sharding(tp="wide", pp=2), memory_fraction="90 %"),
}


@pytest.mark.parametrize("plan", WRITTEN.values(), ids=WRITTEN)
def test_what_a_file_can_say_is_written_in_python_and_reads_back(plan: Plan) -> None:
    text = str(plan)
    assert format_text(text, "plan") == text
    assert [d.message for d in plan.check() if d.severity == "error"] == []
    again = Plan.read(text).in_folder(plan.folder) if plan.folder == "" else plan
    assert again == plan
    assert str(again) == text
    assert eval(repr(plan), {name: getattr(plandsl, name) for name in plandsl.__all__}) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_every_field_of_a_plan_is_one_in_python() -> None:
    said = {name for plan in WRITTEN.values() for name in plan.fields}
    assert {"shift", "speculate", "prefill", "decode", "transfer", "kv_transfer", "engine", "let", "declare"} <= said
    assert Plan.known == PLAN


@given(st.one_of(plans(), plans(speculate=True), plans(workload=traffic()), deployments()))
def test_every_plan_reads_as_an_object_that_prints_it(spec: PlanSpec) -> None:
    plan = Plan.read(show_plan(spec))
    shown = str(plan)
    assert format_text(shown, "plan") == shown
    again = Plan.read(shown)
    assert (again, str(again), hash(again)) == (plan, shown, hash(plan))
    found = open_text(shown).plan(plan.name)
    assert found is not None
    assert same(found, spec)


def told(search: Any) -> list[Any]:
    """What a search says, without spans."""
    varies = [(c.path, [setting.text for setting in c.settings]) for c in search.choices]
    return [
        varies,
        [c.text for c in search.conditions],
        [r.text for r in search.requires],
        [g.text for g in search.goals],
    ]


EXAMPLES = ("own_model", "search_70b", "shift_llama_3_3_70b", "speculate", "split_llama_3_3_70b", "unlike_gpus")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_read_as_objects(name: str) -> None:
    path = ROOT / "examples" / f"{name}.plan"
    module = open_file(path)
    for name in module.plans[-1:]:
        plan = Plan.read(path, name)
        found = open_text(str(plan), plan.file).plan(name)
        assert found is not None
        assert same(found, module.plan(name))
    for name in module.searches:
        search = Search.read(path, name)
        texts = [told(module.spec("search", name)) for module in (module, open_text(str(search), search.file))]
        assert texts[0] == texts[1]


def test_values_are_brought_into_one_form() -> None:
    same = [Workload(batch=8), Workload(batch=8.0), Workload(batch="8"), Workload(batch=" 8 ")]
    assert len(set(same)) == 1
    assert Sharding(cut=(48, 32)) == Sharding(cut="[48,32]")
    assert Model("x") != "x"
    assert serve(model=Model("llama_3_1_8b")) == SERVE
    assert Plan(memory_fraction="90%").memory_fraction == "90 %"
    assert Plan(workload={"batch": 8}) == Plan(workload=Workload(batch=8))
    assert (Plan(fuse_norms=False).fuse_norms, Plan(fuse_norms=False).chunks) == (False, None)
    assert Workload(input=1, output=2) == Workload(output=2, input=1)
    assert (Shift(base=Sharding(sp=4)).base, Plan(SERVE).origin) == (Sharding(sp=4), SERVE)
    assert Sharding(tp=2, rules="vocab -> a") != Sharding(rules="vocab -> a", tp=2)


def test_overrides_reach_into_parts_and_leave_the_plan_as_it_is() -> None:
    changed = SERVE.with_({"workload.batch": 64, "model.weights": "fp8"}, sharding={"tp": 8, "pp": None}, name="other")
    assert (changed.workload.batch, changed.workload.input, changed.name) == (64, 1024, "other")
    assert changed.sharding == Sharding(tp=8)
    assert changed.model == Model("llama_3_1_8b", weights="fp8")
    assert (SERVE.workload.batch, SERVE.model) == (8, "llama_3_1_8b")
    ongoing = SERVE.with_({"workload.concurrency": 32})
    assert ongoing.workload == Workload(input=1024, output=128, concurrency=32)
    assert SERVE.with_(cluster="h100_8x4").node is None
    assert SERVE.with_(workload=Workload(input=1, output=1)).workload.batch is None
    with pytest.raises(AttributeError, match="does not change"):
        SERVE.model = "llama_3_1_70b"
    with pytest.raises(AttributeError, match="no field 'tpp'"):
        _ = SERVE.sharding.tpp


def test_parts_with_one_name_must_say_the_same() -> None:
    other = Gpu("h200_sxm", name="mine")
    with pytest.raises(PlanError, match="two parts are called gpu `mine`"):
        str(Plan(node=Node(gpu=MINE), declare=[other]))
    assert str(Plan(node=Node(gpu=MINE), declare=[MINE])).count("gpu mine") == 1


def test_a_plan_answers_like_the_text_that_it_prints() -> None:
    made = plandsl.compile(str(SERVE))
    assert SERVE.compile() is SERVE.compile()
    assert SERVE.estimate().as_json() == made.estimate().as_json()
    assert float(SERVE.evaluate(batch=16).ttft) == float(made.evaluate(batch=16).ttft)
    assert SERVE.diff(SERVE.with_(chunks=2)).changes[0].path == "chunks"
    assert SERVE.draw("timeline") == made.draw("timeline")
    assert Plan.of(made).estimate().tpot_s == made.estimate().tpot_s


def test_a_search_in_python_finds_plans() -> None:
    search = Search(plan=SERVE, vary={"tp": [1, 2, 4], "batch": "1..64 by * 2"}, where="tp <= 2", goals="minimize tpot")
    assert Search.read(str(search)) == search
    found = search.run(top=3)
    assert (found.seen, found.ok, len(found.top)) == (14, True, 3)
    best = found.plan()
    assert best.sharding.tp == found.top[0].settings["tp"]
    assert best.estimate().tpot_s == pytest.approx(found.top[0].metrics["tpot"])
    assert len(found.table("rows")) == 14
    assert found.table("top")["tpot_s"].tolist() == [row.metrics["tpot"] for row in found.top]
    assert SERVE.with_(node="h100_1", sharding=None).search(top=2).seen == 14


def test_the_best_plan_of_a_search_uses_the_files_that_its_file_uses(tmp_path: Path) -> None:
    (tmp_path / "base.plan").write_text(
        "plan base { model = llama_3_1_8b, node = h100_2, workload { input = 512, output = 64, batch = 8 } }"
    )
    file = tmp_path / "searches.plan"
    file.write_text('use "base.plan"\nsearch quick {\n  plan = base\n  vary tp in [1, 2]\n  minimize tpot\n}\n')
    best = plandsl.search(str(file), "quick").plan()
    assert best.compile().spec.sharding.ranks == 2


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda: Plan(["a", "plan"]), "E445", "the name of a plan, or a Plan"),
        (lambda: Model("3"), "E445", "the name of a model, or a Model"),
        (lambda: Gpu("h100_sxm", source='a "quoted" word'), "E445", "text without quotes and line ends"),
        (lambda: Plan(workload={3: 4}), "E445", "a name in `workload` must be a string, found"),
        (lambda: SERVE.with_({"workload": {3: 4}}), "E445", "a name in `workload` must be a string, found"),
        (lambda: SERVE.with_({"chunks": 2}).with_({"chunks.more": 2}), "E445", "has a value, 2, and no fields"),
        (lambda: Gpu("h100_sxm", **{"compute": {"no name": 3}}), "E446", "`no name` is not the name of a field"),
        (lambda: Plan(chunks="2\nlet a = 3"), "E445", "one value, as in a plan"),
        (lambda: Plan(require="ttft <= 2 s }\nplan q {"), "E445", "`require`"),
        (lambda: Plan(chunks="{"), "E445", "is no value of a plan"),
        (lambda: Plan.read(SERVE), "E449", "a path or the text of a plan"),
        (lambda: Plan.read("let a = 3\n"), "E401", "has no plan"),
        (lambda: Plan.read("plan a { }\nplan b { }"), "E403", "has 2 plans: a, b"),
        (lambda: Search.read("search a { }\nsearch b { }"), "E403", "has 2 searches: a, b"),
    ],
)
def test_what_no_part_of_a_plan_says_why(make: Callable[[], object], code: str, says: str) -> None:
    with pytest.raises(PlanError) as caught:
        make()
    first = caught.value.diagnostics[0]
    assert first.code == code
    assert says in str(caught.value), str(caught.value)


def test_texts_over_several_lines_read_as_one_value() -> None:
    text = (
        str(SERVE)
        .replace("batch = 8", "batch = 2 *  # two\n    4")
        .replace("serve {", "serve {\n  require ttft <=  # a\n    2 s", 1)
    )
    read = Plan.read(text)
    assert read.workload.batch == "2 * 4"
    assert read.compile().spec.workload.batch == 8
    assert "#" not in str(read)
