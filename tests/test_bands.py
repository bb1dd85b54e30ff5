"""Bands by distance from what was fitted, and where constants come from: kernels and engines."""

import json
import math

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.calibrate.conformal import NONE, residuals, together
from plandsl.backends.calibrate.distance import Left, kind_margins
from plandsl.backends.calibrate.fit import Errors, Fitted
from plandsl.backends.calibrate.servers import server_bands, with_bands
from plandsl.backends.calibrate.table import Table
from plandsl.backends.calibrate.write import plan_texts, pooled_text
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.entries import catalog_calibration
from plandsl.grammar import calibrations
from plandsl.searches.answer import alike_ranks
from plandsl.searches.show import mark_of
from plandsl.show_engine import show_engine
from plandsl.spec.constants import Band, GemmConstants
from plandsl.spec.hardware import CalibrationSpec

FOLDS = ("gpu", "model", "source")
LOAD = "workload { input = 512, output = 64, batch = 4 }"
PLAN = "plan p {{ model = llama_3_1_8b, node = {node}, sharding {{ tp = 8 }}, {more} }}"


def compiled(*more, node="h100_8", before=""):
    (plan,) = compile_text(before + "\n" + PLAN.format(node=node, more=", ".join((*more, LOAD))))
    return plan


def test_a_band_is_wider_beyond_the_fitted_sizes():
    band = Band(0.9, 1.2, beyond_low=0.5, beyond_high=2.0, least=1e-5, most=1e-3)
    assert band.at(1e-5) == band.at(1e-3) == band.at(None) == (0.9, 1.2)
    assert band.at(0.9e-5) == band.at(1.1e-3) == (0.45, 2.4)


def lent_calibration():
    values = {"gemm.bands.lent_low": 0.5, "gemm.bands.lent_high": 3.0, "gemm.bf16.low": 0.8, "gemm.bf16.high": 1.1,
              "gemm.bf16.least": 1e-6, "gemm.bf16.most": 1e-3, "elementwise.any.low": 0.9}  # fmt: skip
    return CalibrationSpec("h100_sxm", tuple(values.items()))


def test_constants_of_another_gpu_have_the_margins_of_their_kind():
    mine, lent = (lent_calibration().placed_on((gpu,)) for gpu in ("h100_sxm", "l40s"))
    assert mine.section("gemm.bf16")["low"] == 0.8
    assert lent.section("gemm.bf16") == {"low": 0.4, "high": pytest.approx(3.3)}  # of all sizes
    assert lent.section("elementwise.any")["low"] == pytest.approx(0.81)  # no margin is known: twice, as a logarithm


def test_what_completes_a_calibration_says_where_it_comes_from():
    own = CalibrationSpec("a40", (("gemm.bf16.low", 0.9),))
    more, relative = (
        CalibrationSpec(n, ((f"{k}.any.low", 0.9),)) for n, k in (("a40_more", "moe"), ("a6000", "mla_decode"))
    )
    pooled, generic = (
        CalibrationSpec("pooled", (("collective.any.low", 0.9),)),
        CalibrationSpec("generic", (("hbm", 0.8),)),
    )
    made = own
    for other in (more, relative, pooled, generic):
        made = made.fill_from(other)
    found = dict(made.placed_on(("a40",)).origins)
    assert found["gemm/16"] == found["moe/any"] == "fitted here"
    assert found["mla_decode"] == "borrowed from a6000"
    assert (found["collective"], found["hbm"]) == ("pooled", "generic")
    assert dict(made.placed_on(("rtx_3090",)).origins)["gemm/16"] == "borrowed from a40"


def test_ops_say_where_their_constants_come_from():
    own, lent, flat = (
        compiled(*more, node=node).estimate()
        for more, node in (((), "h100_8"), ((), "h200_8"), (("calibration = generic",), "h100_8"))
    )
    assert {op.origin for op in own.decode.ops if op.op == "gemm"} == {"fitted here"}
    assert {op.origin for op in lent.decode.ops if op.op == "gemm"} == {"borrowed from h100_sxm"}
    assert {op.origin for op in flat.decode.ops if op.layer == "fitted"} == {"pooled"}
    wider = {op.name: op.band for op in lent.decode.ops if op.op == "gemm"}
    for op in own.decode.ops:
        if op.op == "gemm":
            low, high = wider[op.name]
            assert low <= op.band[0] <= op.band[1] <= high


