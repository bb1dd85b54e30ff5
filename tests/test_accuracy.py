"""`planc accuracy`: predictions of the shipped calibrations beside measurements."""

import csv
import json
import re
import time
from xml.etree import ElementTree

import attrs
import numpy as np
import pytest

from benchmarks import accuracy
from benchmarks.splits import divide, judged_errors
from plandsl.backends.accuracy.answer import Answer
from plandsl.backends.accuracy.kernels import NO_CONSTANTS, NO_GPU, NO_NUMBER, Shelf, predict
from plandsl.backends.accuracy.run import evaluate, read
from plandsl.backends.accuracy.score import NOT_POSITIVE, NOT_SANE, UNMEASURED, judge
from plandsl.backends.calibrate.fit import held_out
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.kinds.elementwise import ELEMENTWISE, ELEMENTWISE_ANY
from plandsl.backends.calibrate.kinds.gemm import GEMM
from plandsl.backends.calibrate.relatives import RELATIVES
from plandsl.cli import main
from plandsl.entries import catalog_calibration, catalog_gpu, catalog_link
from plandsl.spec.constants import GemmConstants, values
from plandsl.spec.hardware import CalibrationSpec
from tests.draws import some
from tests.tables import WHOLE

HEADER = ["gpu", "dtype", "m", "n", "k", "time_s", "framework", "act_quant_included"]
SIZES = [(m, n, k) for m in (1, 64, 4096) for n in (1024, 8192) for k in (1024, 4096)]
START = values(ELEMENTWISE.start)
STATISTICS = ("median_ape", "mean_ape", "p90_ape", "bias", "in_band_80")


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def gemms(folder, gpu="h100_sxm", calibration="h100_sxm", factor=1.0, dtype="bf16"):
    """GEMMs that took what the calibration says, times a factor."""
    rows = [[gpu, dtype, *size, 1.0, "made", 0] for size in SIZES]
    table = read(write(folder / "gemm.csv", HEADER, rows))
    constants = catalog_calibration(calibration).constants(GemmConstants, f"gemm.{dtype}")
    times = GEMM.seconds(constants, catalog_gpu(gpu), table) * factor
    rows = [[*row[:5], repr(float(t)), *row[6:]] for row, t in zip(rows, times, strict=True)]
    write(folder / "gemm.csv", HEADER, rows)
    return rows


