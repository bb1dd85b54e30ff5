"""Searches: the arrays against plans one by one, the front against brute force, and the words for what is wrong."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import check_plan, compile_file, compile_text, open_text
from plandsl.searches import run as running
from plandsl.searches.account import account_for
from plandsl.searches.answer import configurations, misses, remedies
from plandsl.searches.front import first_rows, pareto
from plandsl.searches.run import Compiler, Found, Run, Table, do_job
from plandsl.searches.values import METRICS
from plandsl.spec.search import SearchSpec
from tests.draws import draws

BASE = """
search s {
  model = llama_3_1_8b, node = h100_8 with { gpu { price = 2 USD/h } }
  workload { input = 2000, output = 200 }
  MORE
}
"""


def searched(more: str, text: str = BASE) -> SearchSpec:
    module = open_text(text.replace("MORE", more))
    found = module.spec("search", "s")
    if module.errors or not isinstance(found, SearchSpec):
        raise PlanError(module.diagnostics, module.sources)
    return found


def table(search: SearchSpec) -> tuple[Found, list[tuple[dict[str, str], dict[str, float], str]]]:
    """Everything that a search evaluates: choices as texts, metrics, and why it is out."""
    rows: list[tuple[dict[str, str], dict[str, float], str]] = []

    def sink(found: Found, part: Table) -> None:
        for number, row, why in zip(part.rows.numbers, part.rows.metrics, part.why, strict=True):
            choices = {c.path: s.text for c, s in found.combination(int(number))}
            rows.append((choices, dict(zip(METRICS, row, strict=True)), why))

    return Run(search, sink=sink).run(), rows


WIDE = """
vary tp in [1, 2, 4, 8], pp in [1, 2, 4], dp in [1, 2]
vary batch in [1, 3, 64, 700], input in [100, 4000], output in [2, 300]
require ttft <= 5 s
require throughput_per_gpu >= 100 tok/s
require mfu <= 40 %
"""


def alone(choices: dict[str, str], requires: str) -> tuple[dict[str, float], str]:
    """The same configuration as a plan by itself."""
    text = BASE.replace("search s", "plan s").replace("MORE", requires)
    (plan,) = compile_text(text, overrides=list(choices.items()))
    e = plan.estimate()
    metrics = {
        "ttft": e.ttft_s,
        "tpot": e.tpot_s,
        "latency": e.latency_s,
        "throughput": e.throughput_tokens_per_s,
        "throughput_per_gpu": e.throughput_per_gpu_tokens_per_s,
        "memory": e.memory.total,
        "kv_capacity": e.kv_capacity_tokens,
        "max_batch": e.max_batch,
        "comm_share": max(e.prefill.comm_share, e.decode.comm_share),
        "mfu": min(e.prefill.mfu, e.decode.mfu),
        "mbu": min(e.prefill.mbu, e.decode.mbu),
        "cost": e.cost_usd_per_mtok or math.inf,
    }
    bad = next((r.text for r in e.requires if not r.ok), "")
    return metrics, "" if e.ok else bad if e.fits else running.MEMORY


def test_arrays_equal_plans_one_by_one() -> None:
    _, rows = table(searched(WIDE))
    requires = "\n".join(line for line in WIDE.splitlines() if line.startswith("require"))
    assert {why for _, _, why in rows} >= {"", running.MEMORY, "ttft <= 5 s", "throughput_per_gpu >= 100 tok/s"}
    for choices, metrics, why in random.Random(1).sample(rows, 60):
        expected, reason = alone(choices, requires)
        assert why == reason, choices
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, rel=1e-12), (name, choices)


def test_every_legal_mixture_is_seen_without_vary() -> None:
    search = searched("", BASE.replace("llama_3_1_8b", "mixtral_8x7b").replace("h100_8", "h100_4"))
    found, rows = table(search)
    degrees = ("dp", "pp", "cp", "sp", "ep", "tp")
    seen = {tuple(int(c[f"sharding.{d}"]) for d in degrees) for c, _, _ in rows}
    text = BASE.replace("search s", "plan s").replace("llama_3_1_8b", "mixtral_8x7b").replace("h100_8", "h100_4")
    legal = set()
    for sizes in product((1, 2, 4), repeat=len(degrees)):
        if math.prod(sizes) <= 4:
            sharding = ", ".join(f"{d} = {n}" for d, n in zip(degrees, sizes, strict=True))
            module = open_text(text.replace("MORE", f"sharding {{ {sharding} }}"))
            spec, notes = check_plan(module, "s")
            if spec is not None and not any(d.severity == "error" for d in notes):
                legal.add(sizes)
    assert seen == legal
    assert {c["workload.batch"] for c, _, _ in rows} == {str(2**k) for k in range(14)}
    assert found.structures < found.plans


def test_the_front_is_that_of_brute_force() -> None:
    search = searched("vary tp in [1, 2, 4, 8], dp in [1, 2, 4], batch in 1..512 by * 2, input in [500, 1000]")
    found, rows = table(search)
    costs = np.array([[m["ttft"], m["tpot"], -m["throughput_per_gpu"], m["cost"]] for _, m, why in rows if not why])
    brute = {tuple(c) for c in costs if not ((costs <= c).all(axis=1) & (costs < c).any(axis=1)).any()}
    front = found.tally.front
    columns = [front.column(n) for n in ("ttft", "tpot", "throughput_per_gpu", "cost")]
    assert {(a, b, -c, d) for a, b, c, d in zip(*columns, strict=True)} == brute
    best = max(m["throughput_per_gpu"] for _, m, why in rows if not why)
    assert found.tally.top.column("throughput_per_gpu")[0] == best


@given(
    st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, unique=True),
    st.lists(st.sampled_from([1, 5, 64, 700, 9000]), min_size=1, unique=True),
    st.lists(st.sampled_from(["ttft <= 2 s", "tpot <= 12 ms", "mfu >= 20 %", "memory <= 30 %"]), unique=True),
    st.sampled_from(["throughput", "cost", "ttft"]),
    st.integers(1, 5),
)
def test_a_search_accounts_for_every_configuration(tp, batch, requires, goal, top) -> None:
    vary = f"vary tp in {tp}, pp in [1, 2], batch in {batch}, output in [1, 50]\n"
    more = "\n".join(f"require {one}" for one in requires)
    search = searched(f"{vary}{more}\n{'maximize' if goal == 'throughput' else 'minimize'} {goal}")
    found, rows = table(search)
    tally, printed = found.tally, min(top, len(found.tally.front.numbers))
    account = account_for(found, printed)
    assert account.total == tally.seen == len(rows)
    assert account.printed + account.hidden + account.beaten + account.unrated == tally.met
    assert dict(account.missed) == Counter(why for _, _, why in rows if why)
    told = list(account.lines())
    assert sum(count for what, count, _ in told if what != "all") == tally.seen
    weighed = [(g.metric, -1 if g.most else 1) for g in tally.weighed]
    costs = np.array([[sign * m[name] for name, sign in weighed] for _, m, why in rows if not why])
    costs = costs.reshape(-1, len(weighed))
    rated = costs[np.isfinite(costs).all(axis=1)]
    assert account.unrated == len(costs) - len(rated)
    best = {tuple(c) for c in rated if not ((rated <= c).all(axis=1) & (rated < c).any(axis=1)).any()}
    assert account.printed + account.hidden == len(best)


def test_a_report_says_where_all_configurations_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "vary tp in [1, 2, 4, 8], pp in [1, 2], batch in 1..512 by * 2\nrequire ttft <= 60 s"
    (tmp_path / "s.plan").write_text(BASE.replace("MORE", more))
    assert main(["search", str(tmp_path / "s.plan"), "--top", "3"]) == 0
    out = capsys.readouterr().out
    counts = {what: int(n) for what, n in re.findall(r"^(front|beaten|out|all) +(\d+)", out, re.MULTILINE)[::-1]}
    total = sum(map(int, re.findall(r"^(?:front|beaten|out) +(\d+)", out, re.MULTILINE)))
    assert total == counts["all"] == 70
    met = int(re.search(r"(\d+) meet all;", out)[1])
    assert f"{met - 3} more meet all: --top {met} ranks them too" in out
    assert re.search(r"^front +12  printed above$", out, re.MULTILINE)
    assert "not printed (those that are lie evenly over TPOT): --json has all" in out
    (body,) = json.loads(_json(tmp_path / "s.plan", capsys))["searches"]
    whole = len(body["front"]) + body["beaten"] + body["unrated"] + sum(body["out"].values())
    assert whole == body["configurations"]


def _json(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["search", str(path), "--json"])
    return capsys.readouterr().out


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0, 1, 7, 300]), st.integers(2, 40))
@draws(2)
def test_pareto_of_any_points(seed: int, columns: int, rows: int, kinds: int) -> None:
    costs = np.random.default_rng(seed).integers(0, kinds, (rows, columns)).astype(float)
    kept = [
        i
        for i, c in enumerate(costs)
        if not ((costs <= c).all(axis=1) & (costs < c).any(axis=1)).any() and not (costs[:i] == c).all(axis=1).any()
    ]
    assert pareto(costs).tolist() == kept


def test_pareto_of_more_points_than_a_block() -> None:
    rng = np.random.default_rng(5)
    x = rng.random(6000)
    costs = np.stack([x, 1 - x + 0.01 * rng.random(6000), rng.random(6000)], axis=1)
    brute = [i for i, c in enumerate(costs) if not ((costs <= c).all(axis=1) & (costs < c).any(axis=1)).any()]
    assert pareto(costs).tolist() == brute


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=60), st.integers(1, 9))
def test_first_rows_equal_a_stable_sort(points: list[tuple[int, int]], k: int) -> None:
    keys = [np.array([p[i] for p in points], float) for i in (0, 1)]
    ordered = sorted(range(len(points)), key=lambda i: (points[i], i))
    assert first_rows(keys, k).tolist() == ordered[:k]


def test_tallies_add_up_to_the_same_in_any_grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searched(WIDE)
    whole = Run(search).run().tally
    monkeypatch.setattr(running, "CHUNK", 3)
    parts = Run(search)
    compiler = Compiler()
    tallies = [do_job(job, compiler).tally for job in parts.jobs()]
    random.Random(2).shuffle(tallies)
    left, right = Run(search).empty(), Run(search).empty()
    for one in tallies[:50]:
        left.merge(one)
    for one in tallies[50:]:
        right.merge(one)
    right.merge(left)
    assert (right.seen, right.met, right.missed) == (whole.seen, whole.met, whole.missed)
    assert right.best == whole.best
    for mine, theirs in ((right.top, whole.top), (right.front, whole.front)):
        assert mine.numbers.tolist() == theirs.numbers.tolist()
        assert np.array_equal(mine.metrics, theirs.metrics, equal_nan=True)


def test_where_leaves_out_before_and_after_compiling() -> None:
    found, rows = table(
        searched("vary tp in [1, 2, 4], batch in 1..64 by * 2\nwhere tp > 1 and (batch >= 4 * tp or tp == 4)")
    )
    pairs = {(int(c["sharding.tp"]), int(c["workload.batch"])) for c, _, _ in rows}
    assert pairs == {(t, b) for t in (2, 4) for b in (1, 2, 4, 8, 16, 32, 64) if b >= 4 * t or t == 4}
    assert found.tally.seen == len(pairs)
    early = Run(searched("vary tp in [1, 2, 4], batch in [1, 2]\nwhere tp == 2"))
    assert {job.plan.sharding.ranks for job in early.jobs()} == {2}


def test_words_and_units_vary() -> None:
    more = "vary model.weights in [bf16, fp8], node.link.bandwidth in 100 GB/s..400 GB/s by * 2, tp in [8]\n"
    _, rows = table(searched(more + "where model.weights == fp8"))
    assert [c["node.link.bandwidth"] for c, _, _ in rows] == ["100 GB/s", "200 GB/s", "400 GB/s"]
    ttft = [m["ttft"] for _, m, _ in rows]
    assert ttft[0] > ttft[1] > ttft[2]
    assert {c["model.weights"] for c, _, _ in rows} == {"fp8"}


def test_a_search_takes_a_plan_and_another_search() -> None:
    text = """
    plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, workload { input = 100, output = 10 }
             require ttft <= 1 s }
    search a { plan = p, vary batch in [1, 2], tp in [2, 4] }
    search s = a with { maximize throughput, minimize ttft }
    """
    search = searched("", text)
    assert [r.text for r in search.requires] == ["ttft <= 1 s"]
    assert [g.text for g in search.all_goals] == ["maximize throughput", "minimize ttft"]
    found, rows = table(search)
    assert len(rows) == 4
    assert found.plan(int(found.tally.top.numbers[0])).sharding.ranks == 4


def test_the_best_is_written_as_a_plan_that_gives_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "s.plan"
    source.write_text(
        "workload mine { input = 1500, output = 150 }\n"
        "search s { model = llama_3_1_8b with { weights = fp8 }, node = h100_8, workload = mine\n"
        "  sharding { mesh a = 2\n heads, kv_heads, ffn, vocab -> a }\n"
        "  vary dp in [1, 2, 4], batch in 1..256 by * 4\n require tpot <= 12 ms\n maximize throughput }\n"
    )
    best = tmp_path / "best.plan"
    assert main(["search", str(source), "-o", str(best), "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["searches"][0]["top"][0]
    assert best.read_text().startswith("# The best of `search s`")
    (plan,) = compile_file(best)
    e = plan.estimate()
    assert (e.ttft_s, e.throughput_tokens_per_s) == (top["ttft_s"], top["throughput_tokens_per_s"])
    assert [r.ok for r in e.requires] == [True]


def test_nearest_configuration_and_remedies_where_nothing_meets_all() -> None:
    search = searched("vary tp in [4, 8], batch in [1, 8]\nrequire tpot <= 1 ms\nrequire memory <= 90 %")
    found = Run(search).run()
    assert found.tally.met == 0
    assert len(found.tally.top.numbers) == 0
    (nearest,) = configurations(found, found.tally.nearest)
    (miss,) = misses(found, nearest)
    assert (miss.text, miss.alone) == ("tpot <= 1 ms", False)
    assert miss.value == nearest.metrics["tpot"] == pytest.approx(miss.factor * 1e-3)
    assert miss.best == nearest.metrics["tpot"]
    better = {r.what: r.factor for r in remedies(found, nearest)}
    assert all(factor > 1 for factor in better.values())
    assert "memory" not in better  # more room makes no step shorter


def test_a_missed_share_of_memory_is_shown_in_per_cent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "s.plan"
    source.write_text(BASE.replace("MORE", "vary tp in [4, 8]\nrequire memory <= 1 %"))
    assert main(["search", str(source)]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "memory <= 1 %: the nearest has" in line)
    assert re.search(r"has [\d.]+ %, [\d.]+ times off 1.0 %$", line)


def test_a_remedy_is_enough_and_no_more_than_that() -> None:
    more = "vary batch in [1, 2]\nsharding { tp = 8 }\nrequire throughput >= LEAST tok/s"
    best = max(m["throughput"] for _, m, _ in table(searched(more.replace("LEAST", "1")))[1])
    least = f"{1.1 * best:.6f}"
    found = Run(searched(more.replace("LEAST", least))).run()
    (nearest,) = configurations(found, found.tally.nearest)
    ways = {r.what: r.factor for r in remedies(found, nearest)}
    assert "HBM bandwidth" in ways
    gpu = found.plan(nearest.number).node.gpu
    for slack, enough in ((1.001, True), (0.99, False)):
        rate = ways["HBM bandwidth"] * slack * gpu.bandwidth
        text = BASE.replace("search s", "plan s").replace(
            "MORE", f"sharding {{ tp = 8 }}\nrequire throughput >= {least} tok/s"
        )
        sets = [("workload.batch", "2"), ("node.gpu.bandwidth", f"{rate:.6f} B/s")]
        assert compile_text(text, overrides=sets)[0].estimate().ok is enough


def test_an_interrupted_search_keeps_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(searched("vary tp in [1, 2, 4, 8], batch in [1, 2]"))
    done = []

    def tick(count: int, total: int) -> None:
        done.append(count)
        if len(done) == 2:
            raise KeyboardInterrupt

    found = run.run(tick)
    assert found.stopped
    assert found.tally.seen == 4
    assert len(found.tally.top.numbers)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("vary tq in [1]", "E206", "no field `tq`"),
        ("vary tp in 8", "E210", "expected a list or a range"),
        ("vary tp in []", "E210", "list of values for `tp` is empty"),
        ("vary tp in [2, 2]", "E202", "the value `2` twice"),
        ("vary tp in [1], sharding.tp in [2]", "E202", "varies twice"),
        ("vary batch in 8..1", "E214", "ends below its start"),
        ("vary batch in 1..8 by * 1", "E214", "never ends"),
        ("vary batch in 1..100000000", "E214", "more than 100,000 values"),
        ("vary batch in 1..8 by + 2 ms", "E204", "must be a plain number"),
        ("vary model.weights in [fp8, fp9]", "E217", "fp9"),
        ("vary batch in [1.5]", "E214", "whole number"),
        ("vary node.link.bandwidth in [3]", "E205", "expected bytes per second"),
        ("vary ep in [1, 2]", "E220", "`ep` splits"),
        ("vary tp in [1]\nwhere tq > 1", "E201", "`tq` is neither a field that varies"),
        ("vary tp in [1]\nwhere tp + 1", "E210", "true or false"),
        ("vary tp in [1]\nwhere tp > fp8", "E201", "fp8"),
        ("vary tp in [1]\nmaximize speed", "E216", "no metric `speed`"),
        ("vary tp in [1]\nmaximize ttft\nminimize ttft", "E202", "is a goal twice"),
        ("vary tp in [1]\nmaximize ttft + 1 s", "E216", "expected a metric"),
        ("wokload { input = 1 }", "E206", "wokload"),
    ],
)
def test_wrong_input_has_a_diagnostic_at_its_place(more: str, code: str, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        searched(more)
    errors = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert errors, caught.value.diagnostics
    assert (errors[0].code, said in errors[0].message) == (code, True), errors[0].message
    assert errors[0].span is not None
    assert errors[0].span.file == "<text>"


def test_a_goal_of_cost_wants_a_price() -> None:
    free = BASE.replace("h100_8 with { gpu { price = 2 USD/h } }", "h20_8")
    with pytest.raises(PlanError) as caught:
        searched("vary tp in [1]\nminimize cost", free)
    assert caught.value.diagnostics[0].code == "E309"


def test_every_node_of_a_goal_of_cost_has_a_price() -> None:
    with pytest.raises(PlanError) as caught:
        searched("vary node in [h100_8 with { gpu { price = 2 USD/h } }, h20_8]\nminimize cost")
    assert caught.value.diagnostics[0].code == "E309"


def test_nodes_without_a_price_have_a_front_without_cost() -> None:
    text = BASE.replace(" with { gpu { price = 2 USD/h } }", "")
    for nodes in ("[h800_8, h20_8]", "[h100_8 with { gpu { price = 2 USD/h } }, h20_8]"):
        search = searched(f"vary node in {nodes}, tp in [1, 8]", text)
        assert [g.metric for g in search.front_goals] == ["ttft", "tpot", "throughput_per_gpu"]
        assert len(table(search)[0].tally.front.numbers)
    priced = searched("vary node in [h100_8 with { gpu { price = 2 USD/h } }]", text)
    assert "cost" in [g.metric for g in priced.front_goals]


def test_conditions_count_the_gpus_of_both_pools() -> None:
    _, rows = table(searched("where gpus <= 4", POOLS))
    assert {c["decode.sharding.tp"] for c, _, _ in rows} == {"2"}


def test_invalid_plans_are_counted_by_their_code() -> None:
    found, rows = table(searched("vary tp in [3, 4, 16], batch in [1, 2]"))
    assert {code: count for code, (_, count) in found.refused.items()} == {"E301": 2}
    assert {c["sharding.tp"] for c, _, _ in rows} == {"4"}


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "s.plan"
    source.write_text(BASE.replace("MORE", "vary tp in [1, 2], batch in [1, 4000]\nrequire tpot <= 1 s"))
    rows = tmp_path / "rows.csv"
    assert main(["search", str(source), "--rows", str(rows)]) == 0
    out = capsys.readouterr().out
    assert "4 configurations of 2 plans, 2 meet all" in out
    assert "does not fit in memory" in out
    lines = rows.read_text().splitlines()
    assert lines[0].startswith("configuration,tp,batch,ttft_s,")
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["", "does not fit in memory"] * 2
    assert main(["search", str(source), "--set", "workload.output=4000"]) == 0
    capsys.readouterr()
    source.write_text(BASE.replace("MORE", "vary tp in [1, 2]\nrequire tpot <= 1 us"))
    assert main(["search", str(source), "-o", str(tmp_path / "b.plan")]) == 1
    captured = capsys.readouterr()
    assert "nothing meets every requirement" in captured.out
    assert "is not written" in captured.err
    assert not (tmp_path / "b.plan").exists()
    for arguments, code in (
        (["--search", "t"], "E201"),
        (["--top", "0"], "E400"),
        (["--rows", str(tmp_path / "rows.txt")], "E400"),
        (["--rows", str(tmp_path / "no" / "rows.csv")], "E405"),
    ):
        assert main(["search", str(source), *arguments]) == 2
        assert code in capsys.readouterr().err
    source.write_text("plan p { model = llama_3_1_8b, node = h100_8, workload { input = 1, output = 1 } }")
    assert main(["search", str(source)]) == 2
    assert "no search to run" in capsys.readouterr().err


SHIFTING = """
search s {
  model = llama_3_1_8b, node = h200_8
  workload { input = 300, output = 50 }
  shift { base = ulysses, tensor = ulysses_tp, threshold = 64 }
  vary batch in [1, 16, 80, 300], input in [10, 40, 500]
  require mbu >= 0 %
}
sharding ulysses { sp = 4 }
sharding ulysses_tp {
  mesh seq = 4
  heads, kv_heads, ffn, vocab -> seq
}
"""


def test_two_shardings_in_arrays_equal_those_one_by_one() -> None:
    _, rows = table(searched("", SHIFTING))
    head, _, tail = SHIFTING.partition("  vary")
    plan = head.replace("search s", "plan s") + tail.partition("\n")[2]
    for choices, metrics, _ in rows:
        e = compile_text(plan, overrides=list(choices.items()))[0].estimate()
        assert metrics["tpot"] == pytest.approx(e.tpot_s, rel=1e-12)
        assert metrics["mbu"] == pytest.approx(min(e.prefill.mbu, e.decode.mbu), rel=1e-12)
        assert metrics["comm_share"] == pytest.approx(max(e.prefill.comm_share, e.decode.comm_share), rel=1e-12)


POOLS = """
search s {
  model = llama_3_1_8b with { weights = fp8, kv_cache = fp8 }
  workload { input = 2000, output = 100, batch = 16 }
  prefill { node = h100_8, sharding { tp = 2 } }
  decode { node = h200_8, sharding { tp = 2 } }
  transfer { bandwidth = 50 GB/s, latency = 10 us }
  MORE
  vary decode.sharding.tp in [2, 4], prefill.batch in [1, 4], batch in [8, 64]
}
"""


def test_pools_and_settings_of_a_plan_vary() -> None:
    _, rows = table(searched("", POOLS))
    head, _, _ = POOLS.partition("  MORE")
    for choices, metrics, _ in rows:
        e = compile_text(head.replace("search s", "plan s") + "}", overrides=list(choices.items()))[0].estimate()
        for name, value in (("ttft", e.ttft_s), ("tpot", e.tpot_s), ("throughput", e.throughput_tokens_per_s)):
            assert metrics[name] == pytest.approx(value, rel=1e-12), (name, choices)
    assert len(rows) == 8
    more = "vary micro_batches in [1, 4], overlap in [none, collectives], batch in [16]\nsharding { pp = 4 }"
    found, rows = table(searched(more))
    assert len({m["ttft"] for _, m, _ in rows}) == 2  # one stage after the other has nothing to overlap here
    assert found.plans == 4


# ---- what a search may not say


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        ("vary batch in [[1, 2], 3]", "E210", "expected one value, found a list"),
        ("vary batch in 1..8 by 2", "E210", "expected `*` or `+` after `by`"),
        ('vary batch in 1..8 by + "2"', "E210", "a step must be a number"),
        ("vary batch in 1..8 by * 2 GB", "E210", "a step must be a number"),
        ('vary batch in "1"..8', "E210", "must have numbers as its ends"),
        (
            "vary node.link.bandwidth in 2 * 50 GB/s..400 GB/s by + 50 GB/s",
            "E210",
            "must start with a number and its unit",
        ),
        ("vary tp in [1, 2]\n where -tp", "E210", "a condition must be true or false"),
        ("vary tp in [1, 2]\n where tp and 3", "E210", "`and` needs true or false on both sides"),
        ("vary tp in [1, 2], model.weights in [bf16, fp8]\n where model.weights < 2", "E210", "needs numbers on both"),
        (
            "vary tp in [1, 2], model.weights in [bf16, fp8]\n where model.weights < fp8",
            "E210",
            "needs numbers on both",
        ),
        ("vary tp in [1, 2]\n where tp == two", "E201", "is neither a field that varies"),
        ("vary tp in [1, 2]\n maximize goodput", "E216", "needs requests over time"),
    ],
)
def test_a_search_that_cannot_be_says_why(more: str, code: str, says: str) -> None:
    with pytest.raises(PlanError) as caught:
        searched(more)
    first = caught.value.diagnostics[0]
    assert (first.code[: len(code)], first.span is not None) == (code, True)
    assert says in first.message, first


@pytest.mark.parametrize(
    ("change", "more", "code", "says"),
    [
        (("output = 200", "output = 0"), "vary tp in [1, 2]\n minimize tpot", "E481", "tpot"),
        (("llama_3_1_8b", "nothing"), "minimize tpot", "E201", "nothing"),
        (("llama_3_1_8b", "llama_3_1_8b with { heads = 3 }"), "", "E", "heads"),
    ],
)
def test_a_search_of_a_plan_that_cannot_be_says_why(change: tuple[str, str], more: str, code: str, says: str) -> None:
    with pytest.raises(PlanError) as caught:
        searched(more, BASE.replace(*change))
    first = caught.value.diagnostics[0]
    assert (first.code[: len(code)], first.span is not None) == (code, True)
    assert says in first.message, first


def test_conditions_negate() -> None:
    found = searched("vary tp in [1, 2, 4]\n where not (-tp < -2)")
    assert [c.text for c in found.conditions] == ["not (-tp < -2)"]
    (condition,) = found.conditions
    assert [condition.holds({"tp": tp}) for tp in (1, 2, 4)] == [True, True, False]