def test_a_report_names_what_was_not_fitted_here(tmp_path, capsys):
    for node, said in (("h100_8", False), ("h200_8", True)):
        file = tmp_path / f"{node}.plan"
        file.write_text(PLAN.format(node=node, more=LOAD))
        assert main(["compile", str(file)]) == 0
        assert ("decode borrowed from h100_sxm" in capsys.readouterr().out) == said
        assert main(["explain", str(file)]) == 0
        assert "constants: TTFT " in capsys.readouterr().out


def test_words_of_reports_are_explained(capsys):
    assert main(["explain", "Fitted here"]) == 0
    assert "rows of this GPU" in capsys.readouterr().out
    assert main(["explain", "band", "--json"]) == 0
    assert "80 %" in json.loads(capsys.readouterr().out)["text"]
    assert main(["explain", "borrowd"]) == 2
    assert "`borrowed`" in capsys.readouterr().err


# ---- what a calibration says


def fitted(path, near=NONE, sizes=(1e-6, 1e-3)):
    errors = Errors(rows=50, median=0.05, mean=0.05, p90=0.1, bias=0.0, low=math.exp(-0.1), high=math.exp(0.1))
    constants = catalog_calibration("h100_sxm").constants(GemmConstants, "gemm.bf16")._replace(band=None)
    return Fitted(path, constants, errors, None, left=Left(near=near), sizes=sizes)


def off_by(factor, group):
    return residuals(np.ones(9), np.full(9, factor), group)


def test_the_constants_of_a_calibration_are_read_once(monkeypatch):
    """A calibration of a user is made with what completes it, and again until it has what its plan needs."""
    read, asked = calibrations._constants, []

    def counted(reader, path):
        asked.append(f"{reader.record.name} {path}")
        return read(reader, path)

    monkeypatch.setattr(calibrations, "_constants", counted)
    before = "calibration mine = h100_sxm with { hbm = 0.85 }"
    compiled("calibration = mine", before=before)
    assert asked.count("mine ") == 1
    asked.clear()
    compiled("calibration = mine", before=before)
    assert {word for word in asked if word.endswith(" ")} == {"mine "}  # those of the catalog are known by now


def test_a_calibration_has_its_bands_and_the_margins_of_its_kinds():
    near = off_by(math.exp(0.05), "a")
    beyond, lent = together([off_by(1.3, "a"), off_by(0.8, "b")]), together([off_by(3.0, "x"), off_by(0.4, "y")])
    margins = kind_margins({"gemm": [Left(near, beyond, lent)]})
    text = plan_texts("h100_sxm", [fitted("gemm.bf16", near)], "made", margins=margins)["h100_sxm"]
    own = compiled("calibration = h100_sxm", before=text).spec.calibration
    band = own.constants(GemmConstants, "gemm.bf16").band
    assert (band.least, band.most) == pytest.approx((1e-6, 1e-3))
    assert band.low == pytest.approx(math.exp(-0.1), rel=1e-3)
    assert band.high == pytest.approx(math.exp(0.15), rel=1e-3)
    assert band.beyond_low == pytest.approx(0.8, rel=1e-3)
    assert band.beyond_high == pytest.approx(1.3 / math.exp(0.05), rel=1e-3)
    lent_band = own.placed_on(()).constants(GemmConstants, "gemm.bf16").band
    assert lent_band.high == pytest.approx(3.0 * math.exp(0.1), rel=1e-3)
    assert lent_band.at(1.0) == (lent_band.low, lent_band.high)


def test_shared_constants_have_the_band_of_gpus_left_out():
    one = evolve(fitted("gemm.bf16", sizes=None), left=Left(lent=together([off_by(0.5, "x"), off_by(2.0, "y")])))
    text = pooled_text([one])
    assert "low = 0.5" in text
    assert "high = 2" in text


def test_unknown_margins_are_pointed_at(tmp_path, capsys):
    file = tmp_path / "x.plan"
    file.write_text(
        "calibration c { gemm { bands { beyond_lo = 0.9 } } }\n"
        + PLAN.format(node="h100_8", more=f"calibration = c, {LOAD}")
    )
    assert main(["check", str(file)]) == 0
    assert "did you mean `beyond_low`" in capsys.readouterr().err


