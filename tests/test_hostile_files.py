"""Files that somebody else wrote: each fault that the fuzzer or a reader of the code found, in its smallest form."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from plandsl.backends.calibrate.declare import declared
from plandsl.backends.engines.words import split_commands
from plandsl.backends.measure.table import HEADER
from plandsl.cli import main
from plandsl.diagnostics import Diagnostic, PlanError, Span, render
from plandsl.driver import compile_file, open_text
from plandsl.limits import MAX_ERRORS
from plandsl.spec.traffic import FileSpec
from plandsl.traces import read_trace

PLAN = "plan p {{ model = llama_3_1_8b, node = h100_1, workload {{ {load} }} }}\n"
SERVE = "vllm serve meta-llama/Llama-3.1-8B"


def found(folder: Path, load: str) -> tuple[Diagnostic, ...]:
    (folder / "p.plan").write_text(PLAN.format(load=load))
    with pytest.raises(PlanError) as raised:
        compile_file(folder / "p.plan")
    return raised.value.diagnostics


def imported(folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    status = main(["import", str(path)])
    return status, capsys.readouterr().err


def refused(folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    status, said = imported(folder, name, text, capsys)
    assert status == 2
    return said


# ---- traces


def session_of(names: list[object]) -> list[dict[str, object]]:
    row = {"Timestamp": 0, "Request tokens": 10, "Response tokens": 5}
    return [row if name is ... else row | {"Session ID": name} for name in names]


def write_lines(path: Path, rows: list[dict[str, object]]) -> FileSpec:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileSpec(path.name, str(path))


@pytest.mark.parametrize("name", [["a"], {"a": 1}, True, 1.5])
def test_a_conversation_is_named_by_a_text_or_a_number(tmp_path: Path, name: object) -> None:
    write_lines(tmp_path / "t.jsonl", session_of(["a", name]))
    (wrong,) = found(tmp_path, 'trace = "t.jsonl", format = burstgpt')
    assert (wrong.code, wrong.message) == ("E452", "`Session ID` is neither a text nor a number")
    assert wrong.span is not None
    assert wrong.span.line == 2


def test_a_row_without_a_conversation_is_a_request_of_its_own(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "t.jsonl", session_of(["a", ..., "a", "", None, 7]))
    trace, _ = read_trace(file, "burstgpt")
    assert trace is not None
    assert list(trace.session) == [0, -1, 0, -1, -1, 1]


def test_a_number_of_thousands_of_digits_is_not_called_nesting(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": ' + "1" * 5_000 + ', "output_length": 1}\n')
    (wrong,) = found(tmp_path, 'trace = "t.jsonl"')
    assert wrong.message == "the line has a number that is too long"


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrived_at,num_prefill_tokens,arrived_at,num_decode_tokens\n0,1,x,1\n")
    (wrong,) = found(tmp_path, 'trace = "t.csv"')
    assert wrong.message == "the column `arrived_at` is named twice"
    (tmp_path / "gemm.csv").write_text("gpu,dtype,m,n,k,m,time_s\nh100_sxm,bf16,8,8,8,9,1e-5\n")
    (wrong,) = found(tmp_path, 'input = 1, output = 1 }, measured = "gemm.csv", sharding {')
    assert wrong.code == "E450"
    assert "row 1 names the column `m` twice" in wrong.message


@pytest.mark.parametrize(
    ("last", "bin_", "hint"), [("1e12", "1 s", "bin = 20_000_000 s"), ("100_001", "1 s", "bin = 2 s")]
)
def test_a_trace_is_cut_into_a_bounded_number_of_bins(tmp_path: Path, last: str, bin_: str, hint: str) -> None:
    (tmp_path / "t.csv").write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n{last},1,1\n")
    (wrong,) = found(tmp_path, f'input = 1, output = 1, rate = trace_rate("t.csv", bin = {bin_})')
    assert wrong.code == "E240"
    assert hint in wrong.hint
    (tmp_path / "p.plan").write_text(PLAN.format(load=f'input = 1, output = 1, rate = trace_rate("t.csv", {hint})'))
    assert compile_file(tmp_path / "p.plan")


# ---- measurements


def measured(folder: Path, **changes: str) -> Path:
    """A file of `planc measure` from which a GPU is declared, some cells of all rows exchanged."""
    values = {"hbm_bandwidth_copy": "3e12", "gemm_peak": "8e14", "memory": "8e10", "units": "132"}
    rows = [{"file": "peaks.csv", "metric": name, "value": value, "dtype": "bf16"} for name, value in values.items()]
    shape = {"file": "gemm.csv", "dtype": "bf16", "n": "64", "k": "64", "time_s": "1e-5"}
    rows += [shape | {"m": str(8 * i)} for i in range(1, 20)]
    path = folder / "m.csv"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, HEADER)
        out.writeheader()
        out.writerows({"gpu": "mine", "device": "a device", "framework": "jax"} | row | changes for row in rows)
    return path


@pytest.mark.parametrize(
    ("column", "cell", "why"),
    [("gpu", "a { x }", "`gpu` is `a { x }`"), ("gpu", "", "`gpu` is ``"), ("dtype", "bf100", "the peak of `bf100`")],
)
def test_names_of_a_measured_gpu_cannot_hold_other_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, cell: str, why: str
) -> None:
    path = measured(tmp_path, **{column: cell})
    assert main(["calibrate", str(path), "-o", str(tmp_path / "x.plan")]) == 2
    told = capsys.readouterr().err
    assert "error[E450]" in told
    assert why in told
    assert not (tmp_path / "x.plan").exists()


def test_the_name_of_a_device_is_one_line_of_a_comment(tmp_path: Path) -> None:
    made = declared([measured(tmp_path, device="a device\nplan p { }")])["mine"]
    module = open_text(f"{made.text}\ncalibration mine = h100_sxm\n")
    module.check()
    assert not module.errors
    assert not module.plans


# ---- launch commands


@pytest.mark.parametrize(
    ("value", "why"), [("1" * 5_000, "a number in it is too long"), ("[" * 2_000, "it nests too deeply")]
)
def test_json_of_a_flag_that_python_cannot_read_is_a_wrong_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, why: str
) -> None:
    said = refused(tmp_path, "run.sh", f"{SERVE} --speculative-config '{value}'\n", capsys)
    assert "error[E507]" in said
    assert why in said
    said = refused(tmp_path, "run.sh", f"{SERVE} --speculative-config.x '{value}'\n", capsys)
    assert "error[E508]" in said


def test_only_digits_of_ascii_are_a_number_of_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(tmp_path, "run.sh", f"{SERVE} --tensor-parallel-size \uff12\n", capsys)
    assert "error[E507]" in said


def test_a_command_has_the_variables_of_the_lines_before_it() -> None:
    text = "a=1\nb=2 one\nexport a=3 c=4\ntwo;;\nthree\n"
    told = [(command.words[0].text, dict(command.environment)) for command in split_commands(text, "run.sh")]
    assert told == [("one", {"a": "1", "b": "2"}), ("two", {"a": "3", "c": "4"}), ("three", {})]


def test_unknown_flags_are_told_up_to_a_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(tmp_path, "run.sh", f"{SERVE} {'--xyzzy ' * 2_000}\n", capsys)
    assert said.count("error[E506]") == MAX_ERRORS


def test_a_place_in_a_long_line_is_shown_as_in_a_short_one() -> None:
    line = "x" * 9_000 + " here " + "y" * 90_000
    span = Span("f", 1, 9_002, 1, 9_006)
    text = render([Diagnostic("E100", "why", span)], {"f": line})
    rows = text.split("\n")
    assert len(rows[3]) < 200
    assert rows[3][rows[4].index("^") :].startswith("here")
    assert rows[4].count("^") == 4


# ---- manifests

MANIFEST = """kind: Deployment
spec:
  template:
    spec:
      containers:
      - command: [bash, -c]
        args:
        - |
          vllm serve meta-llama/Llama-3.1-8B --bogus
