"""Targets that read files of requests: traces of every format, and columns of lengths and rates."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import evolve

from tests.fuzz.after import assert_finite, copied, seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.cells import Rows, spoiled
from tests.fuzz.documents import spoil
from tests.fuzz.mutate import mutate, mutate_one

if TYPE_CHECKING:
    from plandsl.spec.plan import WorkloadSpec

HEADERS = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
    "vidur": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    "sharegpt": ("input_length", "output_length"),
}
JSON = ("mooncake", "bailian", "sharegpt")
FORMATS = (*HEADERS, "mooncake", "bailian")


def _tokens(random: Random) -> int:
    return random.choice((1, 1, 16, 100, 512, 513, 4000, random.randint(1, 10_000)))


def _output(random: Random) -> int:
    """Tokens that a request generated; a few failed, and generated none."""
    return 0 if random.random() < 0.1 else random.choice((7, _tokens(random)))


STAMPS = (
    "2023-11-16 18:{:02}:{:010.7f}", "2023-11-16 18:{:02}:{:010.7f}", "2024-02-29T23:{:02}:{:06.3f}Z",
    "2024-02-29 23:{:02}:{:02.0f}+05:30", "1969-12-31 23:{:02}:{:012.9f}-11:00",
)  # fmt: skip
NUMBERS = ("{}", "{}", "{}", " {} ", "{}.0", "{}e0", "0{}")
"""How a whole number may be written in a cell."""

BESIDE = {
    "burstgpt": (("Model", ("ChatGPT", "GPT-4")), ("Total tokens", ("3", "")), ("Log Type", ("API log", "a, b"))),
    "vidur": (("request_type", ("x", "")), ("num_blocks", ("-1", "7"))),
}
"""Columns that files have and nobody reads, with their cells."""


def _table(random: Random, named: str, count: int) -> bytes:
    """A CSV file of a format, with its columns in some order."""
    header, beside = list(HEADERS[named]), {}
    for name, cells in BESIDE.get(named, ()):
        if random.random() < 0.3:
            beside[name] = cells
    if named == "burstgpt" and random.random() < 0.5:
        beside["Session ID"] = ("", "a", "b", "1", "-1")
    if random.random() < 0.15:
        beside["adapter"] = ("", "a", "b", "c", "7")
    rows: Rows = [[*header, *beside]]
    stamp, number = random.choice(STAMPS), random.choice(NUMBERS)
    at = 0.0
    for _ in range(count):
        at += random.choice((0.0, 0.01, 1.0, random.random(), 90.0))
        time = random.choice((f"{at:g}", f"{at:.6f}", f"{int(at)}"))
        times = {"azure": [stamp.format(int(at) // 60 % 60, min(at % 60, 59.4))], "sharegpt": []}
        counts = [number.format(one) for one in (_tokens(random), _output(random))]
        rows.append([*times.get(named, [time]), *counts, *(random.choice(cells) for cells in beside.values())])
    if random.random() < 0.2:
        order = random.sample(range(len(rows[0])), len(rows[0]))
        rows = [[row[at] for at in order] for row in rows]
    words = ("a", "2023-11-16 18:17:03", "2023-02-30 00:00:00", "9999-12-31T23:59:59Z")
    return spoiled(rows, random, words, share=0.3)


def _lines(random: Random, named: str, count: int) -> bytes:
    """JSON lines of a format. Prompts of one conversation begin alike."""
    lines, at, said = [], 0.0, list[list[int]]()
    keys = random.random() < 0.1
    for number in range(count):
        at += random.choice((0, 1, 250, 1000, 0.5 if named == "bailian" else 3))
        row: dict[str, Any] = {"input_length": _tokens(random), "output_length": _output(random)}
        if random.random() < 0.05:
            row["input_length"] = random.choice((str(row["input_length"]), float(row["input_length"])))
        if named != "sharegpt":
            before = random.choice(said) if said and random.random() < 0.4 else []
            ids = [*before, *(random.randint(0, 40) for _ in range(random.randint(0, 5)))]
            said.append(ids)
            row = {"timestamp": at, **row, "hash_ids": ids}
        if named == "bailian":
            row |= {"chat_id": number, "parent_chat_id": random.choice((-1, number - 1, number // 2 - 1)), "turn": 1}
            row["type"] = random.choice(("text", "image"))
        if random.random() < 0.1:
            row["adapter"] = random.choice(("a", "b", 3, None, ""))
        if keys:
            row = dict(random.sample(sorted(row.items()), len(row))) | {"more": {"a": [1, None]}}
        if number and random.random() < 0.1:
            row.pop("hash_ids", None)
        lines.append(json.dumps(row, ensure_ascii=random.random() < 0.5))
    if random.random() < 0.22:
        at = random.randrange(len(lines))
        lines[at] = spoil(json.loads(lines[at]), random)
    end = random.choice(("\n", "\n", "\r\n", "\n\n"))
    return (end.join(lines) + random.choice((end, ""))).encode("utf-8", "surrogatepass")


def _draw(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus)
    named = random.choice(FORMATS)
    lines = named not in HEADERS or (named in JSON and random.random() < 0.6)
    content = (_lines if lines else _table)(random, named, random.choice((1, 2, 5, 20)))
    if lines and random.random() < 0.08:
        content = mutate(content, random)
    said = random.choice((named, "", "", "", random.choice(FORMATS)) if random.random() < 0.3 else ("",))
    column = "adapter" if b"adapter" in content and random.random() < 0.5 else ""
    return Case(
        {random.choice(("t.jsonl", "t.csv", "t.json")): content}, (said, column, random.choice(("", "", "1", "3")))
    )


def _trace(case: Case) -> object:
    """Read the trace; now and then draw its requests, and serve them."""
    from plandsl.backends.cost.serving.workloads import draw_requests
    from plandsl.diagnostics import PlanError
    from plandsl.driver import compile_text
    from plandsl.spec.traffic import FileSpec
    from plandsl.traces import read_trace

    name, content = next(iter(case.files.items()))
    file = FileSpec(name, str(Path(name).absolute()))
    named, column, rows = case.argv
    trace, found = read_trace(file, named, int(rows) if rows else None, column)
    if trace is None:
        raise PlanError(found)
    many = len(trace.input)
    assert many == len(trace.output)
    assert len(trace.seconds) in (0, many)
    assert len(trace.session) in (0, many)
    assert len(trace.adapter) in (0, many)
    assert all(0 <= at <= 1e12 or trace.format == "azure" for at in trace.seconds)
    assert all(1 <= n <= 10**9 for part in (trace.input, trace.output) for n in part)
    if not trace.block or len(trace.offsets) == many + 1:
        load = _load(bool(trace.seconds))
        assert load.traffic is not None
        assert load.traffic.trace is not None
        spec = evolve(load.traffic.trace, file=file, format=named)
        load = evolve(load, traffic=evolve(load.traffic, trace=spec), requests=int(rows) if rows else None)
        requests = draw_requests(load).requests
        assert len(requests.input) <= many
        if seldom(content, 24) and many <= 20 and sum(trace.output) < 20_000:
            said = "".join((f", format = {named}" if named else "", "" if trace.seconds else ", rate = 3 req/s"))
            (plan,) = compile_text(PLAN.replace("WORKLOAD", f'trace = "{name}"{said}'), str(Path("p.plan").absolute()))
            assert_finite(plan.simulate().simulation.as_json())
    return many


@cache
def _load(timed: bool) -> WorkloadSpec:
    """A load that replays a trace; the file is put in its place later."""
    from plandsl.driver import open_text

    rate = "" if timed else ", rate = 3 req/s"
    with copied("first.csv", b"arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,5\n") as path:
        text = PLAN.replace("WORKLOAD", f'trace = "first.csv"{rate}')
        plan = open_text(text, str(path.with_name("p.plan"))).plan("p")
    assert plan is not None
    return plan.workload


PLAN = "plan p { model = llama_3_1_8b, node = h100_1, workload { WORKLOAD } }\n"


TRACE = Target("trace", "reader", _draw, _trace, writes=("first.csv",))


# ---- one column

CALLS = (
    'input = empirical("l.csv"), output = 16, rate = 3 req/s, requests = 5',
    'input = 100, output = empirical("l.csv", column = "n"), rate = 3 req/s, requests = 5',
    'input = 100, output = 16, rate = trace_rate("l.csv", bin = 1 s), requests = 5',
    'input = 100, output = 16, rate = trace_rate("l.csv", bin = 1 min, scale = 2), requests = 5',
)


def _draw_lengths(random: Random, corpus: Corpus) -> Case:
    """A file with one column or a few, and the call that names it."""
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus)
    call = random.randrange(len(CALLS))
    if call > 1:
        return Case({"l.csv": _table(random, random.choice(("azure", "vidur", "burstgpt")), 5)}, (str(call),))
    header = random.choices((["n"], ["n", "m"], ["length"], ["n", "n"]), (8, 4, 4, 1))[0]
    rows: Rows = [header, *([str(_tokens(random)) for _ in header] for _ in range(random.choice((1, 3, 20))))]
    return Case({"l.csv": spoiled(rows, random, share=0.3)}, (str(call),))


def _lengths(case: Case) -> object:
    """Check a plan that names the file, and draw its requests; serve them now and then."""
    from plandsl.backends.cost.serving.workloads import draw_requests
    from plandsl.driver import compile_text

    text = PLAN.replace("WORKLOAD", CALLS[int(case.argv[0])])
    (plan,) = compile_text(text, str(Path("p.plan").absolute()))
    requests = draw_requests(plan.spec.workload).requests
    for part in (requests.input, requests.output):
        assert ((part >= 1) & (part <= 10**9)).all()
    assert ((requests.arrival_s >= 0) & (requests.arrival_s < 1e13)).all()
    if seldom(case.files["l.csv"], 24) and requests.output.sum() < 20_000:
        assert_finite(plan.simulate().simulation.as_json())
    return len(requests.input)


LENGTHS = Target("lengths", "reader", _draw_lengths, _lengths)

REQUESTS = (TRACE, LENGTHS)
