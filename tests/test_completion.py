"""Completion in shells: the scripts know every command and option, and bash completes with its own."""

from __future__ import annotations

import argparse
import shutil
import subprocess

import pytest

from benchmarks.completions import scripts
from plandsl.cli import VERBS, main, parser
from plandsl.completion import SCRIPTS, script


def verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in parser(VERBS)._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_know_every_command_and_option(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert out == script(shell)
    for verb, made in verbs().items():
        assert verb in out, "run make completions"
        for option in (o for a in made._actions for o in a.option_strings):
            assert option.lstrip("-") in out, f"{verb} {option}: run make completions"


def test_scripts_are_those_of_the_command_line():
    """As far as another version of shtab writes the same words."""
    for shell, text in scripts().items():
        assert {*script(shell).split()} >= {w for w in text.split() if w.startswith("--") and w.isalpha()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["planc", "comp"], ["compile", "compare", "compare-comm", "completion"]),
        (["planc", "catalog", "mo"], ["model"]),
        (["planc", "check", "--format", ""], ["text", "json", "sarif", "github"]),
        (["planc", "render", "--view", "t"], ["timeline", "tradeoff"]),
        (["planc", "compile", "fi"], ["first.plan"]),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path, words, found):
    (tmp_path / "first.plan").touch()
    (tmp_path / "complete.bash").write_text(
        script("bash")
        + f"\nCOMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)}); COMP_CWORD={len(words) - 1}\n"
        + f"_shtab_planc planc '{words[-1]}' '{words[-2]}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    told = subprocess.run(["bash", "complete.bash"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert sorted(told.split()) == sorted(found)
