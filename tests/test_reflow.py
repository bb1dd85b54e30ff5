"""Reports in narrow terminals: nothing is wider than the terminal, and nothing is cut."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from plandsl.answers.text.difference import print_difference
from plandsl.answers.text.estimate import print_comparison, print_estimate
from plandsl.answers.text.explanation import print_explanation
from plandsl.answers.text.simulation import print_side_by_side, print_simulation
from plandsl.cli import main
from plandsl.diagnostics import Diagnostic, Span, render
from plandsl.driver import check_module, compile_file, difference, open_file
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.tables import Bar, Sheet
from plandsl.testing import compiled, plans
from plandsl.wrap import LEAST_WIDTH, width_of, wrap

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WIDTHS = st.integers(LEAST_WIDTH, 130)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
BAR = re.compile("[█░▏]+")
WIDE = 600


def printed(printer: Callable[[Console], None], width: int) -> str:
    """What a function prints on a console of some width."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    printer(console)
    return file.getvalue()


def check(narrow: str, wide: str, width: int) -> None:
    """Every line fits; all words and numbers of the ``wide`` report are in the ``narrow`` one, each as often."""
    assert max(map(cell_len, narrow.split("\n"))) <= width
    assert "…" not in narrow
    narrow, wide = BAR.sub("", narrow), BAR.sub("", wide)
    assert not Counter(NUMBER.findall(wide)) - Counter(NUMBER.findall(narrow))
    # a word that does not fit in a line beside its indent may go on in the next
    assert not Counter(w for w in wide.split() if len(w) < width // 3) - Counter(narrow.split())


@given(plans() | plans(speculate=True), WIDTHS)
def test_a_report_fits_and_loses_nothing(plan: PlanSpec, width: int) -> None:
    printer = partial(print_estimate, plan, compiled(plan).estimate())
    check(printed(printer, width=width), printed(printer, width=WIDE), width)


@cache
def reports() -> tuple[Callable[[Console], None], ...]:
    """Reports of plans with pools, two shardings and guessed tokens, and of a simulation."""
    files = ("split_llama_3_3_70b", "shift_llama_3_3_70b", "speculate", "unlike_gpus")
    made = [compile_file(EXAMPLES / f"{name}.plan")[0] for name in files]
    told = [partial(print_estimate, plan.spec, plan.estimate()) for plan in made]
    told += [partial(print_explanation, plan.spec, plan.explain()) for plan in made[2:3]]
    served = compile_file(EXAMPLES / "traffic/operator.plan")[:2]
    runs = [plan.simulate(40).simulation for plan in served]
    ran = [partial(print_simulation, plan.spec, run) for plan, run in zip(served, runs, strict=True)]
    loads = [plan.spec.workload for plan in served]
    ran += [partial(print_side_by_side, loads, runs)]
    both = [partial(print_comparison, [plan.estimate() for plan in made])]
    both += [partial(print_difference, difference(*made[:2]))]
    return (*told, *ran, *both)


@pytest.mark.parametrize("width", [40, 53, 60, 72, 80, 99])
def test_reports_of_every_kind_of_plan_fit_and_lose_nothing(width: int) -> None:
    for printer in reports():
        check(printed(printer, width=width), printed(printer, width=WIDE), width)


def test_a_report_that_fits_is_not_laid_out_again() -> None:
    for printer in reports():
        assert printed(printer, width=WIDE) == printed(printer, width=WIDE + 50)


# ---- tables and texts

WORDS = st.text("ab9 .█表", max_size=14).map(str.strip)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    """A table of labels and figures, in groups, some rows with a label alone."""
    labels, gap, pairs = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.booleans())
    count = 4 if pairs else draw(st.integers(labels + 1, 9))
    sheet = Sheet(gap=gap, header=not pairs and draw(st.booleans()), labels=1 if pairs else labels, pairs=pairs)
    sides = ["left"] * labels + draw(st.lists(st.sampled_from(["left", "right"]), min_size=9, max_size=9))
    for side in sides[:count]:
        sheet.add_column(draw(WORDS), justify="left" if pairs else side, no_wrap=draw(st.booleans()))
    sheet.starts = draw(st.sampled_from([(), (labels, labels + 1)])) if not pairs else ()
    bars = not pairs and draw(st.booleans())
    for _ in range(draw(st.integers(1, 5))):
        cells = [draw(WORDS) for _ in range(count)]
        row = [*cells[:1], *[""] * (count - 1)] if draw(st.integers(0, 4)) == 0 else cells
        last = Bar(lambda width: Text("░" * width)) if bars and row is cells and sides[count - 1] == "left" else row[-1]
        sheet.add_row(*row[:-1], last)
    return sheet


