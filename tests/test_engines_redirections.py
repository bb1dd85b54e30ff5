"""Words of launch scripts: redirections belong to the shell, and quotes protect the signs of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from plandsl.backends.engines.words import split_commands
from plandsl.cli import main


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b > log.txt 2>&1 &", [["a", "b"]]),
        ("a b >log.txt 2>/dev/null c", [["a", "b", "c"]]),
        ("a b>log c", [["a", "b", "c"]]),
        ("a b2>log c", [["a", "b2", "c"]]),
        ("a &> log b; c &>>log d", [["a", "b"], ["c", "d"]]),
        ("a >> 'my log' b", [["a", "b"]]),
        ("a < in 2>&- >| out b", [["a", "b"]]),
        ("a > >(tee log) 2> >(tee errors >&2) b", [["a", "b"]]),
        ("a <<< 'some words' b", [["a", "b"]]),
        ("a {log}> out b", [["a", "b"]]),
        ("a >\\\n log b\nc", [["a", "b"], ["c"]]),
        ("a b 2>&1 | tee log", [["a", "b"], ["tee", "log"]]),
        ("a 'b > c' \"2>&1\" d\\>e", [["a", "b > c", "2>&1", "d>e"]]),
        ('a --set=\'{"b": "<c>"}\'', [["a", '--set={"b": "<c>"}']]),
        ("a <(b c) ${d:->e}", [["a", "<(b c)", "${d:->e}"]]),
        ("a <model> b", [["a", "<model>", "b"]]),
        ("a >\nb", [["a"], ["b"]]),
        ("> log", []),
        ("a >", [["a"]]),
    ],
)
def test_redirections_are_no_words(text: str, words: list[list[str]]) -> None:
    assert [[word.text for word in command.words] for command in split_commands(text, "run.sh")] == words


def test_words_behind_a_redirection_stand_where_they_stand() -> None:
    first, second = split_commands("a > log b\nc 2>\\\n log d", "run.sh")
    assert [(w.span.line, w.span.column) for w in (*first.words, *second.words)] == [(1, 1), (1, 9), (2, 1), (3, 6)]


def test_a_script_with_a_log_becomes_the_plan_of_the_same_script_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for behind in ("", " > log.txt 2>&1 &", " 2>&1 | tee 'log of today.txt'", ' &>> "$LOG"'):
        (tmp_path / "run.sh").write_text(
            f"vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 2{behind}\n", encoding="utf-8"
        )
        assert main(["import", str(tmp_path / "run.sh"), "--node", "h100_2"]) == 0
        found.append(capsys.readouterr().out)
    assert "tp = 2" in found[0]
    assert len(set(found)) == 1
