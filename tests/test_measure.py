"""`planc measure`, with a device whose kernels take the time of a formula: what is asked, kept, refused and fitted."""

import csv
import json
import os

import pytest

from plandsl.backends.calibrate.declare import declared
from plandsl.backends.cost.machine.tables import BY_FILE
from plandsl.backends.measure import Rows, cases, default_cases, device_cases, measure, plan_cases
from plandsl.backends.measure.run import FEWEST, LEAST, LONG, MOST, copies_of, summary
from plandsl.backends.measure.table import HEADER
from plandsl.cli import main
from plandsl.commands import measure as command
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.measurements import NUMBERS, read_number
from tests.devices import BANDWIDTH, PEAK, Made

PLAN = """
model small = llama_3_1_8b with { layers = 4, hidden = 1024, ffn = 2816, heads = 16, kv_heads = 8, head_dim = 64 }
plan p { model = small, node = h100_4, workload { input = 128, output = 16, batch = 4 }, sharding { tp = 2 } }
"""


@pytest.fixture
def asked():
    return plan_cases([plan.cost.evaluate() for plan in compile_text(PLAN)])


def run(path, device, some, seconds=1e6):
    rows = Rows(path, "my_gpu", device.about.name)
    return measure(device, some, rows, seconds, clock=device.clock), rows


def as_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_plan_asks_for_its_local_shapes_at_the_sizes_of_its_load(asked):
    found = {case.words for case in asked.cases}
    for m in (4, 4 * 128):  # a decode step, and a prefill
        assert f"gemm bf16 m={m} n={2 * 2816 // 2} k=1024" in found
    assert "attention_prefill batch=4 seq_q=128 seq_kv=128 n_heads=8 n_kv_heads=4 head_dim=64 bf16 kv_dtype=bf16 " \
        "window=0 causal=1" in found  # fmt: skip
    assert any(words.startswith("attention_decode batch=4 kv_len=136 n_heads=8") for words in found)
    assert "elementwise rmsnorm bf16 rows=4 cols=1024" in found
    assert f"collectives all_reduce n_ranks=2 n_nodes=1 bytes={4 * 1024 * 2} cuda_graph=1" in found
    assert any("cache_write" in name for name in asked.missing)
    assert not any("gemm" in name or "attention" in name for name in asked.missing)


def test_what_no_table_holds_is_named():
    load = "workload { input = 64, output = 4, batch = 2 }, sharding { tp = 4 }"
    plan = f"plan p {{ model = mixtral_8x7b, node = h100_4, {load} }}"
    asked = plan_cases(plan.cost.evaluate() for plan in compile_text(plan))
    assert any("grouped_gemm" in name or "expert" in name for name in asked.missing), asked.missing


def test_measured_rows_answer_for_the_plan_and_every_number_is_in_its_range(tmp_path, asked):
    path = tmp_path / "mine.csv"
    run(path, Made(), asked.cases)
    for row in as_rows(path):
        for name in NUMBERS.keys() & {n for n, cell in row.items() if cell}:
            read_number(name, row[name])
    text = PLAN.replace("plan p {", 'plan p { measured = "mine.csv",').replace("h100_4", "h100_4 with { gpu = my_gpu }")
    text = "gpu my_gpu = h100_sxm with { power = 700 W }" + text
    (plan,) = compile_text(text, str(tmp_path / "p.plan"))
    estimate = plan.estimate()
    for phase in (estimate.prefill, estimate.decode):
        layers = {op.name: op.layer for op in phase.ops}
        assert layers["gate_up"] == layers["qkv"] == layers["attention"] == layers["norm"] == "measured"
        assert {op.layer for op in phase.ops if op.op == "all_reduce"} == {"measured"}


