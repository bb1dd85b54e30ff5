"""The line `plandsl = 1`: kept by the formatter, read in every file, and told before all mistakes when it is newer."""

from __future__ import annotations

from pathlib import Path

import pytest

from plandsl._version import LANGUAGE, __version__
from plandsl.codes import CODES
from plandsl.driver import check_module, open_file, open_text
from plandsl.grammar.fmt import format_text
from plandsl.grammar.parse import parse
from plandsl.starter import starter

PLAN = "plan p { model = llama_3_1_8b, node = h100_1, workload { input = 9, output = 2 } }\n"
LINE = f"plandsl = {LANGUAGE}\n"
NEWER = f"plandsl = {LANGUAGE + 1}"


def codes(text: str) -> list[str]:
    return [d.code for d in check_module(open_text(text, "t.plan"))]


@pytest.mark.parametrize("before", ["", "# a comment\n\n", "\ufeff", "\n;\n"])
def test_a_file_may_say_the_version_that_this_compiler_reads(before: str) -> None:
    assert codes(before + LINE + PLAN) == codes(PLAN) == []


def test_the_word_stays_a_name_everywhere_else() -> None:
    text = PLAN.replace("plan p", "plan plandsl") + "let one = plandsl.node\nmodel m = llama_3_1_8b\n"
    assert not parse(text + "sharding s { mesh plandsl = 2; heads -> plandsl }\n", "t.plan")[1]
    assert codes("let plandsl = 1\n" + PLAN) == []


def test_the_formatter_keeps_it() -> None:
    assert format_text(f"plandsl={LANGUAGE}# v\n\n\n" + PLAN, "t") == f"plandsl = {LANGUAGE}  # v\n\n" + PLAN


@pytest.mark.parametrize(
    "rest",
    [PLAN, "", "plan ~ {{ (", "enforce x => 3\n" * 99, '"open\n', "vllm serve X --tp 8\n", "[section]\na: b\n"],
    ids=["sound", "empty", "brackets", "many", "quote", "shell", "toml"],
)
@pytest.mark.parametrize("line", [NEWER, f"plandsl = {LANGUAGE}.5", "plandsl = " + "9" * 400, f"# v\n{NEWER};"])
def test_a_newer_file_gets_one_message_whatever_else_it_says(line: str, rest: str) -> None:
    (found,) = check_module(open_text(f"{line}\n{rest}", "t.plan"))
    assert found.code == "E600"
    assert f"plandsl {__version__} reads version {LANGUAGE}" in found.message
    assert "pip install --upgrade plandsl" in found.hint
    assert found.span is not None
    shown = f"{line}\n{rest}".split("\n")[found.span.line - 1][found.span.column - 1 : found.span.end_column - 1]
    assert shown == line.strip(";").rpartition(" ")[2]


def test_the_hint_of_a_newer_file_works() -> None:
    (found,) = check_module(open_text(f"{NEWER}\n{PLAN}", "t.plan"))
    line = found.hint.split("`")[3]
    assert codes(f"{line}\n{PLAN}") == []


def test_a_line_of_a_newer_version_is_found_below_what_cannot_be_read() -> None:
    assert codes(f"enforce ~ {{ }}\n{NEWER}\n{PLAN}") == ["E600"]


def test_a_file_that_is_used_may_be_newer(tmp_path: Path) -> None:
    (tmp_path / "root.plan").write_text(f'{LINE}use "part.plan"\n{PLAN.replace("h100_1", "mine")}')
    (tmp_path / "part.plan").write_text(f"{NEWER}\nnode mine ~ new {{\n")
    (found,) = check_module(open_file(tmp_path / "root.plan"))
    assert (found.code, found.span and Path(found.span.file).name) == ("E600", "part.plan")
    (tmp_path / "part.plan").write_text(f"{LINE}node mine = h100_1\n")
    assert check_module(open_file(tmp_path / "root.plan")) == []


WRONG = ("0", "-1", "1.0", '"1"', "one", "1 s", "[1]", "1 - 1", "h100_1 with { count = 2 }")


@pytest.mark.parametrize("value", WRONG)
def test_the_version_is_a_whole_number(value: str) -> None:
    (found,) = check_module(open_text(f"plandsl = {value}\n{PLAN}", "t.plan"))
    assert (found.code, found.hint) == ("E601", f"`{LINE.strip()}`")


@pytest.mark.parametrize("text", [PLAN + LINE, LINE + LINE + PLAN, 'use "a.plan"\n' + LINE])
def test_the_version_stands_first_and_once(text: str) -> None:
    assert "E601" in codes(text)


def test_the_starter_says_its_version() -> None:
    assert starter().startswith(LINE.strip())


def test_its_codes_are_explained() -> None:
    assert {"E600", "E601"} <= CODES.keys()