@given(low=st.floats(0.5, 1), high=st.floats(1, 2), wide=st.floats(0.1, 1), seconds=st.floats(1e-9, 1e3))
def test_a_band_is_never_narrower_beyond_the_fitted_sizes(low, high, wide, seconds):
    band = Band(low, high, beyond_low=wide, beyond_high=1 / wide, least=1e-6, most=1e-2)
    least, most = band.at(seconds)
    assert least <= low
    assert most >= high


# ---- engines

BLOCK = """
engine e {
  step = 1 ms
  bands {
    gpus = ["h100_sxm"]
    models = ["llama_3_1_8b"]
    dense_fixed {
      seen { ttft = [0.8, 1.25], tpot = [0.95, 1.05], throughput = [0.9, 1.1] }
      model { tpot = [0.9, 1.1] }
      gpu { tpot = [0.8, 1.08] }
    }
    dense_jittered { seen { tpot = [0.7, 1.3] } }
    moe_fixed { model { tpot = [0.5, 2] } }
  }
}
"""


def served(model="llama_3_1_8b", node="h100_8", load=LOAD, engine="e", before=BLOCK):
    text = f"{before}\nplan p {{ model = {model}, node = {node}, sharding {{ tp = 8 }}, engine = {engine}, {load} }}"
    (plan,) = compile_text(text)
    return plan.spec


@pytest.mark.parametrize(
    ("change", "band", "origin"),
    [
        ({}, (0.95, 1.05), "fitted here"),
        ({"model": "llama_3_2_3b"}, (0.9, 1.1), "borrowed from llama_3_1_8b"),
        ({"node": "h200_8"}, (0.8, 1.08), "borrowed from h100_sxm"),
        ({"node": "h200_8", "model": "llama_3_2_3b"}, (0.8, 1.1), "borrowed from h100_sxm"),
        ({"model": "gpt_oss_20b"}, (0.5, 2.0), "borrowed from llama_3_1_8b"),
        ({"before": "engine e { bands { } }"}, None, "pooled"),
        ({"before": BLOCK.replace("step = 1 ms", "assumed { step = 1 ms }")}, (0.95, 1.05), "pooled"),
    ],
)
def test_an_engine_has_a_band_for_what_it_serves(change, band, origin):
    spec = served(**change)
    assert band is None or spec.engine_band("tpot") == band
    assert spec.engine_origin == origin


def test_the_band_of_latency_is_that_of_the_first_token_and_of_all_others():
    load = "workload { input = 512, output = 64, batch = 4 }"
    text = f"{BLOCK}\nplan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ tp = 8 }}, engine = e, {load} }}"
    found = compile_text(text)[0].estimate()
    ttft, tpot, latency = (found.band(name) for name in ("ttft_s", "tpot_s", "latency_s"))
    assert tpot == pytest.approx((0.95 * found.tpot_s, 1.05 * found.tpot_s))
    assert latency == pytest.approx([first + 63 * step for first, step in zip(ttft, tpot, strict=True)])


def test_loads_of_unlike_lengths_have_bands_of_their_own():
    spec = served()
    assert spec.engine_band("tpot", jittered=True) == (0.7, 1.3)
    over_time = "workload { input = uniform(400, 600), output = 64, rate = 3 req/s }"
    assert served(load=over_time).engine_band("tpot") == (0.7, 1.3)
    assert served(load="workload { input = 512, output = 64, concurrency = 4 }").engine_band("tpot") == (0.95, 1.05)


def test_a_band_that_an_engine_states_by_itself_holds_for_all_plans():
    stated = BLOCK.replace("step = 1 ms", "step = 1 ms, tpot_low = 0.5, tpot_high = 1.5")
    assert served(node="h200_8", before=stated).engine_band("tpot") == (0.5, 1.5)
    assert served(before=stated).engine_band("ttft") == (0.8, 1.25)


def test_an_engine_is_shown_with_its_bands():
    spec = served()
    again = compile_text(show_engine(spec.engine) + "\n" + PLAN.format(node="h100_8", more=f"engine = e, {LOAD}"))
    assert again[0].spec.engine.bands == spec.engine.bands


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[0.95, 1.05]", "[1.05, 0.95]", "E214"),
        ("[0.95, 1.05]", "[0.95]", "E214"),
        ("[0.95, 1.05]", "0.95", "E210"),
        ('["h100_sxm"]', '"h100_sxm"', "E210"),
        ("seen {", "sean {", "E206"),
        ("moe_fixed", "moe_fxed", "E206"),
        ("ttft =", "tfft =", "E206"),
    ],
)
def test_wrong_bands_of_an_engine_are_pointed_at(old, new, said):
    with pytest.raises(PlanError) as caught:
        served(before=BLOCK.replace(old, new, 1))
    assert said in {d.code for d in caught.value.diagnostics}


