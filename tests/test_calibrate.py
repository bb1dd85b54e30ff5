"""`planc calibrate`: from measurements to a calibration that a plan can use."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from plandsl.backends.calibrate.fit import fit, held_out
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.kinds.gemm import GEMM
from plandsl.backends.calibrate.table import read_table
from plandsl.cli import main
from plandsl.driver import compile_text
from plandsl.entries import catalog_gpu
from plandsl.spec.hardware import FORMS

TRUE = {
    "fixed": 5e-6, "step": 3e-6, "chain": 4e-10, "compute": 0.8, "throttle": 0.2, "memory": 0.85, "intensity": 12.0,
    "blend": 3.0, "quant_row": 2e-7, "quant_walk": 1e-10,
}  # fmt: skip


@pytest.fixture
def measured(tmp_path):
    """GEMMs of a made-up H100 with 3 % noise and a few wild rows, as a folder of CSV files."""
    rng = np.random.default_rng(7)
    sizes = [(m, n, k) for m in (1, 8, 64, 512, 4096) for n in (1024, 4096, 8192, 14336) for k in (1024, 4096, 8192)]
    path = tmp_path / "gemm.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["gpu", "dtype", "m", "n", "k", "time_s", "framework", "act_quant_included", "source"])
        out.writerows(["h100_sxm", "bf16", *size, 1.0, "made", 0, "made"] for size in sizes)
    table = read_table(path)
    times = GEMM.seconds(TRUE, catalog_gpu("h100_sxm"), table) * np.exp(rng.normal(0, 0.03, len(table)))
    times[::17] *= 5
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["gpu", "dtype", "m", "n", "k", "time_s", "framework", "act_quant_included", "source"])
        out.writerows(["h100_sxm", "bf16", *s, t, "made", 0, "made"] for s, t in zip(sizes, times, strict=True))
    return tmp_path


def test_the_fit_finds_what_made_the_data_and_outliers_do_not_pull(measured):
    rows = read_table(measured / "gemm.csv")
    found = fit(GEMM, catalog_gpu("h100_sxm"), rows, "gemm.bf16")
    for name in ("compute", "memory", "fixed"):
        assert found.constants[name] == pytest.approx(TRUE[name], rel=0.15)
    assert found.unseen.median < 0.06
    assert abs(found.unseen.bias) < 0.05


def test_rows_of_one_shape_are_held_out_together(measured):
    rows = read_table(measured / "gemm.csv")
    kept = held_out(GEMM, rows)
    by_shape = {}
    for shape, out in zip(GEMM.shape(rows), kept, strict=True):
        assert by_shape.setdefault(shape, out) == out
    assert 0 < kept.sum() < len(rows) / 2


def test_calibrate_writes_a_calibration_that_a_plan_uses(measured, capsys):
    out = measured / "mine.plan"
    assert main(["calibrate", str(measured), "-o", str(out)]) == 0
    assert "held out" in capsys.readouterr().out
    assert main(["check", str(out)]) == 0
    assert main(["fmt", "--check", str(out)]) == 0
    text = """use "mine.plan"
    plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, calibration = h100_sxm
             workload { input = 512, output = 64, batch = 4 } }"""
    (plan,) = compile_text(text, str(measured / "p.plan"))
    gemm = next(o for o in plan.estimate().prefill.ops if o.name == "gate_up")
    shape = dict(gemm.shape)
    peak = plan.spec.node.gpu.peak("bf16")
    ideal = 2 * shape["m"] * shape["n"] * shape["k"] / peak
    assert 0.5 < ideal / (gemm.time_s / gemm.count) < 0.9


def test_json_lists_every_set(measured, capsys):
    assert main(["calibrate", str(measured / "gemm.csv"), "-o", str(measured / "cal"), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [s["set"] for s in body["sets"]] == ["gemm.bf16"]
    assert (measured / "cal" / "h100_sxm.plan").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("gpu,dtype\nh100_sxm,bf16\n", "has no column m, n, k, time_s"),
        ("gpu,dtype,m,n,k,time_s\nh100_sxm,bf16,1\n", "row 2 has 3 cells"),
    ],
)
def test_files_that_are_no_measurements_are_refused(tmp_path, capsys, content, reason):
    (tmp_path / "gemm.csv").write_text(content)
    assert main(["calibrate", str(tmp_path), "-o", str(tmp_path / "x.plan")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "x.plan").exists()


def test_no_data_and_no_place_to_write(measured, capsys):
    assert main(["calibrate", str(measured / "nothing"), "-o", str(measured / "x.plan")]) == 2
    assert main(["calibrate", str(measured), "-o", str(measured / "no" / "x.plan")]) == 2
    assert "E405" in capsys.readouterr().err


def test_every_kind_belongs_to_a_section_of_calibrations():
    for kind in KINDS:
        assert kind.name.split("_any")[0] in FORMS
        assert set(kind.loose) <= set(kind.start)


def test_the_page_names_every_file_column_and_constant():
    page = (Path(__file__).resolve().parent.parent / "docs" / "calibration.md").read_text("utf-8")
    named = set(re.findall(r"`([^`]+)`", page))
    for kind in KINDS:
        assert {kind.file, *kind.columns, *kind.start} <= named


def test_shipped_calibrations_are_used_and_say_what_they_lack():
    (plan,) = compile_text("""plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }
        workload { input = 512, output = 64, batch = 4 } }""")
    e = plan.estimate()
    assert e.calibration == "h100_sxm"
    assert not [a for a in e.assumed if a[0] == "h100_sxm"]
    (plan,) = compile_text("""plan p { model = llama_3_1_8b, node = h200_8, sharding { tp = 2 }
        workload { input = 512, output = 64, batch = 4 } }""")
    assert ("h200_sxm", "calibration", "h100_sxm") in plan.estimate().assumed


def test_fitted_forms_take_arrays():
    (plan,) = compile_text("""plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }
        workload { input = 512, output = 64, batch = 4 } }""")
    batches = np.array([1, 3, 8, 60, 500])
    many = plan.cost.evaluate(batch=batches)
    for i, batch in enumerate(batches):
        one = plan.cost.evaluate(batch=int(batch))
        for field in ("ttft", "tpot", "throughput", "memory"):
            assert getattr(many, field)[i] == pytest.approx(getattr(one, field), rel=1e-12)
