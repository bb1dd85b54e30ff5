"""Errors of servers by class, the rows that rules leave out, and what a choice by prediction costs."""

import numpy as np
import pytest
from attrs import evolve

from benchmarks import aims, choices
from benchmarks.deployments import Servers, sections
from benchmarks.served import NEEDED, Value, left_out_by_rule, read_residuals
from plandsl import limits
from plandsl.backends.accuracy.lengths import draw_cut, draw_lengths, read_jitter
from plandsl.backends.accuracy.run import read
from plandsl.backends.accuracy.serving_rows import serving_row
from plandsl.backends.accuracy.simulated import row_servers, simulate_row
from plandsl.backends.accuracy.spread import Refused, Spread, with_room
from plandsl.backends.calibrate import servers
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_cost
from plandsl.entries import catalog_has
from tests.test_accuracy_rows import BASE, POOLS, write

ONE = Value(
    "serving", 0, "vllm", "h100_sxm", "llama-3.1-8b", dense=True, lengths="jittered", metric="tpot", measured=1.0,
    predicted=1.0, low=0.9, high=1.1,
)  # fmt: skip


def values(ratios, **changes):
    return [ONE._replace(at=at, predicted=ratio, **changes) for at, ratio in enumerate(ratios)]


def test_errors_are_those_of_the_definitions():
    found = aims.errors_of([*values([0.5, 1.05, 1.2, 0.9]), ONE._replace(predicted=np.nan, reason="none")])
    assert (found.rows, found.answered) == (5, 4)
    assert found.median == pytest.approx(0.15)
    assert found.p90 == pytest.approx(np.quantile([0.5, 0.05, 0.2, 0.1], 0.9))
    assert found.bias == pytest.approx(-0.025)
    assert found.in_band == 1.0


def test_each_class_has_its_aim_and_assumed_lengths_have_none():
    rows = [
        *values([1.07, 1.01, 1.02]),
        *values([1.07, 1.09, 1.09], metric="throughput"),
        *values([1.01, 1.02, 1.9], dense=False),
        *values([1.5], lengths="assumed"),
        *values([1.19], lengths="fixed", metric="ttft"),
    ]
    _, *lines = aims.aims_table(rows)
    assert [(line[0], line[1], line[2], line[-2], line[-1]) for line in lines] == [
        ("dense", "jittered", "TPOT", "8 %", "yes"),
        ("dense", "jittered", "throughput", "8 %", "no"),
        ("dense", "fixed", "TTFT", "20 %", "yes"),
        ("dense", "fixed (assumed)", "TPOT", "-", "-"),
        ("experts", "jittered", "TPOT", "10 %", "no"),  # the median is good, the tail is not
    ]


def test_misses_name_their_cause(monkeypatch):
    monkeypatch.setattr(aims, "CAUSES", {("vllm", "*", "*", "*"): "any", ("vllm", "*", "*", "ttft"): "first"})
    rows = values([1.5] * 5, metric="ttft") + values([1.5] * 5, gpu="x") + values([1.0] * 5, gpu="y")
    _, *lines = aims.misses_table(rows)
    assert [line[-1] for line in lines] == ["first", "any"]
    assert aims.misses_table(values([1.5] * 5, engine="z"))[1][-1] == aims.UNKNOWN


def option(tpot, rate, predicted_tpot=None, predicted_rate=None):
    return choices.Option(tpot, rate, predicted_tpot or tpot, predicted_rate or rate)


def test_a_choice_costs_what_the_best_has_more():
    options = [option(0.01, 10), option(0.02, 20, predicted_rate=5), option(0.03, 30), option(0.04, 40)]
    assert choices.choose(options, 0.02).regret == pytest.approx(0.5)
    assert choices.choose(options, 0.03).regret == 0.0
    assert choices.choose(options, 0.005) is None
    late = [option(0.031, 10, predicted_tpot=0.02), option(0.032, 20, predicted_tpot=0.02), option(0.02, 5)]
    assert choices.choose(late, 0.03) == (0.03, 3, 1.0, False)
    noisy = [option(0.031, 20, predicted_tpot=0.02), option(0.02, 5)]
    assert choices.choose(noisy, 0.03).regret == 0.0
    nobody = [option(0.02, 5, predicted_tpot=0.09), option(0.01, 2, predicted_tpot=0.08)]
    assert choices.choose(nobody, 0.03).regret == pytest.approx(0.6)


def test_residuals_are_read_in_both_dialects(tmp_path):
    rows = [
        {"engine": "vllm", "gpu": "g", "model": "m", "metric": "tpot_s", "predicted": 1.1, "measured": 1,
         "fold": "gpu", "dense": 1, "lengths": "assumed", "row": 7},
        {"engine": "vllm", "gpu": "g", "model": "m", "metric": "ttft_s", "predicted": 1.1, "measured": 1,
         "fold": "model", "kind": "moe", "jitter": 1},
        {"engine": "vllm", "gpu": "g", "model": "m", "metric": "ttft_s", "predicted": 9, "measured": 1,
         "fold": "version", "kind": "moe", "jitter": 0},
    ]  # fmt: skip
    found = read_residuals(write(tmp_path / "residuals.csv", rows))
    assert [(v.at, v.dense, v.lengths, v.metric, v.fold) for v in found] == [
        (7, True, "assumed", "tpot", "gpu"),
        (-1, False, "jittered", "ttft", "model"),
    ]


