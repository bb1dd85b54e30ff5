"""`planc accuracy DATA --rows`: a line for each row of deployments, in order, with what is predicted of it."""

import csv
import json

import pytest

from plandsl.backends.accuracy.names import engine_of, find_gpu, find_model, precision_of
from plandsl.backends.accuracy.rows import NAMES
from plandsl.cli import main
from plandsl.driver import compile_text
from plandsl.entries import catalog_has

BASE = {
    "source": "made", "gpu": "h100_sxm", "n_gpu": "1", "model": "llama-3.1-8b", "precision": "fp8",
    "framework": "vllm-0.19.0", "serving_mode": "aggregated", "tp": "1", "pp": "1", "attn_dp": "1", "replicas": "1",
    "ep": "", "isl_tokens": "256", "osl_tokens": "32", "length_jitter": "uniform 0.8-1.0 x nominal",
    "load_kind": "closed_concurrency", "concurrency": "4", "request_rate_per_s": "", "ttft_s": "0.02",
    "ttft_stat": "mean", "tpot_s": "0.006", "tpot_stat": "mean", "output_tok_per_s": "600", "notes": "",
}  # fmt: skip
"""A row of serving.csv."""

POOLS = {
    "serving_mode": "disaggregated", "tp": "", "pp": "", "attn_dp": "", "replicas": "", "n_gpu": "3",
    "prefill_workers": "1", "prefill_tp": "1", "prefill_attn_dp": "1", "prefill_ep": "1", "decode_workers": "1",
    "decode_tp": "2", "decode_attn_dp": "1", "decode_ep": "1",
}  # fmt: skip

MLPERF = {
    "source": "made", "gpu": "h100_sxm", "n_gpu": "1", "framework": "vLLM 0.10.0", "bench": "llama3.1-8b",
    "scenario": "Offline", "weight_dtype": "fp8", "tp": "1", "pp": "1", "max_batch": "8", "mean_osl_tokens": "16",
    "tokens_per_s": "900", "ttft_limit_s": "2.0", "tpot_limit_s": "0.1",
}  # fmt: skip

MEASURED = ("ttft_s", "tpot_s", "output_tok_per_s", "tokens_per_s")
PREDICTED = tuple(NAMES.values())