def test_a_run_goes_on_where_it_was_interrupted_and_its_file_is_whole(tmp_path, asked):
    path, all_cases = tmp_path / "mine.csv", asked.cases[:12]
    with pytest.raises(KeyboardInterrupt):
        run(path, Made(after=5), all_cases)
    assert [row["time_s"] != "" for row in as_rows(path)].count(True) == 5
    before, device = as_rows(path), Made()
    done, rows = run(path, device, all_cases)
    assert (done.measured, rows.kept) == (7, 7)  # five kernels, and what the library tells of memory and units
    assert device.prepared == list(all_cases[5:])
    assert as_rows(path)[: len(before)] == before
    assert run(path, Made(after=0), all_cases)[0].measured == 0
    assert os.listdir(tmp_path) == ["mine.csv"]


def test_no_kernel_starts_after_the_seconds_and_the_rest_is_counted(tmp_path, asked):
    device = Made()
    done, _ = run(tmp_path / "mine.csv", device, asked.cases, seconds=1.0)
    assert 0 < done.measured < len(asked.cases)
    assert done.measured + done.left == len(asked.cases)


def test_refused_and_long_kernels_are_named_with_the_reason(tmp_path):
    some = [cases.peak(cases.MATRIX, 1024, "bf16"), cases.gemm("bf16", 8, 64, 64), cases.gemm("fp8", 8, 64, 64)]
    too_long = cases.gemm("bf16", 10**5, 10**4, 10**4)
    device = Made(lambda case: "no fp8 here" if ("dtype", "fp8") in case.cells else "")
    done, _ = run(tmp_path / "mine.csv", device, [*some, too_long])
    assert done.measured == 2
    assert done.refused == {
        "no fp8 here": ("gemm fp8 m=8 n=64 k=64",),
        f"one call takes more than {LONG:.0f} s": (too_long.words,),
    }


def test_the_least_counts_and_its_spread_stands_beside_it():
    case = cases.gemm("bf16", 8, 64, 64)
    found = summary(case, [4e-3, 1e-3, 2e-3, 9e-3, 3e-3])
    assert found == {"time_s": "0.001", "median_s": "0.003", "p90_s": "0.009", "repetitions": 5}
    best = summary(cases.peak(cases.COPY, 10**9), [0.5, 0.1, 0.2])
    assert (best["value"], best["unit"]) == ("2e+10", "bytes/s")


def test_repetitions_are_bounded_and_operands_exceed_caches(tmp_path):
    short, long = cases.gemm("bf16", 8, 64, 64), cases.gemm("bf16", 2**12, 2**13, 2**12)
    _, rows = run(tmp_path / "mine.csv", Made(), [cases.peak(cases.MATRIX, 512, "bf16"), short, long])
    counts = [int(row["repetitions"]) for row in rows.results("gemm.csv")]
    assert all(FEWEST <= count <= MOST for count in counts)
    assert counts[0] == MOST or counts[0] >= LEAST
    weights = cases.gemm("bf16", 4, 1024, 1024)
    assert copies_of(weights, 1e-5, 1e-4, 64e9) * weights.moved >= 2**29
    assert copies_of(weights, 1e-5, 1e-4, 1e9) * weights.moved <= 1e9 / 8
    assert copies_of(long, 1.4, 0.1, 64e9) == copies_of(long, 0.1, 1.4, 64e9) == 1
    assert copies_of(short, 1e-3, 1e-6, 64e9) == 10  # arithmetic: any weights will do


def test_default_cases_are_different_and_have_columns_of_the_file():
    found = [*device_cases(["bf16", "w8a16"], 64e9), *default_cases("bf16", 4)]
    assert len({case.key for case in found}) == len(found)
    assert {name for case in found for name, _ in case.cells} <= set(HEADER)
    assert {case.file for case in found} == {*BY_FILE, cases.PEAKS}
    small = [case for case in device_cases(["bf16"], 1e9) if case.file == cases.PEAKS and case.moved]
    assert max(case.moved for case in small if not case.flops) <= 2e9 / 16