def answers(place, capsys):
    """The machine form, which has to come out well."""
    assert main(["accuracy", str(place), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def only(place, capsys):
    (row,) = answers(place, capsys)["rows"]
    return row


def test_json_has_a_row_for_each_file_gpu_and_group(tmp_path, capsys):
    rows = gemms(tmp_path)
    write(tmp_path / "gemm.csv", HEADER, [*rows, *([*r[:1], "fp8", *r[2:]] for r in rows)])
    header = ["gpu", "op", "dtype", "rows", "cols", "time_s", "framework"]
    write(tmp_path / "elementwise.csv", header, [["b200_sxm", "rmsnorm", "bf16", 512, 4096, 1e-5, "made"]])
    body = answers(tmp_path, capsys)
    assert [(r["file"], r["gpu"], r["group"], r["metric"]) for r in body["rows"]] == [
        ("gemm", "h100_sxm", "bf16", "time_s"),
        ("gemm", "h100_sxm", "fp8", "time_s"),
        ("elementwise", "b200_sxm", "bf16", "time_s"),
    ]
    for row in body["rows"]:
        assert {"n", "answered", "refused", *STATISTICS} <= set(row)
    assert [(t["file"], t["n"]) for t in body["totals"]] == [("gemm", 2 * len(SIZES)), ("elementwise", 1)]


def test_exact_predictions_have_no_error_and_lie_in_the_band(tmp_path, capsys):
    gemms(tmp_path)
    row = only(tmp_path, capsys)
    assert row["n"] == row["answered"] == len(SIZES)
    for name in ("median_ape", "mean_ape", "p90_ape", "bias"):
        assert row[name] == pytest.approx(0, abs=1e-9)
    assert row["in_band_80"] == 1


def test_a_file_may_be_named_in_place_of_a_folder(tmp_path, capsys):
    gemms(tmp_path)
    assert only(tmp_path / "gemm.csv", capsys)["answered"] == len(SIZES)


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_wrong_times_show_in_the_bias_and_leave_the_band(tmp_path, capsys, factor):
    gemms(tmp_path, factor=factor)
    row = only(tmp_path, capsys)
    assert row["bias"] == pytest.approx(1 / factor - 1)
    assert row["median_ape"] == pytest.approx(abs(1 / factor - 1))
    assert row["in_band_80"] == 0


def test_statistics_are_those_of_the_definitions():
    measured = np.array([1.0, 1.0, 1.0, 1.0, 2.0])
    predicted = np.array([0.5, 1.0, 1.2, 1.4, 2.2])
    answer = Answer(predicted, predicted * 0.9, predicted * 1.1, np.full(5, ""))
    score = judge("f", "time_s", gpus=np.full(5, "g"), groups=np.full(5, ""), measured=measured, answer=answer).score()
    assert score.median == pytest.approx(0.2)
    assert score.mean == pytest.approx(np.mean([0.5, 0, 0.2, 0.4, 0.1]))
    assert score.p90 == pytest.approx(np.quantile([0.5, 0, 0.2, 0.4, 0.1], 0.9))
    assert score.bias == pytest.approx(0.1)  # ratios .5 1 1.2 1.4 1.1
    assert score.in_band == pytest.approx(2 / 5)


def test_every_row_is_counted_and_every_refusal_has_its_reason(tmp_path, capsys):
    rows = gemms(tmp_path)
    bad = [
        ["h100_sxm", "bf16", 8, 8, 8, "", "made", 0],
        ["h100_sxm", "bf16", 8, 8, 8, 0, "made", 0],
        ["h100_sxm", "bf16", 8, 8, 8, -1e-5, "made", 0],
        ["h100_sxm", "bf16", 8, 8, 8, 1e-300, "made", 0],
        ["h100_sxm", "bf16", "many", 8, 8, 1e-5, "made", 0],
        ["h100_sxm", "bf16", "inf", 8, 8, 1e-5, "made", 0],
        ["h100_sxm", "bf17", 8, 8, 8, 1e-5, "made", 0],
    ]
    write(tmp_path / "gemm.csv", HEADER, [*rows, *bad])
    body = answers(tmp_path, capsys)
    (total,) = body["totals"]
    assert total["n"] == len(rows) + len(bad) == sum(r["n"] for r in body["rows"])
    assert total["answered"] == len(rows)
    assert total["refused"][UNMEASURED] == 1
    assert total["refused"][NOT_POSITIVE] == 2
    assert total["refused"][NOT_SANE] == 1
    assert total["refused"]["a wrong cell in `m`"] == 2
    (note,) = body["notes"]
    assert note["code"] == "N450"
    assert f"row {len(rows) + 3}: `time_s` is `0`, and `time_s` is a number from 1e-12 to" in note["message"]
    assert "; 4 more cells are wrong" in note["message"]
    for row in body["rows"]:
        assert row["n"] == row["answered"] + sum(row["refused"].values())
    (unknown,) = (r for r in body["rows"] if r["group"] == "bf17")
    assert unknown["answered"] == 0
    assert all(unknown[name] is None for name in STATISTICS)


def test_an_unknown_gpu_is_refused(tmp_path, capsys):
    rows = [["abacus", "bf16", 8, 8, 8, 1e-5, "made", 0]]
    write(tmp_path / "gemm.csv", HEADER, rows)
    assert only(tmp_path, capsys)["refused"] == {NO_GPU: 1}


@pytest.mark.parametrize(("alias", "calibration"), [("a100_sxm", "a100_sxm"), ("a100_sxm_80gb", "a100_sxm")])
def test_names_that_stand_for_another_gpu_are_answered(tmp_path, capsys, alias, calibration):
    gemms(tmp_path, alias, calibration)
    row = only(tmp_path, capsys)
    assert row["gpu"] == alias
    assert row["median_ape"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("gpu", ["h200_sxm", "h100_pcie", "gb300", "l40s", "mi350x"])
def test_gpus_without_measurements_take_the_constants_of_a_relative(tmp_path, capsys, gpu):
    relative = catalog_gpu(gpu).calibration
    gemms(tmp_path, gpu, relative)
    assert gpu != relative
    assert only(tmp_path, capsys)["median_ape"] == pytest.approx(0, abs=1e-9)


def test_a_calibration_without_fits_gives_way_to_that_of_the_gpus_own_name(tmp_path, capsys):
    assert catalog_gpu("mi355x").calibration != "mi355x" or catalog_calibration("mi355x").section("gemm.bf16")
    gemms(tmp_path, "mi355x", "mi355x")
    assert only(tmp_path, capsys)["median_ape"] == pytest.approx(0, abs=1e-9)


def spec(name, **sections):
    values = tuple((f"{s.replace('__', '.')}.{c}", v) for s, cs in sections.items() for c, v in cs.items())
    return CalibrationSpec(name, values)


def shelf(*calibrations):
    return Shelf(catalog_gpu, catalog_link, lambda key: calibrations)


def elementwise(tmp_path, ops=("rmsnorm", "silu_and_mul")):
    header = ["gpu", "op", "dtype", "rows", "cols", "time_s", "framework"]
    rows = [["h100_sxm", op, "bf16", m, 4096, 1e-5, "made"] for op in ops for m in (1, 512)]
    return write(tmp_path / "elementwise.csv", header, rows)


def test_the_first_calibration_that_can_answers_and_the_next_fills_its_gaps(tmp_path):
    table = read(elementwise(tmp_path))
    slow, fast = START | {"fixed": 1.0}, START
    one, two = spec("one", elementwise__rmsnorm=fast), spec("two", elementwise__any=slow, elementwise__rmsnorm=slow)
    kinds = [ELEMENTWISE, ELEMENTWISE_ANY]
    (found,) = predict(table, kinds, shelf(one, two)).values()
    assert found.answer.answered.all()
    assert (found.answer.predicted[:2] < 1).all()
    assert (found.answer.predicted[2:] >= 1).all()
    (none,) = predict(table, kinds, shelf(spec("empty"))).values()
    assert set(none.answer.reason) == {NO_CONSTANTS}


def test_one_row_that_the_form_fails_on_does_not_cost_the_others(tmp_path):
    def picky(constants, gpu, rows):
        if (rows.numbers("rows") > 100).any():
            raise KeyError("a row that is none")
        return ELEMENTWISE.seconds(constants, gpu, rows)

    kind = attrs.evolve(ELEMENTWISE, seconds=picky)
    one = spec("one", elementwise__rmsnorm=START)
    (found,) = predict(read(elementwise(tmp_path, ["rmsnorm"])), [kind], shelf(one)).values()
    assert list(found.answer.answered) == [True, False]
    assert found.answer.reason[1] == NO_NUMBER


def test_constants_of_another_form_do_not_answer(tmp_path):
    old = spec("old", elementwise__rmsnorm={"fixed": 1e-6})
    table = read(elementwise(tmp_path, ["rmsnorm"]))
    (found,) = predict(table, [ELEMENTWISE], shelf(old)).values()
    assert set(found.answer.reason) == {NO_CONSTANTS}
    (found,) = predict(table, [ELEMENTWISE], shelf(old, spec("new", elementwise__rmsnorm=START))).values()
    assert found.answer.answered.all()


def test_files_that_nobody_knows_are_left_alone_and_named(tmp_path, capsys):
    gemms(tmp_path)
    (tmp_path / "peaks.csv").write_text("gpu,metric\n")
    assert answers(tmp_path, capsys)["skipped"] == ["peaks.csv"]
    assert main(["accuracy", str(tmp_path)]) == 0
    assert "peaks.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gemm.csv", "", "is empty"),
        ("gemm.csv", "gpu,dtype\nh100_sxm,bf16\n", "has no column m, n, k, time_s"),
        ("gemm.csv", "gpu,dtype,m,n,k,time_s\nh100_sxm,bf16,1\n", "row 2 has 3 cells"),
        ("gemm.csv", b"\xff\xfe\x00", "it is no CSV file"),
        ("serving.csv", "gpu,model\nh100_sxm,x\n", "has none of the columns"),
        ("peaks.csv", "gpu,metric\n", "no measurements"),
        ("readme.txt", "hello", "no measurements"),
    ],
)
def test_what_is_no_measurement_is_a_diagnostic(tmp_path, capsys, name, content, reason):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["accuracy", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "E450" in told
    assert reason in told
    assert main(["accuracy", str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("name", WHOLE)
def test_any_cell_may_be_wrong(tmp_path, capsys, name):
    header, row = WHOLE[name]
    wrong = ["", "-1", "0", "nan", "inf", "1e50", "1e300", "abc", "../../x", "a b{", "99999999999999999999"]
    rows = [[*row[:i], cell, *row[i + 1 :]] for i in range(len(row)) for cell in some(wrong, len(wrong), name, i)]
    body = answers(write(tmp_path / f"{name}.csv", header, [row, *rows]), capsys)
    for r in body["rows"]:
        assert r["n"] == r["answered"] + sum(r["refused"].values())
    assert all(t["n"] > len(rows) / 2 for t in body["totals"])


def test_a_table_without_rows_has_no_errors_to_tell(tmp_path, capsys):
    (tmp_path / "gemm.csv").write_text(",".join(HEADER) + "\n")
    assert answers(tmp_path, capsys)["rows"] == []


def test_the_text_form_fits_a_hundred_columns_and_says_why_rows_are_missing(tmp_path, capsys):
    rows = gemms(tmp_path)
    write(tmp_path / "gemm.csv", HEADER, [*rows, ["abacus", "w8a8_int8_or_fp8", 8, 8, 8, 1e-5, "made", 0]])
    assert main(["accuracy", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("total") and f" {len(rows) + 1} " in line for line in lines)
    assert f"1 refused: {NO_GPU}" in lines


def test_fifty_thousand_rows_take_seconds(tmp_path):
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 8192, (50_000, 3))
    gpus, dtypes = ("h100_sxm", "b200_sxm", "mi300x", "h200_sxm"), ("bf16", "fp8", "fp8_block")
    rows = [[gpus[i % 4], dtypes[i % 3], *size, 1e-4, "made", 0] for i, size in enumerate(sizes)]
    write(tmp_path / "gemm.csv", HEADER, rows)
    own = catalog_calibration("h100_sxm")
    start = time.process_time()
    (found,) = evaluate(tmp_path, shelf(own), lambda table, file: {}).judged
    assert found.score().answered > 40_000
    assert time.process_time() - start < 15


# ---- the scoreboard


def board(folder, gpus=("h100_sxm", "h20"), factor=lambda gpu, table: 1.0):
    """GEMMs of made-up GPUs by one set of constants, 3 % noise; ``factor`` makes some of them slower."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    sizes = [(m, n, k) for m in (1, 16, 256, 4096) for n in (1024, 4096, 8192, 14336) for k in (1024, 4096, 8192)]
    out = []
    for gpu in gpus:
        rows = [[gpu, "bf16", *size, 1.0, "made", 0] for size in sizes]
        table = read(write(folder / "gemm.csv", HEADER, rows))
        times = GEMM.seconds(GEMM.start, catalog_gpu(gpu), table) * np.exp(rng.normal(0, 0.03, len(table)))
        times = times * factor(gpu, table)
        out += [[*row[:5], repr(float(t)), *row[6:]] for row, t in zip(rows, times, strict=True)]
    write(folder / "gemm.csv", HEADER, out)
    return folder


@pytest.mark.slow
def test_shapes_kept_back_do_not_move_the_constants(tmp_path):
    plain = board(tmp_path / "plain")
    slow = board(tmp_path / "slow", factor=lambda gpu, table: np.where(held_out(GEMM, table), 4.0, 1.0))
    first, second = divide(plain), divide(slow)
    bands = {"low", "high"}
    for gpu, sets in first.rest.items():
        mine = {n: v for n, v in sets["gemm.bf16"].items() if n not in bands}
        assert mine == {n: v for n, v in second.rest[gpu]["gemm.bf16"].items() if n not in bands}
    (errors,) = judged_errors(slow, second.own(second.rest), second.shapes)
    assert errors.score().bias == pytest.approx(-0.75, abs=0.05)


@pytest.mark.slow
def test_sizes_kept_back_are_the_ends(tmp_path):
    folder = board(tmp_path)
    found = divide(folder)
    table = read(folder / "gemm.csv")
    work = table.numbers("m") * table.numbers("n") * table.numbers("k")
    ends = found.sizes["gemm", "time_s"]
    assert 0.15 < ends.mean() < 0.35
    assert ends[np.argmax(work)]
    assert ends[np.argmin(work)]
    assert not ends[np.argsort(work)[len(work) // 2]]


def test_a_gpu_left_out_takes_nothing_from_its_own_rows(tmp_path):
    folder = board(tmp_path, factor=lambda gpu, table: 3.0 if gpu == "h20" else 1.0)
    found = divide(folder)
    (errors,) = judged_errors(folder, found.relatives())
    bias = {gpu: some.score().bias for gpu, _, some in errors.by_group()}
    assert bias["h20"] == pytest.approx(1 / 3 - 1, abs=0.1)
    assert bias["h100_sxm"] > 1


def test_every_relative_is_a_gpu_of_the_catalog_and_nobodys_own():
    for name, (relatives, why, _) in RELATIVES.items():
        assert why
        assert name not in relatives
        assert all(catalog_gpu(gpu) for gpu in (name, *relatives))


@pytest.mark.slow
def test_the_page_is_the_same_each_time_and_lists_what_misses(tmp_path):
    folder = board(tmp_path / "data", factor=lambda gpu, table: np.where(held_out(GEMM, table), 4.0, 1.0))
    texts = []
    for name in ("one", "two"):
        accuracy.main(folder, tmp_path / name / "accuracy.md")
        pictures = sorted((tmp_path / name).rglob("*.svg"))
        texts.append([(tmp_path / name / "accuracy.md").read_text(), *(p.read_text() for p in pictures)])
    assert texts[0] == texts[1]
    page, *pictures = texts[0]
    assert re.search(
        r"\| gemm \| `h20` \| bf16 \| \d+ \| 7\d\.\d % \| 10 % \| -7\d\.\d % \| not known; few rows \|", page
    )
    assert len(pictures) == page.count("![") == 2
    for svg in pictures:
        assert len(svg) < 100_000
        assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_causes_are_words_and_the_most_precise_one_is_told():
    for causes in (accuracy.CAUSES, accuracy.LEFT_OUT):
        assert not [text for text in causes.values() if re.search(r"(?<![\w-])\d", text)]
        assert {file for file, _, _ in causes} <= set(accuracy.TARGETS)
    causes = {("f", "*", "*"): "file", ("f", "g", "*"): "gpu", ("f", "g", "x"): "group"}
    assert [accuracy.cause(causes, "f", *key) for key in (("g", "x"), ("g", "y"), ("h", "y"))] == [
        "group",
        "gpu",
        "file",
    ]
    assert accuracy.cause(causes, "other", "g", "x") == accuracy.UNKNOWN


def test_every_kind_has_a_target():
    assert {kind.file.removesuffix(".csv") for kind in KINDS} == set(accuracy.TARGETS)
