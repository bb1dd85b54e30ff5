"""Every number of every file that is read is finite and in range, or a diagnostic names its place.

For each kind of file, each column that holds numbers gets each of some cells that are wrong, or nearly so. What is
accepted must be finite, and so must be an estimate that rests on it.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from plandsl.backends.accuracy.run import read as read_leniently
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.table import WRONG, read_table
from plandsl.backends.compare.compare import read_all
from plandsl.backends.compare.documents import parse_documents
from plandsl.backends.measure.table import HEADER
from plandsl.backends.measure.table import Rows as Kept
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import compile_file, compile_text
from plandsl.grammar.headers import Unreadable, read_safetensors
from plandsl.grammar.hf import translate
from plandsl.measurements import NUMBERS
from plandsl.playground.asked import Malformed
from plandsl.playground.asked import read as read_question
from tests.draws import some
from tests.fuzz.after import assert_finite
from tests.tables import WHOLE

CELLS = (
    "nan", "inf", "-inf", "1e400", "-1e400", "1e999999999999", "-1", "-0.0", "0", "0.5", "1e30", "1" * 30, "9" * 10_000,
    "", " ", "text", "1_000", "\u0661\u0662", "true", "null", "[]", "{}", "0x10",
)  # fmt: skip
"""Cells of CSV files."""

VALUES = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e999999999999", "-1", "-0.0", "0", "0.5", "1e30", "1" * 30,
    "9" * 10_000, '""', '"text"', '"1_000"', '"\u0661\u0662"', "true", "null", "[]", "{}", '"nan"', '"inf"', "[1]",
)  # fmt: skip
"""Values of JSON, as text."""

MARK = "@value@"

Numbers = list[float]


def outcome(read: Callable[[], Numbers | None]) -> tuple[Numbers, str]:
    """The numbers that a reader gives, or the texts and places of its diagnostics."""
    try:
        return read() or [], ""
    except PlanError as error:
        return [], "\n".join(f"{d.message} {d.span.line if d.span else ''}" for d in error.diagnostics)


def judge(read: Callable[[], Numbers | None], place: tuple[str, ...], said: str) -> bool:
    """Fail unless the numbers are finite, or a diagnostic names the place; whether it was refused."""
    numbers, told = outcome(read)
    assert all(math.isfinite(number) for number in numbers), said
    for word in place if told else ():
        assert word in told, f"{said}: {told}"
    return bool(told)


# ---- CSV


def sheet(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    """A CSV file; no cell here has a comma or a quote."""
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in [header, *rows]), encoding="utf-8")
    return path


def planted(header: list[str], row: list[object], name: str) -> Iterator[tuple[str, str, list[list[object]]]]:
    """For each column of numbers and some of the cells: the column, the cell, and two rows, the last with the cell."""
    for at, column in enumerate(header):
        for cell in some(CELLS, 6, name, column) if column in NUMBERS else ():
            yield column, cell, [row, [*row[:at], cell, *row[at + 1 :]]]


def finite(path: Path, name: str) -> Numbers:
    kind = next(kind for kind in KINDS if kind.file == f"{name}.csv")
    table = read_table(path, kind.columns, kind.blank)
    blank = {*kind.blank, *(c for c in table.columns if c not in kind.columns)}
    found: Numbers = []
    for column in table.columns:
        if column in NUMBERS:
            found += [1.0 if column in blank and math.isnan(x) else float(x) for x in table.numbers(column)]
    return found


@pytest.mark.parametrize("name", [name for name in WHOLE if any(kind.file == f"{name}.csv" for kind in KINDS)])
def test_tables_of_kernels(name: str, tmp_path: Path) -> None:
    header, row = WHOLE[name]
    refused = 0
    for column, cell, rows in planted(header, row, name):
        path = sheet(tmp_path / f"{name}.csv", header, rows)
        refused += judge(lambda: finite(path, name), ("row 3", f"`{column}`"), f"{column} = {cell[:20]!r}")  # noqa: B023
    assert refused


@pytest.mark.parametrize("name", WHOLE)
def test_files_of_accuracy(name: str, tmp_path: Path) -> None:
    header, row = WHOLE[name]
    for column, cell, rows in planted(header, row, name):
        notes: list[Diagnostic] = []
        path = sheet(tmp_path / f"{name}.csv", header, rows)
        table = read_leniently(path, f"{name}.csv", notes)
        said = f"{column} = {cell[:20]!r}"
        number = float(table.numbers(column)[1])
        if notes:
            assert f"row 3: `{column}`" in notes[0].message, said
            assert table.texts(WRONG)[1] == column or math.isfinite(number), said
        else:
            assert not cell or NUMBERS[column].least <= number <= NUMBERS[column].most, said


TABLED = ("gemm", "attention_prefill", "attention_decode", "elementwise", "collectives")
TP = """plan p {
  model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }, measured = "FILE"
  workload { input = 512, output = 16, batch = 8 }
}
"""


@pytest.mark.parametrize("name", TABLED)
def test_tables_that_a_plan_names(name: str, tmp_path: Path) -> None:
    header, row = WHOLE[name]
    (tmp_path / "p.plan").write_text(TP.replace("FILE", f"{name}.csv"))

    def read() -> Numbers:
        assert_finite(compile_file(tmp_path / "p.plan")[0].estimate().as_json())
        return []

    cases = list(planted(header, row, name))
    for column, cell, rows in some(cases, 6, name, "measured"):
        sheet(tmp_path / f"{name}.csv", header, rows)
        judge(read, ("row 3", f"`{column}`"), f"{column} = {cell[:20]!r}")


def test_the_file_that_measure_goes_on_with(tmp_path: Path) -> None:
    row: list[object] = [
        {"file": "gemm.csv", "gpu": "mine", "device": "d", "framework": "jax"}.get(n, "") for n in HEADER
    ]
    for column, cell, rows in planted(list(HEADER), row, "measure"):
        path = sheet(tmp_path / "m.csv", list(HEADER), rows)
        before = path.read_bytes()
        if judge(lambda: Kept(path, "mine", "d", "jax") and [], ("row 3", f"`{column}`"), f"{column} = {cell[:20]!r}"):  # noqa: B023
            assert path.read_bytes() == before


# ---- traces and lengths

TRACES = {
    "vidur": {"arrived_at": "1.5", "num_prefill_tokens": "10", "num_decode_tokens": "5"},
    "burstgpt": {"Timestamp": "1.5", "Request tokens": "10", "Response tokens": "5"},
    "azure": {"TIMESTAMP": "2023-11-16 18:17:03.5", "ContextTokens": "10", "GeneratedTokens": "5"},
    "sharegpt": {"input_length": "10", "output_length": "5"},
}
LINES = {
    "mooncake": {"timestamp": 1500, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]},
    "bailian": {"timestamp": 1.5, "input_length": 20, "output_length": 5, "hash_ids": [1, 2], "chat_id": 7,
                "parent_chat_id": -1},
    "sharegpt": {"input_length": 10, "output_length": 5},
}  # fmt: skip
REPLAY = 'plan p {{ model = llama_3_1_8b, node = h100_1, workload {{ trace = "{file}"{rate} }} }}\n'


def replayed(folder: Path, file: str, named: str) -> Callable[[], Numbers]:
    (folder / "p.plan").write_text(REPLAY.format(file=file, rate=", rate = 2 req/s" if named == "sharegpt" else ""))

    def read() -> Numbers:
        run = compile_file(folder / "p.plan")[0].simulate().simulation.as_json()
        assert_finite(run)
        return []

    return read


@pytest.mark.parametrize("named", TRACES)
def test_traces_in_csv(named: str, tmp_path: Path) -> None:
    read = replayed(tmp_path, "t.csv", named)
    for column in TRACES[named]:
        for cell in some(CELLS, 6, named, column):
            rows = [list(TRACES[named].values()), list((TRACES[named] | {column: cell}).values())]
            sheet(tmp_path / "t.csv", list(TRACES[named]), rows)  # type: ignore[arg-type]
            judge(read, (f"`{column}`", " 3"), f"{column} = {cell[:20]!r}")


@pytest.mark.parametrize("named", LINES)
def test_traces_in_json(named: str, tmp_path: Path) -> None:
    read = replayed(tmp_path, "t.jsonl", named)
    for key in LINES[named]:
        for value in some(VALUES, 6, named, key):
            line = json.dumps(LINES[named] | {key: MARK}).replace(json.dumps(MARK), value)
            (tmp_path / "t.jsonl").write_text(f"{json.dumps(LINES[named])}\n{line}\n", encoding="utf-8")
            judge(read, ("2",) if len(value) > 4_300 else (f"`{key}`", " 2"), f"{key} = {value[:20]}")


def test_lengths(tmp_path: Path) -> None:
    drawn = 'empirical("l.csv", column = "n")'
    load = f"input = {drawn}, output = {drawn}, rate = 2 req/s, requests = 3"
    (tmp_path / "p.plan").write_text(f"plan p {{ model = llama_3_1_8b, node = h100_1, workload {{ {load} }} }}\n")

    def read() -> Numbers:
        assert_finite(compile_file(tmp_path / "p.plan")[0].simulate().simulation.as_json())
        return []

    for cell in CELLS:
        sheet(tmp_path / "l.csv", ["n", "m"], [[7, 1], [cell, 1]])
        judge(read, ("l.csv",) if cell in ("0", "0.5", "-0.0") else ("`n`", " 3"), f"n = {cell[:20]!r}")


# ---- JSON


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all numbers of a document."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def with_value(document: Any, path: tuple[Any, ...], value: str) -> str:
    """The text of the document with another value at a path."""
    document = deepcopy(document)
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = MARK
    return json.dumps(document).replace(json.dumps(MARK), value)


BENCHES = sorted((Path(__file__).parent / "bench").glob("*.json*"))


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.name)
def test_results_of_benchmarks(path: Path) -> None:
    document = json.loads(path.read_text().splitlines()[0] if path.suffix == ".jsonl" else path.read_text())

    def numbers(text: str) -> Numbers:
        runs, wrong = read_all(parse_documents(text.encode(), "b.json"))
        if wrong:
            raise PlanError(wrong)
        found: Numbers = []
        for run in runs:
            found += [*run.measured.values(), run.rate, run.shape or 0.0, *(number for _, number in run.settings)]
            found += [x for length in (run.input, run.output) for x in (length.mean, length.deviation, length.most)]
            assert all(length.mean <= 1e9 for length in (run.input, run.output))
            assert all(length.mean >= 1 for length in (run.input, run.output) if run.lengths_stated)
        return found

    for leaf in some(list(leaves(document)), 6, path.name):
        for value in some(VALUES, 12, path.name, leaf):
            text = with_value(document, leaf, value)
            judge(lambda: numbers(text), ("b.json",), f"{leaf} = {value[:20]}")  # noqa: B023


CONFIGS = sorted((Path(__file__).parent / "configs").glob("*.json"))


def test_configs_of_models() -> None:
    for path in some(CONFIGS, 12, "configs"):
        document = json.loads(path.read_text())

        def numbers(text: str) -> Numbers:
            made = translate(text.encode(), "config.json", "config.json")
            if wrong := [one for one in made.found if one.severity == "error"]:
                raise PlanError(wrong)
            assert made.text
            return []

        for leaf in some(list(leaves(document)), 6, path.name):
            for value in some(VALUES, 12, path.name, leaf):
                text = with_value(document, leaf, value)
                judge(lambda: numbers(text), ("",), f"{path.name} {leaf} = {value[:20]}")  # noqa: B023


SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@pytest.mark.parametrize("key", SIZES)
def test_sizes_of_models(key: str) -> None:
    document = json.loads((Path(__file__).parent / "configs" / "llama_3_1_8b.json").read_text())
    for value in VALUES:
        made = translate(with_value(document, (key,), value).encode(), "config.json", "config.json")
        wrong = [one for one in made.found if one.severity == "error"]
        assert not made.text, value
        assert any(f'"{key}"' in one.message or "JSON" in one.message for one in wrong), (value[:20], wrong)


HEADER_OF_ONE = {"a": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16]}}


def test_headers_of_tensors() -> None:
    for leaf in leaves(HEADER_OF_ONE):
        for value in VALUES if leaf != ("a", "data_offsets", 0) else [one for one in VALUES if one != "0"]:
            text = with_value(HEADER_OF_ONE, leaf, value).encode()
            data = len(text).to_bytes(8, "little") + text + bytes(16)
            with pytest.raises(Unreadable, match=r'"a"|JSON|nests'):
                read_safetensors(io.BytesIO(data), len(data))


def test_questions_of_the_playground() -> None:
    asked = {"text": "", "line": 3, "column": 4}
    for leaf in leaves(asked):
        for value in VALUES:
            told = f"`{leaf[0]}`|not JSON"
            with pytest.raises(Malformed, match=told):
                read_question(with_value(asked, leaf, value).encode())


def test_arguments_of_engines() -> None:
    from plandsl.backends.engines.arguments import check_value
    from plandsl.backends.engines.flags import FLAGS
    from plandsl.backends.engines.manifests_read import read_config
    from plandsl.backends.engines.words import Word

    spelled = (
        ".inf",
        "-.inf",
        ".nan",
        "1.0e+400",
        "-1",
        "-0.0",
        "1.0e+30",
        "9" * 10_000,
        "''",
        "text",
        "true",
        "[]",
        "{}",
    )
    for engine, flags in FLAGS.items():
        for flag in flags:
            for value in some(spelled, 4, engine, flag.name) if flag.kind in ("whole", "number") else ():
                ((word, given),) = read_config(f"{flag.name}: {value}\n", "c.yaml", 0)
                found: list[Diagnostic] = []
                made = check_value(flag, given, Word(word.text, word.span), found)
                said = f"{engine} {flag.name} = {value[:20]}"
                assert (made is None) == bool(found), said
                if made is None:
                    assert found[0].code == "E507", said
                    assert found[0].span is not None, said
                else:
                    assert isinstance(made, int | float), said
                    assert math.isfinite(made), said


def test_a_plan_of_a_model_with_extreme_numbers_has_a_finite_estimate() -> None:
    """What `hf` accepts is a model like another one: its plan has a finite estimate, or a diagnostic."""
    document = json.loads((Path(__file__).parent / "configs" / "llama_3_1_8b.json").read_text())
    for leaf in leaves(document):
        for value in some(VALUES, 24, "estimate", leaf):
            made = translate(with_value(document, leaf, value).encode(), "config.json", "config.json")
            if not made.text:
                continue
            name = next(line.split()[1] for line in made.text.splitlines() if line.startswith("model "))
            body = f"model = {name}, node = h100_1, workload {{ input = 64, output = 8, batch = 2 }}"

            def read(text: str = f"{made.text}\nplan p {{ {body} }}\n") -> Numbers:
                assert_finite(compile_text(text)[0].estimate().as_json())
                return []

            judge(read, (), f"{leaf} = {value[:20]}")