def test_residuals_that_are_no_table_are_told(tmp_path, monkeypatch):
    row = dict.fromkeys(NEEDED, "1") | {"fold": "gpu", "dense": "1", "lengths": "fixed"}
    good = write(tmp_path / "good.csv", [row])
    for read_it in (read_residuals, servers.read_residuals):
        assert len(read_it(good)) == 1
        for rows, words in (
            ([row, row | {"predicted": "much"}], "much"),
            ([{name: cell for name, cell in row.items() if name != "fold"}], "it has no column fold"),
        ):
            with pytest.raises(PlanError, match=words) as caught:
                read_it(write(tmp_path / "bad.csv", rows))
            assert [d.code for d in caught.value.diagnostics] == ["E450"]
        with limits.override({"table_bytes": 20}), pytest.raises(PlanError, match="larger than 20 bytes"):
            read_it(good)


def test_rules_leave_rows_out_and_the_page_counts_them(tmp_path):
    rows = [
        *(BASE | {"concurrency": n, "tpot_s": "0.004", "output_tok_per_s": ""} for n in "1234"),
        BASE | {"output_tok_per_s": "900000"},
        BASE | {"notes": "run with --enforce-eager"},
        BASE | {"model": "llama-3.1-405b"},
    ]
    table = read(write(tmp_path / "serving.csv", rows))
    assert sorted(left_out_by_rule(table, "serving")) == [4, 5, 6]
    text = "\n".join(sections(Servers.read(tmp_path), lambda table: "\n".join(" | ".join(row) for row in table)))
    assert "1 | its notes say --enforce-eager" in text
    assert "dense | jittered | TPOT | 4 | 4" in text
    assert "all | 4 |" in text


def test_predictions_that_were_written_are_read_again(tmp_path):
    from plandsl.cli import main

    write(tmp_path / "serving.csv", [BASE, BASE | {"gpu": "abacus"}])
    assert main(["accuracy", str(tmp_path), "--rows", str(tmp_path / "rows.csv")]) == 0
    new, old = Servers.read(tmp_path), Servers.read(tmp_path, rows=tmp_path / "rows.csv")
    for metric, answer in new.predicted["serving"].answers.items():
        again = old.predicted["serving"].answers[metric]
        np.testing.assert_allclose(again.predicted, answer.predicted)
        assert again.reason.tolist() == answer.reason.tolist()


def test_lengths_are_drawn_as_rows_say():
    rng = np.random.default_rng(1)
    even = draw_lengths(900, (0.8 / 0.9, 1 / 0.9), 10_000, rng)
    assert (even.min(), even.max()) == (800, 1000)
    cut = draw_cut(294, 1024, 50_000, rng)
    assert cut.max() == 1024
    assert cut.mean() == pytest.approx(294, rel=0.01)
    assert read_jitter("uniform 0.5-1.0 x nominal") == (0.5, 1.0)
    assert read_jitter("fixed (assumed)") == (1.0, 1.0)


def test_degrees_become_axes_that_end_where_groups_do():
    def has(dim):
        return dim in ("heads", "ffn", "experts")

    found = Spread(tp=2, attn_dp=4, ep=2).sharding(has)
    assert found == (
        "sharding { mesh group = 2, rest = 2, last = 2; experts -> group; expert_ffn -> rest, last; "
        "batch -> group, rest; heads, ffn -> last }"
    )
    assert Spread(dp=2, tp=4).sharding(has) == "sharding { dp = 2; tp = 4 }"
    assert Spread().sharding(has) == ""
    with pytest.raises(Refused, match="do not nest"):
        Spread(tp=2, attn_dp=3, ep=2).sharding(has)


def test_what_was_measured_had_room():
    plain = serving_row(BASE | {"model": "llama-3.3-70b"}, catalog_has).plan
    assert "engine = vllm with { memory_fraction = 97 % }" in with_room(plain)
    raised = plain.replace("engine = vllm", "engine = trtllm with { step_tokens = 9216 }")
    assert "engine = trtllm with { step_tokens = 9216, memory_fraction = 97 % }" in with_room(raised)
    own, more = (compile_cost(text).memory.capacities[0] for text in (plain, with_room(plain)))
    assert more > own


@pytest.mark.parametrize("changes", [{}, POOLS | {"decode_tp": "1", "decode_attn_dp": "2"}])
def test_fewer_rounds_say_nearly_what_all_rounds_do(changes, monkeypatch):
    row = serving_row(BASE | {"model": "llama-3.1-8b", "osl_tokens": "64"} | changes, catalog_has)
    row = evolve(row, clients=6.0, requests=60.0)
    model = compile_cost(row.plan)
    servers, many = row_servers(model)
    whole = simulate_row(model, servers, many, row)
    monkeypatch.setattr("plandsl.backends.accuracy.simulated.TOKENS", 0)
    short = simulate_row(model, servers, many, row)
    assert (short.by == whole.by) == (not changes)
    assert short.tpot == pytest.approx(whole.tpot, rel=0.02)
    assert short.rate == pytest.approx(whole.rate, rel=0.06)
    assert short.ttft == pytest.approx(whole.ttft, rel=0.3)
    monkeypatch.setattr("plandsl.backends.accuracy.simulated.MOST_TOKENS", 0)
    assert simulate_row(model, servers, many, row).by == ("closed form" if changes else "simulation")
