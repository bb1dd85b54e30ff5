"""The same bytes from every verb under any hash seed, and a list of the Pythons that `make pythons` runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import same_bytes
from benchmarks.same_bytes import OF_ONE, WHOLE, cases, digests, pythons, run
from plandsl import cli
from plandsl.units import show_time
from tests.draws import pick, some


def test_every_verb_that_prints_or_writes_is_among_the_cases() -> None:
    from plandsl.cli import VERBS

    named = {case.split()[0] for case in cases()}
    waits_or_measures = {"serve", "lsp", "measure", "run"}
    reads_other_files = {"calibrate", "accuracy", "compare"}
    assert named | waits_or_measures | reads_other_files == set(VERBS)
    assert all(word.split()[0] in VERBS for word in (*WHOLE, *OF_ONE))


def test_a_verb_has_the_same_bytes_under_another_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    quick = [case for case in cases() if not case.startswith(("report", "search", "laws", "explain"))]
    drawn = some(quick, len(quick) // 2, "cases")[:2]
    other = run(sys.executable, pick(1000, "seed"), drawn)
    assert digests(drawn) == other


def test_how_long_a_search_takes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(met: int, seconds: float) -> dict[str, str]:
        line = f"offline  44 configurations of 4 plans, {met} meet all; {show_time(seconds)}\n\n  batch 64\n"
        monkeypatch.setattr(cli, "main", lambda _: print(line))
        return digests(["search"])

    assert told(4, 0.315) == told(4, 1.2)
    assert told(4, 0.315) != told(5, 0.315)


def test_bytes_that_differ_and_pythons_that_are_not_run_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\necho 3.10.4\n", "utf-8")
    bare = tmp_path / "python3.99"
    bare.write_text('#!/bin/sh\ncase "$2" in *numpy*) echo "no module named numpy" >&2; exit 1;; esac\necho 3.99.0\n')
    for path in (old, bare):
        path.chmod(0o755)
    monkeypatch.setenv("PYTHONS", f"{old}:{bare}")
    monkeypatch.setattr(same_bytes, "MINORS", range(99, 100))
    monkeypatch.setattr(same_bytes, "cases", lambda: ["check", "passes"])
    monkeypatch.setattr(same_bytes, "run", lambda python, seed, named: {"check": str(seed), "passes": "same"})
    assert [python.why_not for python in pythons()] == ["plandsl needs Python 3.11", "no module named numpy"]
    assert same_bytes.main_here() == 1
    out = capsys.readouterr().out
    assert "hash seed 1      1 differ\n    check\n" in out
    assert "Python 3.10.4 not run: plandsl needs Python 3.11\n" in out
    assert "Python 3.99.0 not run: no module named numpy\n" in out