@given(sheets(), WIDTHS)
def test_a_table_fits_and_loses_nothing(sheet: Sheet, width: int) -> None:
    def printer(console: Console) -> None:
        print_lines(console, sheet)

    check(printed(printer, width=width), printed(printer, width=WIDE), width)


@given(st.text("ab1 /_-表.%\n", max_size=200), WIDTHS, st.integers(0, 6))
def test_a_text_fits_and_loses_nothing(text: str, width: int, hang: int) -> None:
    found = wrap(text, width, hang)
    assert all(width_of(line) <= width for line in found.split("\n"))
    assert "".join(found.split()) == "".join(text.split())


def test_a_number_stays_with_its_unit() -> None:
    assert wrap("throughput of about 1,097 tok/s and 18.4 ms", 30) == "throughput of about\n1,097 tok/s and 18.4 ms"


def test_what_goes_on_is_indented() -> None:
    assert wrap("  a line that goes on", 12, 2) == "  a line\n    that\n    goes on"


# ---- diagnostics and lists

MISTAKES = sorted((Path(__file__).parent / "golden" / "errors").glob("*.plan"))
ARROW = re.compile(r" *(-->|:::) ")
"""Paths are not broken, so that a terminal can open them."""


@given(st.sampled_from(MISTAKES), WIDTHS)
def test_a_diagnostic_fits_and_loses_nothing(path: Path, width: int) -> None:
    module = open_file(str(path))
    found = check_module(module)
    wide, narrow = render(found, module.sources), render(found, module.sources, width=width)
    assert all(cell_len(line) <= width for line in narrow.split("\n") if not ARROW.match(line))
    for whole, part in zip(marked(wide), marked(narrow), strict=True):
        assert whole.startswith(part)
        assert part or not whole
    told = [line for line in wide.split("\n") if not re.match(r" *\d* \|", line)]
    assert not Counter(w for w in " ".join(told).split() if len(w) < width // 3) - Counter(narrow.split())


def marked(text: str) -> list[str]:
    """The piece of source above each row of carets, as far as it is shown."""
    out, lines = [], text.split("\n")
    for above, line in pairwise(lines):
        if found := re.match(r" *\| *(\^+|-+)(?: |$)", line):
            out.append(above[found.start(1) : found.end(1)].split(" ...")[0])
    return out


def test_carets_stand_below_wide_characters() -> None:
    text = "# 表表 word"
    for width in (None, 40):
        told = render([Diagnostic("E206", "wrong", Span("f", 1, 6, 1, 10))], {"f": text}, width=width)
        assert "1 | # 表表 word\n  |        ^^^^\n" in told


@pytest.mark.parametrize("words", [[], ["passes"], ["catalog"], ["explain", "E301"], ["explain", "band"], ["fmt"]])
@pytest.mark.parametrize("width", [40, 60])
def test_other_commands_fit_and_lose_nothing(words, width, monkeypatch, capsys) -> None:
    def told() -> str:
        with suppress(SystemExit):
            main(words)
        out = "".join(capsys.readouterr())
        return out.split("For example")[0]  # the lines of a plan are not broken

    wide = told()
    monkeypatch.setenv("COLUMNS", str(width))
    check(told(), wide, width)


# ---- where the width comes from


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("20", 40), ("wide", 120), ("0", 120), ("", 120)])
def test_a_report_is_as_wide_as_columns_says(columns, width, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    main(["compile", str(EXAMPLES / "llama3_70b.plan"), "--plan", "pipeline"])
    widest = max(map(len, capsys.readouterr().out.split("\n")))
    assert width - 25 < widest <= width
