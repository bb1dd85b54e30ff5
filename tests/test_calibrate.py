"""`planc calibrate`: from measurements to a calibration that a plan can use."""

import csv
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from plandsl.backends.calibrate.fit import fit, held_out
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.kinds.gemm import GEMM
from plandsl.backends.calibrate.relatives import RELATIVES, completing
from plandsl.backends.calibrate.run import files
from plandsl.backends.calibrate.solve import Loss, solve
from plandsl.backends.calibrate.table import read_table
from plandsl.cli import main
from plandsl.driver import compile_text
from plandsl.entries import catalog_calibration, catalog_gpu, catalog_has
from plandsl.grammar.modules import CATALOG
from plandsl.spec.constants import BAND, FORMS, MARGINS, Band, GemmConstants, build, missing, names, read, values
from plandsl.spec.hardware import CONSTANTS, MARGINS_OF, constant_dimension
from plandsl.units import BYTES, NUMBER, TIME

TRUE = GemmConstants(fixed=5e-6, step=3e-6, chain=4e-10, compute=0.8, throttle=0.2, memory=0.85, cached=2.0,
    intensity=12.0, blend=3.0, quant_fixed=2e-6, quant_row=2e-7, quant_walk=1e-10)  # fmt: skip


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
        assert getattr(found.constants, name) == pytest.approx(getattr(TRUE, name), rel=0.15)
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


def test_rows_in_two_files_are_fitted_as_if_in_one_and_a_file_counts_once(measured):
    """The second file lacks a column that a fit needs only of the first."""
    header, *rows = (measured / "gemm.csv").read_text().splitlines()
    halves = [measured / "a", measured / "b"]
    for half, some, columns in zip(halves, (rows[:30], rows[30:]), (9, 8), strict=True):
        half.mkdir()
        lines = (",".join(row.split(",")[:columns]) for row in (header, *some))
        (half / "gemm.csv").write_text("".join(f"{line}\n" for line in lines))
    again = [halves[0], halves[0] / ".." / "a" / "gemm.csv"]
    (_, one), (_, two) = (*files([measured]), *files([*halves, *again]))
    assert one.columns.keys() == two.columns.keys()
    for name in one.columns.keys() - {"source"}:
        np.testing.assert_array_equal(two.columns[name], one.columns[name], name)
    assert main(["calibrate", *map(str, (*halves, *again)), "-o", str(measured / "cal")]) == 0
    text = (measured / "cal" / "h100_sxm.plan").read_text()
    assert text.splitlines()[2].endswith('gemm.csv (made), gemm.csv (unnamed)"')
    assert text.count("gemm {") == 1


def test_a_file_that_is_not_there_is_told_beside_others(measured, capsys):
    assert main(["calibrate", str(measured / "gemm.csv"), "nosuch/moe.csv", "-o", str(measured / "cal")]) == 2
    assert "error[E450]: there is no file or folder nosuch/moe.csv" in capsys.readouterr().err
    assert not (measured / "cal").exists()


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