def test_calibrate_declares_the_measured_gpu_and_a_plan_runs_on_it(tmp_path, asked, capsys):
    pytest.importorskip("scipy")
    path, out = tmp_path / "mine.csv", tmp_path / "mine.plan"
    gemms = [case for case in asked.cases if case.file == "gemm.csv"]
    gemms = [case for case in gemms if case.whole("n") in (1024, 2816) and case.whole("m") in (4, 64, 256, 512)]
    run(path, Made(), [*device_cases(["bf16"], 64e9), *gemms, *cases_of_links()])
    other = tmp_path / "gemm.csv"
    other.write_text("gpu,dtype,m,n,k,time_s\nnobodys_gpu,bf16,8,64,64,1e-5\n")
    assert main(["calibrate", str(path), str(other), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "gemm.bf16" in said.out
    assert "N533" in said.err
    assert "rows of nobodys_gpu are left out" in said.err
    assert main(["check", str(out)]) == 0
    text = 'use "mine.plan"' + PLAN.replace("h100_4", "my_gpu_2")
    (plan,) = compile_text(text, str(tmp_path / "p.plan"))
    gpu = plan.spec.node.gpu
    assert (gpu.memory, gpu.units, gpu.calibration) == (64e9, 16, "my_gpu")
    assert gpu.bandwidth == pytest.approx(BANDWIDTH, rel=1e-3)
    assert gpu.peak("bf16") == pytest.approx(0.7 * PEAK, rel=0.01)
    assert plan.spec.node.link.bandwidth == pytest.approx(0.8 * BANDWIDTH, rel=0.05)  # a message waits, too
    gemm = next(op for op in plan.estimate().decode.ops if op.name == "gate_up")
    assert (gemm.layer, gemm.origin) == ("fitted", "fitted here")
    asked_gemm = next(c for c in gemms if c.whole("m") == 4 and c.whole("n") == 2816)
    assert gemm.time_s / gemm.count == pytest.approx(2e-5 + asked_gemm.moved / BANDWIDTH / 0.8, rel=0.15)


def cases_of_links():
    return [cases.collective("p2p", 2, size) for size in cases.PAYLOADS]


def test_a_file_of_rates_alone_says_what_a_fit_needs(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    run(path, Made(), [cases.peak(cases.COPY, 2**20)])
    assert main(["calibrate", str(path), "-o", str(tmp_path / "out.plan")]) == 2
    assert "it has rows of peaks.csv alone, and a fit needs those of gemm.csv" in capsys.readouterr().err


def test_accuracy_reads_what_was_measured_by_the_calibration_that_was_fitted(tmp_path, asked, capsys):
    pytest.importorskip("scipy")
    path, made = tmp_path / "mine.csv", tmp_path / "mine.plan"
    run(path, Made(), [*device_cases(["bf16"], 64e9), *asked.cases, *cases_of_links()])
    assert main(["calibrate", str(path), "-o", str(made)]) == 0
    capsys.readouterr()
    assert main(["accuracy", str(path), "--use", str(made), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    totals = {row["file"]: row for row in found["totals"]}
    assert {"gemm", "attention_decode", "elementwise", "collectives"} <= set(totals)
    gemm = totals["gemm"]
    assert not gemm["refused"]
    assert gemm["median_ape"] < 0.3
    assert main(["accuracy", str(tmp_path), "--json"]) == 0  # a folder, without the calibration
    refused = {row["file"]: row["refused"] for row in json.loads(capsys.readouterr().out)["totals"]}
    assert refused["gemm"] == {"the catalog has no such GPU": gemm["n"]}


@pytest.mark.parametrize(("use", "code"), [("nowhere.plan", "E"), ("wrong.plan", "error[E")])
def test_a_wrong_file_of_calibrations_is_a_diagnostic(use, code, tmp_path, capsys):
    (tmp_path / "wrong.plan").write_text("calibration c { gemm { } \n gpu")
    (tmp_path / "gemm.csv").write_text("gpu,dtype,m,n,k,time_s\nh100_sxm,bf16,1,1,1,1e-5\n")
    assert main(["accuracy", str(tmp_path), "--use", str(tmp_path / use)]) == 2
    assert code in capsys.readouterr().err


def test_a_gpu_is_declared_only_of_whole_facts(tmp_path):
    path = tmp_path / "mine.csv"
    run(path, Made(), [cases.gemm("bf16", 8, 64, 64)])
    assert declared([path]) == {}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("file,gpu\npeaks.csv,here\n", "E450"),
        ("file,gpu,metric,value\npeaks.csv,here,memory,much\n", "E450"),
        ("file,gpu,metric,value\npeaks.csv,here,memory,64e9\n", "E450"),
        ("file\ngemm.csv\n", "E450"),
        ("file,gpu,dtype,m,n,k,time_s\ngemm.csv,here,bf16,1,1,1,1e-5\n", "E554"),
    ],
)
def test_files_of_several_tables_that_lack_something_are_diagnostics(tmp_path, capsys, text, code):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    assert main(["calibrate", str(path), "-o", str(tmp_path / "out.plan")]) == 2
    assert code in capsys.readouterr().err


def test_rows_of_an_unknown_gpu_are_named(tmp_path, capsys):
    path = tmp_path / "gemm.csv"
    lines = [f"nobodys_gpu,bf16,{m},64,64,1e-5" for m in range(1, 40)]
    path.write_text("\n".join(["gpu,dtype,m,n,k,time_s", *lines, ""]))
    assert main(["calibrate", str(path), "-o", str(tmp_path / "out.plan")]) == 2
    error = capsys.readouterr().err
    assert "E554" in error
    assert "nobodys_gpu" in error
    assert not (tmp_path / "out.plan").exists()


@pytest.mark.parametrize("cell", ["time_s", "value", "p90_s", "m"])
def test_a_file_with_a_wrong_number_is_not_kept(tmp_path, cell):
    path = tmp_path / "mine.csv"
    run(path, Made(), [cases.peak(cases.COPY, 2**20), cases.gemm("bf16", 8, 64, 64)])
    rows = as_rows(path)
    next(row for row in reversed(rows) if row[cell])[cell] = "much"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, HEADER)
        out.writeheader()
        out.writerows(rows)
    with pytest.raises(PlanError, match=f"{cell}` is `much`") as error:
        Rows(path, "my_gpu", "made up")
    assert [d.code for d in error.value.diagnostics] == ["E552"]


def test_the_first_of_wrong_numbers_is_told(tmp_path):
    """Not one that a set happens to have first, which is another one in each process."""
    path = tmp_path / "mine.csv"
    run(path, Made(), [cases.gemm("bf16", 8, 64, 64)])
    rows = as_rows(path)
    numbers = [name for name in HEADER if name in NUMBERS]
    row = max(rows, key=lambda row: sum(bool(row[name]) for name in numbers))
    wrong = [name for name in numbers if row[name]]
    assert len(wrong) > 3
    row |= dict.fromkeys(wrong, "much")
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, HEADER)
        out.writeheader()
        out.writerows(rows)
    with pytest.raises(PlanError, match=f"{wrong[0]}` is `much`"):
        Rows(path, "my_gpu", "made up")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("a,b\n1,2\n", "E552"),
        ("not a table", "E552"),
        (",".join(HEADER) + "\n" + ",".join(["gemm.csv", "other", *[""] * (len(HEADER) - 2)]) + "\n", "E553"),
    ],
)
def test_another_file_is_not_written_over(tmp_path, content, code):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(PlanError) as error:
        Rows(path, "my_gpu", "made up")
    assert [d.code for d in error.value.diagnostics] == [code]
    assert path.read_text() == content