def write(path, rows):
    """Rows as a file; a row lacks the cells that only others have."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        sheet = csv.DictWriter(file, names, restval="")
        sheet.writeheader()
        sheet.writerows(rows)
    return path


def written(place, tmp_path, capsys):
    """The lines that come out, which has to go well."""
    target = tmp_path / "out" / "rows.csv"
    target.parent.mkdir(exist_ok=True)
    assert main(["accuracy", str(place), "--rows", str(target)]) == 0
    capsys.readouterr()
    with target.open(newline="") as file:
        return list(csv.DictReader(file))


def answer_of(tmp_path, capsys, file="serving", **changes):
    """The line of one row."""
    base = BASE if file == "serving" else MLPERF
    (line,) = written(write(tmp_path / f"{file}.csv", [base | changes]), tmp_path, capsys)
    return line


def predictions(line):
    return [line[name] for name in PREDICTED]


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """Files with a row of every kind, and what was made of them."""
    folder = tmp_path_factory.mktemp("data")
    serving = [
        BASE,
        BASE | {"length_jitter": "fixed", "ttft_stat": "median"},
        BASE | {"load_kind": "static_batch"},
        BASE | {"load_kind": "offline_all_at_once", "concurrency": "16"},
        BASE | {"load_kind": "open_poisson", "concurrency": "", "request_rate_per_s": "4", "osl_tokens": "8"},
        BASE | {"model": "no-such-model"},
        BASE | {"gpu": "abacus"},
        BASE | POOLS,
        BASE | {"isl_tokens": "nan"},
        BASE | {"load_kind": "", "concurrency": "2"},
        BASE | {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "NVIDIA H100-SXM-80GB", "framework": "vLLM 0.9"},
        BASE | {"tp": "3", "ep": "2"},
        BASE | {"osl_tokens": "1e9"},
        BASE | {"concurrency": "1e5"},
    ]
    mlperf = [MLPERF, MLPERF | {"scenario": "Interactive"}, MLPERF | {"scenario": "Sideways"}]
    write(folder / "serving.csv", serving)
    write(folder / "mlperf.csv", mlperf)
    target = folder / "rows.csv"
    assert main(["accuracy", str(folder), "--rows", str(target)]) == 0
    with target.open(newline="") as file:
        return serving, mlperf, list(csv.DictReader(file)), folder


def test_there_is_a_line_for_each_row_in_order(every_kind):
    serving, mlperf, lines, _ = every_kind
    assert [line["file"] for line in lines] == ["serving.csv"] * len(serving) + ["mlperf.csv"] * len(mlperf)
    for given, line in zip([*serving, *mlperf], lines, strict=True):
        assert {name: line[name] for name in given} == given


def test_each_line_has_an_answer_with_its_band_or_a_reason(every_kind):
    _, _, lines, _ = every_kind
    reasons = [line["reason"] for line in lines]
    assert [bool(r) for r in reasons] == [0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1]
    assert "no-such-model" in reasons[5]
    assert "abacus" in reasons[6]
    assert reasons[8] == "a wrong cell in `isl_tokens`"
    assert "groups" in reasons[11]
    assert "tokens" in reasons[12]
    assert "sideways" in reasons[16]
    for line in lines:
        values = predictions(line)
        assert bool(line["answered_by"]) != bool(line["reason"])
        assert all(bool(value) != bool(line["reason"]) for value in values)
        for name in PREDICTED:
            low, value, high = (line[f"{name}{end}"] for end in ("_low", "", "_high"))
            assert not low or float(low) <= float(value) <= float(high)
    assert any(line["predicted_tpot_s_low"] for line in lines)
    assert {line["answered_by"] for line in lines} == {"", "simulation", "search for a rate", "closed form"}


def test_spellings_do_not_matter(every_kind):
    _, _, lines, _ = every_kind
    assert predictions(lines[10]) == predictions(lines[0])


def test_blank_and_missing_measurements_change_no_prediction(every_kind, tmp_path, capsys):
    serving, mlperf, lines, _ = every_kind
    write(tmp_path / "serving.csv", [row | dict.fromkeys(MEASURED[:3], "") for row in serving])
    without = [{name: cell for name, cell in row.items() if name not in MEASURED} for row in mlperf]
    write(tmp_path / "mlperf.csv", without)
    again = written(tmp_path, tmp_path, capsys)
    assert [predictions(line) for line in again] == [predictions(line) for line in lines]


def test_columns_that_nobody_knows_come_last_and_do_no_harm(tmp_path, capsys):
    plain = answer_of(tmp_path, capsys)
    other = answer_of(tmp_path, capsys, **{"colour": "red", "reason": "mine", "predicted_ttft_s": "7"})
    assert list(other)[-1] == "colour"
    assert other["colour"] == "red"
    assert other["reason"] == ""
    assert predictions(other) == predictions(plain)


def test_the_machine_form_counts_answers_and_reasons(tmp_path, capsys):
    path = write(tmp_path / "serving.csv", [BASE, BASE | {"model": "no-such-model"}])
    assert main(["accuracy", str(path), "--rows", str(tmp_path / "rows.csv"), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["rows"] == 2
    assert body["answered"] == {"simulation": 1}
    assert list(body["refused"].values()) == [1]


def test_wrong_inputs_write_nothing(tmp_path, capsys):
    data = write(tmp_path / "serving.csv", [BASE])
    before = data.read_text()
    for place, target in (
        (tmp_path / "none", tmp_path / "rows.csv"),
        (data, tmp_path / "rows.txt"),
        (data, data),
        (write(tmp_path / "gemm.csv", [{"gpu": "h100_sxm"}]), tmp_path / "rows.csv"),
    ):
        assert main(["accuracy", str(place), "--rows", str(target)]) == 2
        assert "error[E4" in capsys.readouterr().err
        assert target == data or not target.exists()
    assert data.read_text() == before


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "llama_3_1_70b"),
        ("Meta-Llama-3-8B", "llama_3_1_8b"),
        ("DeepSeek-R1-0528-MXFP4", "deepseek_r1"),
        ("mistral-7b-instruct-v0.1", "mistral_7b_v0_1"),
        ("Mistral-7B-Instruct-v0.3", "mistral_7b"),
        ("Llama-4-Maverick-17B-128E-Instruct", "llama_4_maverick"),
        ("deepseek-r1-distill-llama-70b", "llama_3_3_70b"),
        ("llama-3.1-9b", ""),
    ],
)
def test_models_are_found_by_their_published_names(said, found):
    assert find_model(said, catalog_has) == found


def test_gpus_precisions_and_frameworks_are_found_by_their_published_names():
    gpus = {"H200-SXM-141GB": "h200_sxm", "AMD Instinct MI325X": "mi325x", "a100": "a100_sxm", "gb300": "gb300"}
    assert {name: find_gpu(name, catalog_has) for name in gpus} == gpus
    precisions = {"w4a16": "int4", "FP8 (block)": "fp8", "MXFP4": "mxfp4", "bfloat16": "bf16", "seven bits": ""}
    assert {name: precision_of(name) for name in precisions} == precisions
    assert precision_of("", "Llama-3.3-70B-NVFP4") == "nvfp4"
    engines = {"TensorRT 10.2": "trtllm", "dynamo-trt": "trtllm", "mori-sglang": "sglang", "vLLM v0.9": "vllm", "x": ""}
    assert {name: engine_of(name, "h100_sxm") for name in engines} == engines


def test_bands_are_those_of_the_lengths_of_a_row(tmp_path, capsys):
    (plan,) = compile_text(
        "plan p { model = llama_3_1_8b, node = h100_1, engine = vllm, workload { input = 1, output = 1 } }"
    )
    told = []
    for jittered, lengths in ((True, "uniform 0.8-1.0 x nominal"), (False, "fixed")):
        line = answer_of(tmp_path, capsys, length_jitter=lengths)
        low, high = (
            float(line[f"predicted_ttft_s_{end}"]) / float(line["predicted_ttft_s"]) for end in ("low", "high")
        )
        assert (low, high) == pytest.approx(plan.spec.engine_band("ttft", jittered))
        told.append(low)
    assert told[0] != told[1]


@pytest.mark.parametrize(
    ("file", "column", "cell"),
    [("serving", "tp", "x"), ("serving", "isl_tokens", "-5"), ("serving", "decode_tp", "1e9"), ("serving", "ep", "nan"),
     ("mlperf", "ttft_limit_s", "-1"), ("mlperf", "tpot_limit_s", "inf"), ("mlperf", "max_batch", "1_0x")],
)  # fmt: skip
def test_a_wrong_cell_is_no_default(tmp_path, capsys, file, column, cell):
    base = BASE if file == "serving" else MLPERF
    path = write(tmp_path / f"{file}.csv", [base | {column: cell}])
    assert main(["accuracy", str(path), "--rows", str(tmp_path / "rows.csv"), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["refused"] == {f"a wrong cell in `{column}`": 1}
    (note,) = body["notes"]
    assert note["code"] == "N450"
    assert f"row 2: `{column}` is `{cell}`, and `{column}` is a number from" in note["message"]
