"""Result files of benchmarks are read by their formats, and what is wrong with one is told with its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl import limits
from plandsl.backends.compare.bench import Bench, read_bench
from plandsl.backends.compare.compare import read_all, read_runs
from plandsl.backends.compare.documents import parse_documents
from plandsl.backends.compare.formats import AT_ONCE, CLOSED, FORMATS, OPEN
from plandsl.backends.compare.loads import plan_under, requests_of
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.limits import MAX_BENCH_RUNS
from tests.draws import draws

BENCH = Path(__file__).parent / "bench"
PLAN = """plan chat {
  model = llama_3_1_8b
  node = h100_1
  engine = vllm
  workload { input = 1024, output = 128, concurrency = 32 }
}
"""


def bench(name: str) -> list[Bench]:
    return read_runs([str(BENCH / name)])


def raw(name: str = "vllm_8.json", **changes: Any) -> bytes:
    """A result of vLLM with other values; a value that is ``...`` is left out."""
    data = json.loads((BENCH / name).read_text()) | changes
    return json.dumps({key: value for key, value in data.items() if value is not ...}).encode()


def wrong(data: bytes) -> list[Any]:
    """What is wrong with a file of these bytes."""
    try:
        return read_all(parse_documents(data, "x.json"))[1]
    except PlanError as error:
        return list(error.diagnostics)


def test_each_format_is_recognised_and_gives_its_load_and_its_latencies_in_seconds() -> None:
    told = {
        path.name: [(b.document.format.name, b.kind, b.clients, b.rate, b.requests) for b in bench(path.name)]
        for path in sorted(BENCH.glob("*.json*"))
    }
    assert told == {
        "aiperf.json": [("aiperf", CLOSED, 8, 0.0, 80)],
        "guidellm.json": [("guidellm", CLOSED, 4, 0.0, 104), ("guidellm", OPEN, 0, 2.0, 60)],
        "inferencex.json": [("inferencex", CLOSED, 16, 0.0, 160)],
        "sglang.jsonl": [("sglang", CLOSED, 4, 0.0, 40), ("sglang", CLOSED, 16, 0.0, 160)],
        "vllm_1.json": [("vllm", CLOSED, 1, 0.0, 20)],
        "vllm_128.json": [("vllm", CLOSED, 128, 0.0, 1280)],
        "vllm_32.json": [("vllm", CLOSED, 32, 0.0, 320)],
        "vllm_8.json": [("vllm", CLOSED, 8, 0.0, 80)],
        "vllm_rate.json": [("vllm", OPEN, 0, 4.0, 24)],
    }
    assert {one.name for one in FORMATS} == {run[0] for runs in told.values() for run in runs}


def test_latencies_are_read_in_the_unit_of_their_format() -> None:
    first = {name: bench(name)[0].measured for name in ("vllm_8.json", "aiperf.json", "guidellm.json")}
    assert first["vllm_8.json"]["ttft", "mean"] == pytest.approx(0.207)
    assert first["vllm_8.json"]["itl", "p99"] == pytest.approx(0.01515)
    assert first["aiperf.json"]["tpot", "p99"] == pytest.approx(0.0116 * 1.35)
    assert first["guidellm.json"]["ttft", "p99.9"] == pytest.approx(0.110 * 1.4)
    assert ("ttft", "p10") not in first["guidellm.json"], "percentiles below the median are not compared"
    assert first["guidellm.json"]["latency", "mean"] == pytest.approx((110 + 127 * 8.1) / 1e3), "this one is in seconds"
    x = bench("inferencex.json")[0]
    assert x.measured["tpot", "p50"] == pytest.approx(0.0081 * 0.98)
    assert (x.input.mean, x.input.least, x.input.most) == (pytest.approx(921.6), pytest.approx(819.2), 1024)


def test_throughput_of_a_gpu_counts_for_all_gpus() -> None:
    (document,) = parse_documents(raw("inferencex.json", tp=4), "x.json")
    found, _ = read_bench(document)
    assert found is not None
    assert found.gpus == 4
    assert found.measured["throughput", "mean"] == 4 * 1950


def test_both_pools_of_a_server_count_and_without_a_number_of_gpus_there_is_no_throughput() -> None:
    for changes, gpus in (
        ({"num_prefill_gpu": 4, "num_decode_gpu": 8, "disagg": True}, 12),
        ({"num_prefill_gpu": 4, "num_decode_gpu": 4, "disagg": False}, 4),
        ({}, 0),
    ):
        (document,) = parse_documents(raw("inferencex.json", tp=..., **changes), "x.json")
        found, _ = read_bench(document)
        assert found is not None
        assert found.gpus == gpus
        assert found.measured.get(("throughput", "mean"), 0.0) == gpus * 1950


def test_lengths_are_drawn_evenly_only_where_the_benchmark_drew_them() -> None:
    line = json.loads((BENCH / "sglang.jsonl").read_text().splitlines()[0])
    line |= {"random_range_ratio": 0.0, "total_input_tokens": 40 * 500, "total_output_tokens": 40 * 130}
    for name, even in (("random", True), ("sharegpt", False)):
        (document,) = parse_documents(json.dumps(line | {"dataset_name": name}).encode(), "x.json")
        found, _ = read_bench(document)
        assert found is not None
        assert (found.input.even, found.spread_known) == (even, even)


@pytest.mark.parametrize(
    ("name", "place", "both"),
    [
        ("vllm_8.json", (), {"request_rate": 5.0, "max_concurrency": 7}),
        ("sglang.jsonl", (), {"request_rate": 5.0, "max_concurrency": 7}),
        ("aiperf.json", ("input_config", "loadgen"), {"request_rate": 5.0, "concurrency": 7}),
        ("guidellm.json", ("benchmarks", 1, "config", "strategy"), {"rate": 5.0, "max_concurrency": 7}),
    ],
)
def test_a_rate_with_a_cap_is_read_of_every_format_that_has_both(
    name: str, place: tuple[Any, ...], both: dict[str, Any]
) -> None:
    data = json.loads((BENCH / name).read_text().splitlines()[0] if name.endswith("l") else (BENCH / name).read_text())
    inner = data
    for key in place:
        inner = inner[key]
    inner |= both
    found = [read_bench(document)[0] for document in parse_documents(json.dumps(data).encode(), "x.json")][-1]
    assert found is not None
    assert (found.kind, found.rate, found.cap) == (OPEN, 5.0, 7)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"request_rate": "inf", "max_concurrency": None}, (AT_ONCE, 0, 0.0)),
        ({"request_rate": 5.0, "max_concurrency": None}, (OPEN, 0, 5.0)),
        ({"request_rate": "5", "max_concurrency": 64}, (OPEN, 0, 5.0)),
        ({"request_rate": math.inf, "max_concurrency": 200}, (CLOSED, 80, 0.0)),
    ],
)
def test_rate_and_concurrency_say_what_load_was_sent(changes: dict[str, Any], kind: tuple[str, int, float]) -> None:
    (document,) = parse_documents(raw(**changes), "x.json")
    found, findings = read_bench(document)
    assert found is not None
    assert not findings
    assert (found.kind, found.clients if found.kind == CLOSED else 0, found.rate) == kind
    assert found.cap == (64 if changes["max_concurrency"] == 64 else 0)


def test_requests_that_failed_are_not_among_the_exact_lengths() -> None:
    lists = {"input_lens": [10, 20, 30], "output_lens": [5, 0, 7], "errors": ["", "refused", ""]}
    (document,) = parse_documents(raw(completed=2, **lists), "x.json")
    found, _ = read_bench(document)
    assert found is not None
    assert found.exact is not None
    assert [own.tolist() for own in found.exact] == [[10, 30], [5, 7]]
    plan = plan_under(compile_text(PLAN)[0].spec, found, 2)
    load = requests_of(plan, found, 2)
    assert (load.requests.input.tolist(), load.requests.output.tolist()) == ([10, 30], [5, 7])


def read(data: bytes) -> tuple[Bench | None, list[Any]]:
    """The first run of a file of these bytes, and what is wrong with it."""
    return read_bench(parse_documents(data, "x.json")[0])


def of_guidellm(strategy: dict[str, Any]) -> bytes:
    """A result of GuideLLM with another strategy."""
    data = json.loads((BENCH / "guidellm.json").read_text())
    data["benchmarks"][0]["config"]["strategy"] = strategy
    return json.dumps(data).encode()


def test_one_request_after_the_other_is_a_closed_loop_of_one() -> None:
    found, findings = read(of_guidellm({"type_": "synchronous", "rate": 3.0}))
    assert found is not None
    assert not findings
    assert (found.kind, found.clients, found.load) == (CLOSED, 1, "1 at once")


def test_a_load_is_told_in_words() -> None:
    found = [
        read(data)[0] for data in (of_guidellm({"type_": "throughput"}), raw(request_rate=5.0), raw(request_rate="inf"))
    ]
    assert [one.load for one in found if one] == ["all at once", "5 req/s, 8 at once", "8 at once"]


@pytest.mark.parametrize(
    ("strategy", "what"),
    [({"type_": "poisson"}, "at which rate requests were sent"), ({"type_": "incremental"}, "what load was sent")],
)
def test_a_file_that_does_not_say_the_load_is_refused(strategy: dict[str, Any], what: str) -> None:
    found, findings = read(of_guidellm(strategy))
    assert found is None
    assert [d.code for d in findings] == ["E562"]
    assert what in findings[0].message


def test_a_run_without_results_is_refused() -> None:
    data = {key: value for key, value in json.loads(raw()).items() if not key.endswith(("_ms", "throughput"))}
    found, (finding,) = read(json.dumps(data).encode())
    assert found is None
    assert "does not say any latency: there is no `mean_ttft_ms`" in finding.message


@pytest.mark.parametrize(
    ("data", "mean"),
    [
        (raw("aiperf.json", input_sequence_length=500), 500.0),
        (raw("aiperf.json", input_sequence_length={"total_sum": 80 * 700}), 700.0),
        (raw("aiperf.json", input_sequence_length={"unit": "tokens"}), None),
        (raw("aiperf.json", input_sequence_length=...), None),
        (raw(total_input_tokens=...), None),
    ],
    ids=["a number", "a total", "an object that says nothing", "no object", "no total"],
)
def test_lengths_are_read_in_every_form_or_taken_from_the_plan(data: bytes, mean: float | None) -> None:
    found, findings = read(data)
    assert found is not None
    assert not findings
    assert (found.input.mean, found.lengths_stated) == (mean or 0.0, mean is not None)


def test_requests_that_all_failed_have_no_exact_lengths() -> None:
    lists = {"input_lens": [10, 20], "output_lens": [5, 7], "errors": ["refused", "refused"]}
    found, findings = read(raw(**lists))
    assert found is not None
    assert found.exact is None
    assert found.input.mean == 1024
    assert not findings


def test_settings_that_are_no_numbers_are_left_to_the_engine() -> None:
    line = json.loads((BENCH / "sglang.jsonl").read_text().splitlines()[0])
    for size, told in ((4096, {"step_tokens": 4096.0}), (-1, {}), ("auto", {})):
        line["server_info"] = {"tp_size": 1, "chunked_prefill_size": size}
        found, _ = read(json.dumps(line).encode())
        assert found is not None
        assert dict(found.settings) == told


def test_a_latency_that_is_no_object_of_statistics_is_not_taken() -> None:
    found, findings = read(raw("aiperf.json", request_latency=3.0))
    assert found is not None
    assert not findings
    assert {metric for metric, _ in found.measured} == {"ttft", "tpot", "throughput", "request_throughput"}


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", "E560", "is empty"),
        (b"{\n  'a': 1}", "E560", "no valid JSON"),
        (b"\xff\xfe", "E560", "no text in UTF-8"),
        (b"[" * 100_000, "E560", "nests too deeply"),
        (b"1" * 6000, "E560", "too long"),
        (b"[]", "E561", "empty list"),
        (b"[1]", "E561", "the result of a run is an object"),
        (b'{"a\\u001b[31m": 1}', "E561", r'"a\u001b[31m"'),
        (b'{"benchmarks": [{"x": 1}]}', "E561", "`benchmarks[0]` is no run of GuideLLM"),
        (raw(completed=0), "E563", "no request was served"),
        (raw(request_rate="trace"), "E563", "replays a trace"),
        (raw(completed=...), "E562", "how many requests were served: there is no `completed`"),
        (raw(mean_ttft_ms=-3.0), "E562", "`mean_ttft_ms` is -3.0"),
        (raw(mean_tpot_ms="fast"), "E562", '`mean_tpot_ms` is "fast"'),
        (raw(mean_ttft_ms=math.nan), "E562", "`mean_ttft_ms` is NaN"),
        (raw(max_concurrency=True), "E562", "`max_concurrency` is true"),
        (raw(total_output_tokens=3), "E562", "`total_output_tokens` is 3"),
        (raw(input_lens=[1, -4], output_lens=[1, 1]), "E562", "`input_lens.1` is -4"),
        (raw(mean_ttft_ms={"value": 3}), "E562", "`mean_ttft_ms` is an object"),
        (raw(mean_ttft_ms=[3]), "E562", "`mean_ttft_ms` is a list"),
        (raw("aiperf.json", request_latency={"unit": "weeks", "avg": 1}), "E562", '`request_latency.unit` is "weeks"'),
    ],
)
def test_a_wrong_file_is_told_with_its_place_and_what_was_found(data: bytes, code: str, words: str) -> None:
    found = wrong(data)
    assert [d.code for d in found][:1] == [code]
    assert words in found[0].message
    assert found[0].message.startswith("x.json")
    assert found[0].hint


def test_a_line_that_is_no_json_is_told_with_its_number() -> None:
    lines = (BENCH / "sglang.jsonl").read_text() + "{broken\n"
    (found,) = wrong(lines.encode())
    assert (found.code, found.span.line) == ("E560", 3)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(raw())
    with limits.override({"bench_bytes": 500}), pytest.raises(PlanError) as raised:
        read_runs([str(tmp_path / "x.json")])
    (found,) = raised.value.diagnostics
    assert (found.code, "larger than 500 bytes" in found.message) == ("E560", True)
    assert "--save-detailed" in found.hint


def test_a_file_with_too_many_runs_is_refused() -> None:
    line = (BENCH / "sglang.jsonl").read_text().splitlines()[0]
    (found,) = wrong("\n".join([line] * (MAX_BENCH_RUNS + 1)).encode())
    assert found.code == "E560"
    assert "more than 1,000 runs" in found.message


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


JUNK = st.sampled_from(
    [None, True, 0, -1, 1e308, math.inf, math.nan, "", "x", "inf", "9" * 60, [], {}, [1], {"a": 1}, 10**400, "trace"]
)


@draws(2)
@given(st.data())
def test_whatever_is_changed_in_a_file_it_is_read_or_told_what_is_wrong(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(BENCH.glob("*.json"))))
    value = json.loads(file.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(places(value), key=repr)))
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = deepcopy(data.draw(JUNK))  # else a value may come to hold itself
    text = json.dumps(value)
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    try:
        runs, findings = read_all(parse_documents(text.encode(), "x.json"))
    except PlanError as error:
        findings, runs = list(error.diagnostics), []
    assert runs or findings
    assert {d.code for d in findings} <= {"E560", "E561", "E562", "E563"}
    for run in runs:
        assert run.requests >= 1
        assert all(0 < number < math.inf for number in run.measured.values())


@pytest.mark.parametrize("total", [1e300, math.inf, 10**18, 79, "x"])
@pytest.mark.parametrize(("name", "path"), [("aiperf.json", ("input_sequence_length",)), ("vllm_8.json", ())])
def test_a_total_of_tokens_is_as_many_as_its_requests_can_have(name: str, path: tuple[str, ...], total: object) -> None:
    key = "total_sum" if path else "total_input_tokens"
    data = json.loads((BENCH / name).read_text())
    if path:
        data[path[0]] = {key: total}
    else:
        data[key] = total
    (found,) = wrong(json.dumps(data).encode())
    assert (found.code, found.hint) == ("E562", "expected a number from 80 to 80,000,000,000")
    assert ".".join((*path, key)) in found.message
