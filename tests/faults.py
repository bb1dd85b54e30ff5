"""Faults at every step of writing files: a call to the system that fails, an interrupt between two instructions."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from plandsl import ending, files
from plandsl.cli import main

CALLS = ("open", "fsync", "chmod", "replace", "mkdir")
"""The functions of `os` that make and change files; writing is the method of `plandsl.files`."""


class Ran(NamedTuple):
    """What a run gave: its exit status, and what it printed."""

    status: int
    out: str
    err: str


def run_here(*words: str, interrupt: Interrupt | None = None) -> Ran:
    """Run `planc` in this process, as a process of its own would."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(out), redirect_stderr(err):
        status = ending.run_orderly(partial(interrupt.call if interrupt else _call, partial(main, words)))
        out.flush()
        err.flush()
    return Ran(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def _call(act: Callable[[], int]) -> int:
    return act()


class Steps:
    """Counts the calls that change files below a folder; the one with the number ``fails`` raises ``error``."""

    def __init__(self, folder: Path, fails: int, error: OSError | None) -> None:
        self.folder, self.fails, self.error, self.done = str(folder), fails, error, 0
        self.called: list[str] = []

    def step(self, name: str) -> None:
        self.done += 1
        self.called.append(name)
        if self.done == self.fails and self.error is not None:
            raise self.error

    def changes(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether a call changes a file of the folder, or one that is open."""
        if name == "open" and not arguments[1] & os.O_CREAT:
            return False
        return isinstance(arguments[0], int) or os.path.abspath(os.fspath(arguments[0])).startswith(self.folder)


@contextmanager
def failing(folder: Path, fails: int = 0, error: OSError | None = None) -> Iterator[Steps]:
    """Let the call with the number ``fails`` that changes a file below ``folder`` raise ``error``; 0: none does."""
    steps = Steps(folder, fails, error)

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            if steps.changes(name, arguments):
                steps.step(name)
            return call(*arguments, **more)

        return called

    class Failing(files._File):
        def write(self, data: Any) -> int:
            with self.report_errors():
                steps.step("write")
            return super().write(data)

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            wrapped = wrap(name, getattr(os, name))
            if name == "chmod" and os.chmod in os.supports_fd:
                patch.setattr(os, "supports_fd", os.supports_fd | {wrapped})
            patch.setattr(os, name, wrapped)
        patch.setattr(files, "_File", Failing)
        yield steps


class Interrupt:
    """Raises `KeyboardInterrupt` once in a call, at the line with the number ``at``; 0: never.

    Lines count that run in modules whose path ends in ``inside``; with ``opcodes``, each instruction of theirs does.
    ``count`` is the number that ran. ``dropped``: Python dropped the exception, as it does in a finalizer; a process of
    its own ends at once then (`plandsl.ending.watch`), and a run in this one goes on.
    """

    def __init__(self, at: int, inside: tuple[str, ...], opcodes: bool = False) -> None:
        self.at, self.inside, self.opcodes, self.count, self.dropped = at, inside, opcodes, 0, False

    def call(self, act: Callable[[], int]) -> int:
        """The result of ``act``."""
        before, sys.unraisablehook = (sys.gettrace(), sys.unraisablehook), self._see
        sys.settrace(self._at_call)
        try:
            return act()
        finally:
            sys.settrace(before[0])
            sys.unraisablehook = before[1]

    def _see(self, found: Any) -> None:
        if isinstance(found.exc_value, KeyboardInterrupt):
            self.dropped = True
        else:
            sys.__unraisablehook__(found)

    def _at_call(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(self.inside):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = self.opcodes, not self.opcodes
        return self._at_line

    def _at_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == ("opcode" if self.opcodes else "line"):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
        return self._at_line
