"""`planc` writes what it is asked to write, and nothing else, anywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

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


# ---- odd surroundings

ODD = (
    *({"COLUMNS": text} for text in ("0", "-5", "1", str(10**9), "text", "\u00b2")),
    {"LINES": "\u00b2"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "", "NO_COLOR": ""},
    {"TZ": "Nowhere/Odd"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "tr_TR.UTF-8"},
    *({"PYTHONIOENCODING": name} for name in ("ascii", "latin-1", "utf-16", "utf-8:strict")), {"HOME": "/nonexistent"},
    {"HOME": "p.plan"}, {"HOME": "", "TMPDIR": "p.plan"}, {"PYTHONOPTIMIZE": "2"},
    {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
)  # fmt: skip
"""Variables of the environment that are unusual."""


def in_no_folder() -> None:
    """Go to a folder that is removed."""
    place = mkdtemp()
    os.chdir(place)
    os.rmdir(place)


def run_in(
    folder: Path, words: list[str], environment: dict[str, str], before: Callable[[], object] | None = None
) -> str:
    """What `planc` prints on standard error; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "plandsl", *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
        check=False, timeout=300, preexec_fn=before,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    said = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, said
    assert done.stdout
    return said


@pytest.mark.slow
@pytest.mark.parametrize("environment", ODD, ids=str)
def test_odd_surroundings_change_no_file(environment, tmp_path) -> None:
    make_inputs(tmp_path)
    assert run_in(tmp_path, ["compile", "p.plan"], {}) == ""
    for name, more in (("usual", {}), ("odd", environment)):
        assert run_in(tmp_path, ["render", "p.plan", "-o", f"{name}.dot"], more) == ""
    assert run_in(tmp_path, ["explain", "p.plan"], environment) == ""
    assert (tmp_path / "odd.dot").read_bytes() == (tmp_path / "usual.dot").read_bytes()


@pytest.mark.slow
def test_a_folder_that_is_gone_and_an_odd_mask_are_no_trouble(tmp_path) -> None:
    make_inputs(tmp_path)
    words = ["render", str(tmp_path / "p.plan"), "-o", str(tmp_path / "gone.dot")]
    assert run_in(tmp_path, words, {}, in_no_folder) == ""
    for mask, mode in ((0o077, 0o600), (0o777, 0)):
        assert run_in(tmp_path, ["render", "p.plan", "-o", f"{mask}.dot"], {}, partial(os.umask, mask)) == ""
        assert (tmp_path / f"{mask}.dot").stat().st_mode & 0o777 == mode


def test_a_number_of_columns_that_is_none_for_python_is_no_number(capsys, monkeypatch) -> None:
    from plandsl.cli import main

    monkeypatch.setenv("COLUMNS", "\u00b2")
    monkeypatch.setenv("LINES", "\u00b2")
    assert main(["passes"]) == 0
    assert main(["catalog", "gpu"]) == 0
    assert main(["compile", str(ROOT / "examples" / "llama3_70b.plan"), "--plan", "hybrid"]) == 0


# ---- several processes, one file


@pytest.mark.slow
@pytest.mark.parametrize("name", ["render_dot", "report", "search", "calibrate", "export_chakra", "fmt"])
def test_of_several_processes_that_write_one_file_one_wins_whole(name, tmp_path, drawing) -> None:
    """Meanwhile the file is read: it is always whole."""
    one = CASES[name]
    make_inputs(tmp_path)
    command = [sys.executable, "-m", "plandsl", *one.words]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    whole = snapshot(tmp_path)
    make_inputs(tmp_path)  # `fmt` finds its file as it was
    before = snapshot(tmp_path)
    running = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    while any(process.poll() is None for process in running):
        for path in one.writes:
            if (tmp_path / path).is_file():
                found = hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
                assert found in (whole[path], before[path])
        time.sleep(0.02)
    assert [(process.returncode, process.communicate()[1]) for process in running] == [(one.status, "")] * 8
    assert snapshot(tmp_path) == whole