def test_rows_of_another_device_are_refused(tmp_path):
    path = tmp_path / "mine.csv"
    run(path, Made(), [cases.gemm("bf16", 8, 64, 64)])
    with pytest.raises(PlanError, match="made up"):
        Rows(path, "my_gpu", "another device")


# ---- the command


@pytest.fixture
def made(monkeypatch):
    """The command with a device of formulas in place of jax's."""
    device = Made()
    monkeypatch.setattr("plandsl.backends.measure.find_device", lambda devices, library: device)
    return device


def test_the_command_measures_a_plan_and_says_what_it_lacks(tmp_path, made, capsys):
    plan, out = tmp_path / "p.plan", tmp_path / "mine.csv"
    plan.write_text(PLAN)
    assert main(["measure", "-o", str(out), "--for", str(plan), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["gpu"] == "measured_made_up"
    assert answer["rows"] == len(as_rows(out)) == answer["measured"] + 2
    assert [note["code"] for note in answer["notes"]] == ["N532"]
    made.refuses = lambda case: "too hot" if case.file == "gemm.csv" else ""
    out.unlink()
    assert main(["measure", "-o", str(out), "--for", str(plan)]) == 0
    said = capsys.readouterr()
    assert "rows of measured_made_up" in said.out
    assert "N531" in said.err
    assert "too hot" in said.err


def test_an_interrupted_command_says_how_to_go_on(tmp_path, made, capsys):
    made.after, out = 3, tmp_path / "mine.csv"
    assert main(["measure", "-o", str(out)]) == command.INTERRUPTED
    assert "5 rows; the same command goes on" in capsys.readouterr().err
    made.after = None
    assert main(["measure", "-o", str(out), "--seconds", "0.001"]) == 0
    said = capsys.readouterr()
    assert "5 of them from before" in said.out
    assert "N530" in said.err or "time is up" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "mine.txt"],
        ["-o", "mine.csv", "--gpu", "My GPU"],
        ["-o", "mine.csv", "--seconds", "0"],
        ["-o", "mine.csv", "--seconds", "nan"],
        ["-o", "mine.csv", "--devices", "0"],
        ["-o", "mine.csv", "--plan", "p"],
        ["-o", "mine.csv", "--dtype", "fp17"],
    ],
)
def test_wrong_arguments_are_diagnostics(arguments, made, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["measure", *arguments]) == 2
    assert "E400" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("there", "words", "hint"),
    [
        ([], [], "pip install 'plandsl[run]'"),
        (["torch"], ["--with", "jax"], "or `--with torch`"),
        (["jax"], ["--with", "torch"], "pytorch.org"),
        (["torch"], ["--devices", "2"], "leave `--devices` out"),
    ],
)
def test_a_library_that_is_missing_is_told_and_what_there_is_instead(there, words, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    assert main(["measure", "-o", str(tmp_path / "mine.csv"), *words]) == 2
    error = capsys.readouterr().err
    assert "E550" in error or "--devices" in words
    assert hint in error
    assert not os.listdir(tmp_path)


def test_rows_of_another_library_are_refused(tmp_path):
    first = Rows(tmp_path / "mine.csv", "my_gpu", "a device", "jax 0.8.1")
    first.add(cases.gemm("bf16", 1, 64, 64), {"time_s": 1e-6, "framework": "jax 0.8.1"})
    Rows(tmp_path / "mine.csv", "my_gpu", "a device", "jax 0.9")
    with pytest.raises(PlanError, match="rows that jax measured, and torch measures now"):
        Rows(tmp_path / "mine.csv", "my_gpu", "a device", "torch 2.13")


def test_a_library_without_a_device_is_told_with_its_reason(tmp_path, monkeypatch, capsys):
    def no_device(devices):
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("plandsl.backends.measure.find.JaxDevice", no_device)
    assert main(["measure", "-o", str(tmp_path / "mine.csv")]) == 2
    error = capsys.readouterr().err
    assert "E551" in error
    assert "backend 'cuda'" in error


def test_repetitions_that_differ_are_a_note(tmp_path, made, capsys):
    turns = iter(range(10**6))
    made.prepare = lambda case, copies: lambda: 0.1 * (1 + next(turns) % 4)
    made.clock = None
    assert main(["measure", "-o", str(tmp_path / "mine.csv"), "--seconds", "1e-9", "--json"]) == 0
    rows = Rows(tmp_path / "mine.csv", "measured_made_up", "made up")
    measure(made, [cases.gemm("bf16", m, 64, 64) for m in (1, 2, 3)], rows, 1e6)
    capsys.readouterr()
    assert main(["measure", "-o", str(tmp_path / "mine.csv"), "--seconds", "1e-9"]) == 0
    assert "N534" in capsys.readouterr().err
