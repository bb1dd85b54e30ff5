"""No pass and no backend knows a parallelism by name: all follows from which dimension lies on which axis."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from plandsl.driver import compile_text
from plandsl.grammar.sharding import SUGAR

ROOT = Path(__file__).parents[1]
FOLDERS = ("passes", "backends", "plandsl/answers")
NAMES = {*SUGAR, *(sugar.axis for sugar in SUGAR.values())}

DIMENSION = "context"
"""A dimension of the language, the keys attended to; the axis that `cp` makes is called after it."""

OTHERS = {
    "backends/accuracy/": "columns of files of measurements say how others split a model",
    "backends/calibrate/": "columns of files of measurements say how others split a model",
    "backends/compare/": "keys of result files of benchmarks say how others split a model",
    "backends/engines/flags.py: data": "a value of vLLM's `--mm-encoder-tp-mode`",
    "backends/engines/vllm.py: data": "a value of vLLM's `--mm-encoder-tp-mode`",
    "backends/cost/answers/start.py: tp": "the setting `sharding.tp`, which is proposed where memory is too small",
    "backends/graphviz/devices_layout.py: stage": "the word for a stage of layers, of which a picture counts the rest",
    "backends/graphviz/devices_sections.py: tensor": "`shift` has two shardings, `base` and `tensor`: its fields",
    "backends/report/charts.py: data": "the key under which Vega-Lite has the rows of a chart",
    "plandsl/answers/tables.py: stage": "the column with the number of a stage of layers",
    "backends/cost/answers/modes.py: tensor": "`shift` has two shardings, `base` and `tensor`: its fields",
    "plandsl/answers/modes.py: tensor": "`shift` has two shardings, `base` and `tensor`: its fields",
    "plandsl/answers/text/parts.py: tensor": "`shift` has two shardings, `base` and `tensor`: its fields",
}
"""Where such a word is something else, and what."""


def literals(source: str) -> Iterator[tuple[int, str]]:
    """Line and value of each string that is the name of a degree or of its axis, or asks an axis for its name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in NAMES and node.value != DIMENSION:
            yield node.lineno, str(node.value)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = {n.value for side in sides for n in ast.walk(side) if isinstance(n, ast.Constant)}
            named = any("axis" in ast.unparse(side) or "axes" in ast.unparse(side) for side in sides)
            if DIMENSION in words and named and not any("dim" in ast.unparse(side) for side in sides):
                yield node.lineno, DIMENSION


def found() -> Iterator[tuple[str, int, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, name in literals(path.read_text(encoding="utf-8")):
                yield path.relative_to(ROOT).as_posix(), line, name


def excuse(path: str, name: str) -> str | None:
    return next((where for where in OTHERS if f"{path}: {name}".startswith(where)), None)


def test_no_pass_and_no_backend_names_a_parallelism() -> None:
    wrong = [f"{path}:{line}: {name!r}" for path, line, name in found() if excuse(path, name) is None]
    assert not wrong, "let it follow from dimensions and axes"


def test_no_excuse_outlives_its_cause() -> None:
    assert {excuse(path, name) for path, _, name in found()} == {*OTHERS}


@pytest.mark.parametrize(
    "line",
    [
        'if axis == "seq": pass',
        'x = sizes.get("tensor", 1)',
        'd = {"tp": 1}',
        'y = op.axis == "context"',
        'z = "ep" in a',
    ],
)
def test_a_name_is_found_wherever_it_stands(line: str) -> None:
    assert list(literals(line))


@pytest.mark.parametrize("line", ['if dim.name == "context": pass', 'x = sizes["context"]', 'y = "tensors"'])
def test_dimensions_and_other_words_are_not(line: str) -> None:
    assert not list(literals(line))


RENAMED = {"stage": "p", "context": "q", "seq": "r", "tensor": "t"}


@pytest.mark.parametrize(
    ("degrees", "rules"),
    [
        ("pp = 2, tp = 4", "mesh p = 2, t = 4; layers -> p; heads, kv_heads, ffn, vocab -> t"),
        ("sp = 4, tp = 2", "mesh r = 4, t = 2; tokens -> r; in attention { heads, kv_heads -> t, r }; "
         "heads, kv_heads, ffn, vocab -> t"),
        ("cp = 4, tp = 2", "mesh q = 4, t = 2; tokens -> q; context -> q; heads, kv_heads, ffn, vocab -> t"),
    ],
)  # fmt: skip
def test_axes_of_any_name_give_the_same_estimate(degrees: str, rules: str) -> None:
    text = (
        "plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ {} }}, workload {{ input = 900, output = 90 }} }}"
    )
    one, two = (compile_text(text.format(s))[0].estimate().as_json() for s in (degrees, rules))
    for body in (one, two):
        for phase in ("prefill", "decode"):
            for op in body[phase]["ops"]:
                op["axis"] = RENAMED.get(op.get("axis"), op.get("axis"))
        for row in body["communication"]["rows"]:
            row["axis"] = RENAMED.get(row["axis"], row["axis"])
        del body["mesh"], body["notes"]
    assert one == two
