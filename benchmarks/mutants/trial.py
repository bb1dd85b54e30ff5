"""Runs tests under a change, in a fork of a process that has loaded them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

MEMORY = 6 * 2**30
"""Bytes of address space of a trial: a change that asks for more fails its test."""

SLOWER = 10
"""A test that takes this many times as long as it does, and `MORE`, hangs."""

MORE = 20.0
"""CPU seconds."""

WALL = 900.0
"""Seconds after which a trial that uses no CPU is given up, as one that hangs."""

PLUGINS = ("_hypothesis_pytestplugin", "xdist")
"""What the suite's options and marks need; others that are installed would only cost time around each test."""

NOT_RUN = ("extras", "slow", "release")
"""The marks of tests that no trial runs."""

OPTIONS = (
    "-q", "-n0", "-s", "-p", "no:cacheprovider", "-p", "no:logging",
    "-m", " and ".join(f"not {mark}" for mark in NOT_RUN), "--assert=plain", "--hypothesis-seed=1", "--tb=no",
)  # fmt: skip


class Outcome(NamedTuple):
    """What came of the tests: the one that failed or hung, how many passed, of how many, in how many CPU seconds."""

    verdict: str
    test: str
    passed: int
    of: int
    seconds: float


class Items:
    """A plugin that hands the collected tests to ``use`` instead of running them."""

    def __init__(self, use: Callable[[list[pytest.Item]], None]) -> None:
        self._use = use

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """Draw no smaller example of what fails, and keep none."""
        from hypothesis import Phase, settings

        settings.register_profile("mutants", settings(), phases=(Phase.explicit, Phase.generate), database=None)
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Use the tests, and tell pytest that they ran."""
        self._use(session.items)
        return True


def name_of(item: pytest.Item) -> str:
    """``module.function[case]``."""
    return f"{item.module.__name__}.{item.name}"  # type: ignore[attr-defined]


def collect(files: Iterable[str], use: Callable[[list[pytest.Item]], None]) -> int:
    """Load the tests of ``files``, and hand them to ``use``; the exit status of pytest."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    return int(pytest.main([*plugins, *OPTIONS, *files], plugins=[Items(use)]))


class _Watch:
    """Notes the first failure."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


Tell = Callable[[Outcome], None]
"""Ends a trial with an outcome."""


def run(items: Sequence[pytest.Item], usual: Callable[[str], float], limit: float, tell: Tell) -> None:
    """Run ``items`` until one fails, hangs, or ``limit`` CPU seconds are over; ``usual`` is what a test takes."""
    start, watch, passed = time.process_time(), _Watch(), 0

    def outcome(verdict: str, test: str = "") -> None:
        tell(Outcome(verdict, test, passed, len(items), time.process_time() - start))

    if not items:
        outcome("passed")
    items[0].config.pluginmanager.register(watch)
    for item, following in zip(items, [*items[1:], None], strict=True):
        name = name_of(item)
        signal.signal(signal.SIGPROF, lambda *_, name=name: outcome("hung", name))
        signal.setitimer(signal.ITIMER_PROF, SLOWER * usual(name) + MORE)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if watch.failed:
            outcome("failed", name)
        passed += 1
        if time.process_time() - start > limit:
            break
    outcome("passed")


class Fork:
    """A call in a child process, whose outcome is read when it has ended."""

    def __init__(self, what: Callable[[Tell], None], limit: float) -> None:
        self.pipe, write = os.pipe()
        self._start = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        try:
            os.close(self.pipe)
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _quiet()
            _bounded(limit)
            with tempfile.TemporaryDirectory(prefix="mutant") as folder:
                os.environ["TMPDIR"] = tempfile.tempdir = folder
                os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder

                def tell(outcome: Outcome) -> None:
                    os.write(write, json.dumps(outcome).encode())
                    shutil.rmtree(folder, ignore_errors=True)
                    os._exit(0)

                what(tell)
        except BaseException:
            os.write(write, json.dumps(Outcome("lost", traceback.format_exc(), 0, 0, 0.0)).encode())
        finally:
            os._exit(1)

    def stop(self) -> None:
        """End the child, and what it started."""
        os.killpg(self.pid, signal.SIGKILL)
        os.wait4(self.pid, 0)

    def result(self) -> Outcome | None:
        """The outcome, if the child has ended: one that was killed hung."""
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() - self._start < WALL:
                return None
            os.killpg(self.pid, signal.SIGKILL)
            _, status, used = os.wait4(self.pid, 0)
        os.set_blocking(self.pipe, False)  # what a test left running may hold the other end
        try:
            text = os.read(self.pipe, 65536)
        except BlockingIOError:
            text = b""
        os.close(self.pipe)
        seconds = used.ru_utime + used.ru_stime
        if text:
            return Outcome(*json.loads(text))._replace(seconds=seconds)
        return Outcome("hung" if os.WIFSIGNALED(status) else "lost", f"status {status}", 0, 0, seconds)


def _quiet() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def _bounded(limit: float) -> None:
    seconds = int(limit + 150)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def files_of(tests: Iterable[str]) -> list[str]:
    """The files of ``module.function`` names."""
    modules = sorted({name.split("[")[0].rpartition(".")[0] for name in tests})
    return [f"{module.replace('.', '/')}.py" for module in modules if Path(f"{module.replace('.', '/')}.py").exists()]
