"""`planc` writes what it is asked to write, and nothing else, anywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from plandsl.cli import VERBS
from tests.isolation import CASES, ROOT, make_inputs, snapshot

QUICK = ("report", "search")
"""Commands that a run of `make test` takes; `make test-extras` takes all."""

FOLDERS = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


def only_what_is_asked(name, tmp_path) -> None:
    """Run a command in a folder of inputs, with all folders that a program may take for its own ones watched."""
    one = CASES[name]
    if one.missing:
        pytest.skip(f"needs {', '.join(one.missing)}")
    for folder in ("work", *FOLDERS):
        (tmp_path / folder).mkdir()
    make_inputs(tmp_path / "work")
    before = snapshot(tmp_path)
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG") if key in os.environ}
    own = {name: str(tmp_path / name) for name in FOLDERS}
    done = subprocess.run(
        [sys.executable, "-m", "plandsl", *one.words], cwd=tmp_path / "work", stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **kept, **own},
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (one.status, False), done.stderr
    after = snapshot(tmp_path)
    changed = [path for path in before | after if before.get(path) != after.get(path)]
    asked = tuple(f"work/{path}" for path in one.writes)
    assert [path for path in changed if path not in asked and not path.startswith(tuple(f"{a}/" for a in asked))] == []
    assert set(asked) <= set(changed)


def test_every_verb_has_a_command_here() -> None:
    assert {one.words[0] for one in CASES.values()} == set(VERBS)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_appears_but_what_is_asked_for(name, tmp_path) -> None:
    only_what_is_asked(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in QUICK])
def test_nothing_appears_but_what_is_asked_for_of_any_verb(name, tmp_path, drawing) -> None:
    only_what_is_asked(name, tmp_path)