"""


@pytest.mark.parametrize("text", ['"\\UFFFFFFFF"', '"\\U00110000"'])
@pytest.mark.parametrize("start", ["a: ", MANIFEST + "---\na: "])
def test_characters_that_cannot_be_are_no_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str, text: str
) -> None:
    said = refused(tmp_path, "m.yaml", f"{start}{text}\n", capsys)
    assert "error[E509]" in said


def test_a_version_of_thousands_of_digits_is_no_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(tmp_path, "m.yaml", f"%YAML {'1' * 5_000}.1\n---\na: 1\n", capsys)
    assert "error[E509]" in said


@pytest.mark.parametrize("end", ["\r", "\x85", "\u2028", "\u2029", "\r\n", "\n"])
def test_a_script_in_a_manifest_is_found_whatever_ends_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    said = refused(tmp_path, "m.yaml", MANIFEST.replace("\n", end), capsys)
    assert "error[E506]" in said
    assert ":9:46" in said


@pytest.mark.parametrize("sign", ["\x1b[31m", "\x7f", "\x9b0m"])
def test_cells_of_tables_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], sign: str) -> None:
    (tmp_path / "elementwise.csv").write_text(f"gpu,op,dtype,rows,cols,time_s\nh{sign}x,,,,,\n", encoding="utf-8")
    for form in ([], ["--json"]):
        main(["accuracy", str(tmp_path), *form])
        said = capsys.readouterr().out
        assert sign[1:] + "x" in said
        assert sign[0] not in said
