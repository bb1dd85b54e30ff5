"""The tools that try mutants: a change reaches functions that are loaded, a test that misses it is told from one that
does not, and what is called equivalent is in the code still.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants.figures import EQUIVALENT
from benchmarks.mutants.swap import Functions

ROOT = Path(__file__).parent.parent

CODE = """
def twice(x):
    return (lambda y: y * 2)(x)

class Box:
    side = 3
    def volume(self):
        return self.side ** 3
"""


def loaded(folder: Path) -> tuple[Path, dict[str, Any]]:
    file, names = folder / "shapes.py", {}
    exec(compile(CODE, str(file), "exec"), names)
    return file, names


@pytest.mark.parametrize(("old", "new", "answers"), [("* 2", "* 5", (15, 27)), ("** 3", "+ 3", (6, 6))])
def test_a_change_inside_a_function_reaches_those_that_are_loaded(
    tmp_path: Path, old: str, new: str, answers: tuple[int, int]
) -> None:
    file, names = loaded(tmp_path)
    twice, box = names["twice"], names["Box"]()
    assert (twice(3), box.volume()) == (6, 27)
    assert Functions(tmp_path).swap(file, CODE, CODE.replace(old, new))
    assert (twice(3), box.volume()) == answers


@pytest.mark.parametrize(("old", "new"), [("side = 3", "side = 4"), ("(x)", "(x=1)")])
def test_a_change_outside_functions_is_left_to_an_import(tmp_path: Path, old: str, new: str) -> None:
    file, _ = loaded(tmp_path)
    assert not Functions(tmp_path).swap(file, CODE, CODE.replace(old, new, 1))


def test_what_is_called_equivalent_is_in_the_code_and_argued() -> None:
    for mutant in tomllib.loads((ROOT / EQUIVALENT).read_text(encoding="utf-8")).get("mutant", ()):
        rows = [" ".join(row.split()) for row in (ROOT / mutant["file"]).read_text(encoding="utf-8").splitlines()]
        assert mutant["before"] in "\n".join(rows), mutant
        assert mutant["before"] != mutant["after"]
        assert len(mutant["why"].split()) > 5


@pytest.mark.extras
def test_a_star_of_a_signature_is_no_product() -> None:
    pytest.importorskip("cosmic_ray")
    from benchmarks.mutants.places import places

    text = "def f(a, *, b):\n    return a * b\n\ndef g(*a, **b):\n    return a\n"
    found = {(place.line, place.operator.split("_")[0]) for place in places("x.py", text)}
    assert found == {(2, "ReplaceBinaryOperator")}


@pytest.mark.extras
@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("@pytest.mark.slow\n@draws(2)\ndef test_a(): ...", True),
        ("@pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.slow)])\ndef test_a(): ...", False),
        ("@slow\ndef test_a(): ...", False),
        ("pytestmark = [pytest.mark.extras]", True),
        ("NAMES = [fuzz.slow]", False),
    ],
)
def test_tests_that_no_trial_runs_take_nothing_of_its_time(text: str, left_out: bool) -> None:
    """They once took all of it: a mutant outside functions was tried by no test, and survived."""
    pytest.importorskip("coverage")
    from benchmarks.mutants.session import _has_mark

    (node,) = ast.parse(text).body
    assert any(map(_has_mark, getattr(node, "decorator_list", [node]))) == left_out
