"""Whatever fails or interrupts a command, each file is the old one or the new one, whole, and nothing else is left."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from plandsl import ending, files
from plandsl.diagnostics import PlanError
from tests.draws import pick
from tests.faults import Interrupt, failing, run_here
from tests.isolation import CASES, ROOT, Case, make_inputs, snapshot

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES)
WRITERS = {name: one for name, one in CASES.items() if one.writes and name != "measure"}
QUICK = ("fmt", "export_vllm")
"""Commands that a run of `make test` takes; `make test-extras` takes all."""

ROWS = "measure"
"""The verb whose file is whole after each row, and not only in the end."""


def prepare(folder: Path, one: Case) -> dict[str, str]:
    """Inputs, and an old file where the command writes one. Gives a snapshot."""
    folder.mkdir()
    make_inputs(folder)
    for name in one.writes:
        if one.words[0] != "init" and Path(name).suffix and not (folder / name).exists():
            (folder / name).write_text("old")
    return snapshot(folder)


def half_written(before: dict[str, str], after: dict[str, str], whole: dict[str, str]) -> list[str]:
    """The paths that are neither as before nor as a whole run leaves them."""
    return [name for name in before | after if after.get(name) not in (before.get(name), whole.get(name))]


def whole_run(tmp_path: Path, one: Case, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a folder is after a run that nothing disturbs."""
    if one.missing:
        pytest.skip(f"needs {', '.join(one.missing)}")
    folder = tmp_path / "whole"
    prepare(folder, one)
    monkeypatch.chdir(folder)
    assert run_here(*one.words).status == one.status
    return snapshot(folder)