def table(*groups):
    """Residuals: ``(engine, gpu, model, lengths, fold, factor)``, ten rows each of dense models, of TPOT."""
    rows = [
        (engine, gpu, model, 1.0, lengths, "tpot_s", 1.0, 1.0, factor * (1 + 0.001 * i), fold)
        for engine, gpu, model, lengths, fold, factor in groups
        for i in range(10)
    ]
    names = ("engine", "gpu", "model", "dense", "lengths", "metric", "concurrency", "predicted", "measured", "fold")
    return Table({name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


def test_an_engine_with_few_rows_borrows_the_bands_of_others():
    others = [("a", f"gpu{i}", "m", "jittered", fold, 1 + 0.02 * i) for i in range(9) for fold in FOLDS]
    alone = server_bands(table(*others))["a"]
    assert alone.pairs["dense_jittered"] == 9
    assert alone.bands.gpus == tuple(f"gpu{i}" for i in range(9))
    found = dict(server_bands(table(*others, ("b", "gpu0", "m", "jittered", "gpu", 0.5)))["b"].bands.factors)
    low, high = found["dense_jittered.gpu.tpot"]
    assert low <= 0.51  # its own row, which is half of its band
    assert high > 1.1  # and those of the other engine
    for load in ("dense_jittered", "dense_fixed", "moe_fixed"):
        seen, model, gpu = (found[f"{load}.{distance}.tpot"] for distance in ("seen", "model", "gpu"))
        assert gpu[0] <= seen[0] <= seen[1] <= gpu[1]
        assert model[0] <= seen[0] <= seen[1] <= model[1]


def test_bands_replace_those_that_the_file_of_an_engine_has():
    made = server_bands(
        table(*(("e", f"gpu{i}", "m", "fixed", fold, 1 + 0.1 * i) for i in range(4) for fold in FOLDS))
    )["e"]
    text = with_bands("engine e {\n  tpot_low = 0.5\n  step = 1 ms\n  assumed {\n    first = 2 ms\n  }\n}\n", made)
    assert "tpot_low" not in text
    assert with_bands(text, made) == text
    spec = served(before=text)
    assert spec.engine.bands.gpus == made.bands.gpus
    assert dict(spec.engine.bands.factors)["dense_fixed.gpu.tpot"] == pytest.approx(
        dict(made.bands.factors)["dense_fixed.gpu.tpot"], rel=1e-3
    )


# ---- rankings


def row(value, factor):
    return value, (value / factor, value * factor)


def test_rows_may_trade_places_where_each_lies_in_the_others_band():
    wide, narrow = row(100.0, 1.5), row(80.0, 1.1)
    assert alike_ranks([wide, narrow]) == [(), ()]  # 80 lies in the band of 100, but 100 not in that of 80
    found = alike_ranks([row(100.0, 1.2), row(90.0, 1.2), row(80.0, 1.2), None, row(50.0, 1.2)])
    assert found == [(2,), (1, 3), (2,), (), ()]
    assert [mark_of(rank, found) for rank in range(1, 6)] == ["", "=", "~", "", ""]


def test_a_ranking_marks_rows_and_says_where_constants_come_from(tmp_path, capsys):
    file = tmp_path / "s.plan"
    file.write_text(
        f"{BLOCK.replace('step = 1 ms', 'step = 1 ms, throughput_low = 0.5, throughput_high = 2')}\n"
        + PLAN.format(node="h200_8", more="engine = e, workload { input = 512, output = 64 }")
        + "\nsearch s { plan = p, vary batch in [30, 31, 32]; maximize throughput }"
    )
    assert main(["search", str(file), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["searches"]
    assert [row["within_band"] for row in found["top"]] == [[2, 3], [1, 3], [1, 2]]
    assert {row["origin"] for row in found["top"]} == {"borrowed from h100_sxm; engine e borrowed from h100_sxm"}
    assert found["within_band_of_first"] == [2, 3]
    assert main(["search", str(file)]) == 0
    said = capsys.readouterr().out
    assert "2=" in said
    assert "their order may be wrong" in said
    assert "constants: borrowed from h100_sxm; engine e borrowed from h100_sxm" in said