def test_without_scipy_one_line_names_the_extra(measured, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert main(["calibrate", str(measured), "-o", str(measured / "x.plan")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "error[E451]: fitting constants needs scipy"
    assert "pip install 'plandsl[fit]'" in err
    assert not (measured / "x.plan").exists()


def test_a_solution_is_closer_than_what_made_the_data_and_than_its_neighbours(measured):
    loss = Loss(GEMM, {catalog_gpu("h100_sxm"): read_table(measured / "gemm.csv")})
    found, made_of = ((np.log(list(values(c).values())) - loss.middle) / loss.loose for c in (solve(loss), TRUE))
    assert loss(found) < loss(made_of) < loss(np.zeros(len(found)))
    for nudge in 0.2 * np.vstack([np.eye(len(found)), -np.eye(len(found))]):
        assert loss(found) < loss(found + nudge) + 1e-5


def test_no_data_and_no_place_to_write(measured, capsys):
    assert main(["calibrate", str(measured / "nothing"), "-o", str(measured / "x.plan")]) == 2
    assert main(["calibrate", str(measured), "-o", str(measured / "no" / "x.plan")]) == 2
    assert "E405" in capsys.readouterr().err


def test_every_kind_belongs_to_a_section_of_calibrations():
    for kind in KINDS:
        assert FORMS[kind.name.split("_any")[0]] is type(kind.start)
        assert set(kind.loose) <= set(names(type(kind.start)))


def test_the_page_names_every_file_column_and_constant():
    page = (Path(__file__).resolve().parent.parent / "docs" / "calibration.md").read_text("utf-8")
    named = set(re.findall(r"`([^`]+)`", page))
    for kind in KINDS:
        assert {kind.file, *kind.columns, *names(type(kind.start))} <= named


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


GEMM_BF16 = (
    "fixed = 4 us, step = 3 us, chain = 0.5 ns, compute = 0.8, throttle = 0.2, memory = 0.8, cached = 2,"
    " intensity = 10, blend = 3, quant_fixed = 0 s"
)


def checked(folder, capsys, section):
    """What `planc check` says of a calibration with one section of GEMMs."""
    path = folder / "mine.plan"
    path.write_text(f"calibration mine {{ gemm {{ bf16 {{ {section} }} }} }}\n")
    status = main(["check", str(path)])
    return status, capsys.readouterr().err


def test_a_section_that_lacks_constants_of_its_form_says_which(tmp_path, capsys):
    status, said = checked(tmp_path, capsys, GEMM_BF16)
    assert status == 2
    assert said.startswith("error[E207]: `gemm.bf16` has no `quant_row`, `quant_walk`\n")
    assert ":1:27\n" in said
    assert checked(tmp_path, capsys, f"{GEMM_BF16}, quant_row = 0 s, quant_walk = 0 s")[0] == 0


def test_a_constant_that_the_form_does_not_know_is_pointed_at(tmp_path, capsys):
    status, said = checked(tmp_path, capsys, f"{GEMM_BF16}, quant_row = 0 s, quant_walk = 0 s, trottle = 0.3")
    assert status == 0
    assert "warning[W205]: nothing uses the constant `gemm.bf16.trottle`" in said
    assert "did you mean `throttle`?" in said


def test_constants_have_the_dimension_of_their_field(tmp_path, capsys):
    status, said = checked(tmp_path, capsys, GEMM_BF16.replace("step = 3 us", "step = 3"))
    assert status == 2
    assert "a time" in said
    assert constant_dimension("gemm.bf16.step") == constant_dimension("elementwise.any.row") == TIME
    assert constant_dimension("collective.nccl.half") == BYTES
    assert constant_dimension("gemm.bf16.low") == NUMBER
    assert constant_dimension("nothing.of.it") is None
    assert set(map(constant_dimension, CONSTANTS)) == {NUMBER, TIME}


def test_constants_are_read_from_a_section_and_written_back():
    section = {"low": 0.8, "high": 1.2, **values(TRUE), "more": 1.0}
    assert read(GemmConstants, section) == TRUE._replace(band=Band(0.8, 1.2))
    assert read(GemmConstants, values(TRUE) | {"low": 0.8}) == TRUE
    for form in FORMS.values():
        assert names(form) == form._fields[:-1]
        assert build(form, range(len(names(form)))).band is None
    del section["blend"], section["step"]
    assert missing(GemmConstants, section) == ("step", "blend")
    with pytest.raises(ValueError, match="step, blend"):
        read(GemmConstants, section)


def test_shipped_sections_are_those_of_their_forms():
    for path in sorted((CATALOG / "calibrations").glob("*.plan")):
        calibration = catalog_calibration(path.stem)
        sections = {name.rpartition(".")[0] for name, _ in calibration.values if name.count(".") == 2}
        for section in sections:
            kind, _, inner = section.partition(".")
            told = set(calibration.section(section))
            if inner == MARGINS_OF:
                assert told <= set(MARGINS), section
                continue
            known = {*values(calibration.constants(FORMS[kind], section))}
            assert {*known, "low", "high"} <= told <= {*known, *BAND}, section


def test_what_completes_a_calibration_is_among_its_relatives():
    assert completing("a40") == ("a6000", "a100_sxm")
    assert completing("mi300x") == ("mi355x",)
    assert completing("h100_sxm") == completing("no_such_gpu") == ()
    for name in filter(partial(catalog_has, "calibration"), RELATIVES):
        written = dict(catalog_calibration(name).assumed)["otherwise"].split(", ")
        assert tuple(n for n in written if n in RELATIVES) == completing(name)