def each_fault(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command again and again; the first call that changes a file fails, then the second, until none is left."""
    one = WRITERS[name]
    whole = whole_run(tmp_path, one, monkeypatch)
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        before = prepare(folder, one)
        monkeypatch.chdir(folder)
        error = ERRORS[pick(len(ERRORS), name, number)]
        with failing(folder, number, OSError(error, os.strerror(error))) as steps:
            status, _, said = run_here(*one.words)
        assert half_written(before, snapshot(folder), whole) == []
        if steps.done < number:
            assert snapshot(folder) == whole
            break
        assert status == 2, steps.called
        assert os.strerror(error) in said, steps.called
        assert "error[E4" in said
        assert "Traceback" not in said
        shutil.rmtree(folder)
    assert number > 4 * len([w for w in one.writes if Path(w).suffix]), "a file is made, written, synced and renamed"


@pytest.mark.parametrize("name", QUICK)
def test_each_call_that_fails_leaves_whole_files(name, tmp_path, monkeypatch):
    each_fault(tmp_path, name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WRITERS if name not in QUICK])
def test_each_call_that_fails_leaves_whole_files_of_every_verb(name, tmp_path, monkeypatch, drawing):
    each_fault(tmp_path, name, monkeypatch)


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # a file left open
@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupt_at_each_instruction_leaves_the_old_file_or_the_new_one(every, tmp_path):
    path, at = tmp_path / "x", -pick(every, "instructions")
    inside = (os.path.join("plandsl", "files.py"), "contextlib.py")
    seen = set()
    while True:
        at += every
        path.write_text("old")
        path.chmod(0o640 if at % 2 else 0o600)
        interrupt = Interrupt(at, inside, opcodes=True)
        with suppress(KeyboardInterrupt):
            interrupt.call(lambda: files.write_file(path, "new") or 0)
        assert os.listdir(tmp_path) == ["x"], at
        seen.add(path.read_text())
        if interrupt.count < at:
            break
    assert seen == {"old", "new"}


INSIDE = tuple(
    os.path.join(*path.split("/"))
    for path in (
        "plandsl/files.py", "contextlib.py", "plandsl/sheets.py", "plandsl/plotting.py", "searches/run.py",
        "commands/report.py", "commands/search.py", "commands/simulate.py", "commands/export.py", "commands/import_.py",
        "commands/init.py", "commands/compare.py", "commands/calibrate.py", "commands/accuracy.py",
        "graphviz/write.py", "calibrate/write.py", "traces/perfetto.py", "traces/graph.py",
    )
)  # fmt: skip
"""Modules between whose lines commands are interrupted."""


# Between the last line of a `with` and the call that closes its file, tracing can interrupt and a signal cannot. Python
# closes the file then, and tells it where warnings are errors. Files that are written are closed inside their `with`.
# An interrupt while `subprocess` starts a process (`dot`) leaves it: its input ends with ours, and so does the process.
# What an interrupted run leaves, such as a writer of Parquet, is finalized before the next run: in the middle of that
# one its lines would count, and its errors would be taken for errors of that one.
@pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning")
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_an_interrupt_between_any_two_lines_leaves_whole_files(name, tmp_path, monkeypatch, drawing):
    one = WRITERS[name]
    gc.collect()
    whole_run(tmp_path, one, monkeypatch)  # what later runs have in memory already
    shutil.rmtree(tmp_path / "whole")
    prepare(tmp_path / "whole", one)
    monkeypatch.chdir(tmp_path / "whole")
    counted = Interrupt(0, INSIDE)
    run_here(*one.words, interrupt=counted)
    whole = snapshot(tmp_path / "whole")
    draw = random.Random(pick(10**6, name))
    for at in sorted(draw.sample(range(1, counted.count + 1), min(40, counted.count))):
        before = prepare(tmp_path / str(at), one)
        monkeypatch.chdir(tmp_path / str(at))
        interrupt = Interrupt(at, INSIDE)
        gc.collect()
        status, _, said = run_here(*one.words, interrupt=interrupt)
        assert half_written(before, snapshot(tmp_path / str(at)), whole) == [], at
        assert status == 130 or interrupt.dropped or interrupt.count < at
        assert "Traceback" not in said, at
        if "matplotlib.pyplot" in sys.modules:  # an interrupted process ends with its figures; this one goes on
            sys.modules["matplotlib.pyplot"].close("all")


def test_an_interrupt_that_python_drops_in_a_finalizer_is_known():
    """As that of a generator which is given up inside a `with`; a run then ended with 0 and nothing said why."""

    def given_up():
        with nullcontext():
            yield

    def act() -> int:
        return next(given_up()) or 0

    ways = set()
    for at in range(1, 100):
        interrupt = Interrupt(at, ("contextlib.py",))
        with suppress(KeyboardInterrupt):
            assert interrupt.call(act) == 0
            ways.add((interrupt.dropped, interrupt.count < at))
        if interrupt.count < at:
            break
    assert ways == {(True, False), (False, True)}


def test_an_interrupt_while_a_file_is_made_leaves_no_file_open(tmp_path):
    """It once left one open between the opening of its descriptor and the end of `__init__`."""
    at = 0
    while True:
        at += 1
        descriptor = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
        interrupt = Interrupt(at, (os.path.join("plandsl", "files.py"),))
        with warnings.catch_warnings(record=True) as found, suppress(KeyboardInterrupt):
            warnings.simplefilter("always")
            interrupt.call(lambda descriptor=descriptor: files._File(descriptor, nullcontext).close() or 0)
        assert found == [], at
        if interrupt.count < at:
            break
        os.close(descriptor)
    assert at > 1


def test_an_interrupted_search_replaces_no_file(tmp_path, monkeypatch):
    one = CASES["search"]
    before = prepare(tmp_path / "x", one)
    monkeypatch.chdir(tmp_path / "x")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plandsl.commands.console.Progress.__call__", interrupt)
    status, out, said = run_here(*one.words)
    assert status == 130
    assert "INTERRUPTED" in out
    assert "out.csv is not written: the search was interrupted" in said
    assert snapshot(tmp_path / "x") == before


# ---- signals


@pytest.fixture
def handled(monkeypatch):
    """The handlers of this process as they were, when the test is over."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.getsignal(number)) for number in numbers]
    hook = sys.unraisablehook
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    yield
    sys.unraisablehook = hook
    for number, handler in before:
        signal.signal(number, handler)


def ended_by(*numbers: int, held: bool = False, swallowed: bool = False) -> list[int]:
    """The status of a run that gets the signals, and the statuses with which it would have ended at once."""
    at_once: list[int] = []

    def leave(status: int) -> None:
        at_once.append(status)
        raise RuntimeError("the process is over")

    def act() -> int:
        if held:
            with ending.hold():
                for number in numbers:
                    os.kill(os.getpid(), number)
                at_once.append(-1)  # it goes on
        try:
            for number in numbers:
                try:
                    os.kill(os.getpid(), number)
                except BaseException:
                    if not swallowed:
                        raise
        finally:
            at_once.append(0)  # what is open is put away
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", leave)
        ending.watch()
        try:
            status = ending.run_orderly(act)
        except SystemExit as error:
            status = int(str(error.code))
    return [status, *at_once]


def test_a_signal_ends_a_run_in_an_orderly_way(handled, capfd):
    assert ended_by(signal.SIGINT) == [130, 0]
    assert ended_by(signal.SIGTERM) == [143, 0]
    assert ended_by(signal.SIGHUP) == [129, 0]
    assert ended_by() == [0, 0]
    assert capfd.readouterr().err == "interrupted\nterminated\nhung up\n"


def test_a_second_signal_ends_a_run_at_once_and_leaves_no_unfinished_file(handled, tmp_path):
    (tmp_path / "unfinished").write_text("half")
    files._unfinished.add(str(tmp_path / "unfinished"))
    assert 143 in ended_by(signal.SIGINT, signal.SIGTERM, swallowed=True)
    assert os.listdir(tmp_path) == []
    files._unfinished.clear()


def test_a_signal_is_held_back_while_a_library_starts(handled):
    assert ended_by(signal.SIGTERM, held=True) == [143, -1]


def test_an_ignored_signal_stays_ignored(handled):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ended_by(signal.SIGHUP) == [0, 0]


def test_an_interrupt_in_a_finalizer_is_not_dropped(handled):
    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    ended: list[int] = []

    def act() -> int:
        Finalized()
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", ended.append)
        ending.watch()
        ending.run_orderly(act)
    assert ended == [130]


START = """
import os, sys
from plandsl import ending
import plandsl.__main__ as program
ending.watch()
os.write(int(sys.argv.pop(1)), b".")
sys.exit(program.run())
"""
"""`planc`, which says when Python has started: before that, a signal is Python's."""


def start(one: Case, folder: Path, scratch: Path) -> subprocess.Popen[str]:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(write), *one.words], cwd=folder, pass_fds=[write], text=True,
        env=os.environ | {"TMPDIR": str(scratch)}, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    assert os.read(read, 1) == b"."
    os.close(read)
    return process


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *(child for one in own for child in below(one))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("name", CASES)
def test_a_signal_at_any_moment_leaves_whole_files_and_no_process(name, tmp_path, drawing):
    one = CASES[name]
    if one.missing:
        pytest.skip(f"needs {', '.join(one.missing)}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    prepare(tmp_path / "whole", one)
    began = time.monotonic()
    start(one, tmp_path / "whole", scratch).communicate()
    seconds, whole = time.monotonic() - began, snapshot(tmp_path / "whole")
    draw = random.Random(pick(10**6, name))
    for at in range(6):
        number = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        before = prepare(tmp_path / str(at), one)
        if name == ROWS:
            (tmp_path / str(at) / "out.csv").unlink()
        process = start(one, tmp_path / str(at), scratch)
        time.sleep(draw.random() * seconds)
        children = below(process.pid)
        with suppress(ProcessLookupError):  # to the process as `kill` does, or to all that a terminal has
            draw.choice((os.kill, os.killpg))(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 128 + number, -number), said  # by itself where it was over already
        assert "Traceback" not in said
        after = snapshot(tmp_path / str(at))
        if name == ROWS:
            assert [path for path in after if path.endswith(".tmp")] == []
        else:
            assert half_written(before, after, whole) == []
        patience = time.monotonic() + 20
        while any(map(alive, children)) and time.monotonic() < patience:
            time.sleep(0.05)
        assert not any(map(alive, children)), "a process goes on"
        assert os.listdir(scratch) == []


def test_rows_are_whole_after_each_fault(tmp_path):
    """`planc measure` writes its file again for each row."""
    from plandsl.backends.measure.cases import Case as Kernel
    from plandsl.backends.measure.table import Rows

    path = tmp_path / "rows.csv"
    kernels = [Kernel("gemm.csv", (("dtype", "bf16"), ("m", str(m)), ("n", "8"), ("k", "8")), 1.0, 1.0) for m in (1, 2)]
    failed = 0
    for number in range(1, 20):
        path.unlink(missing_ok=True)
        rows = Rows(path, "mine", "cpu")
        rows.add(kernels[0], {"time_s": "1e-3"})
        with failing(tmp_path, number, OSError(errno.ENOSPC, "No space left on device")) as steps:
            try:
                rows.add(kernels[1], {"time_s": "2e-3"})
            except PlanError as error:
                failed += "No space left" in str(error)
        assert os.listdir(tmp_path) == ["rows.csv"]
        again = Rows(path, "mine", "cpu")
        assert len(again.rows) == len(rows.rows) == (1 if steps.done >= number else 2)
        if steps.done < number:
            break
    assert failed == 5


# ---- a disk that is really full

FULL = """
mount -t tmpfs -o size=64k none "$1" && cp p.plan "$1" && echo old > "$1/out.html" && cd "$1" || exit 77
shift
"$@"
echo "status $?"
ls -A
cat out.html
"""
"""In a name space of its own: a disk of 64 kB, on which a page of 900 kB is written over an old file."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs the program unshare")
def test_a_full_disk_keeps_the_old_file(tmp_path, drawing):
    make_inputs(tmp_path)
    (tmp_path / "disk").mkdir()
    command = [sys.executable, "-m", "plandsl", "report", "p.plan", "-o", "out.html"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", str(tmp_path / "disk"), *command], cwd=tmp_path, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode in (1, 77) and "status" not in done.stdout:
        pytest.skip("this system lets no user mount a disk")
    assert "error[E405]: cannot write out.html: No space left on device" in done.stderr
    assert done.stdout.split("\n", 1)[1:] == ["out.html\np.plan\nold\n"]
    assert done.stdout.startswith("status 2")
