"""How `planc` ends when a signal ends it: no traceback, no unfinished file, and the exit status 128 + signal number.

The first signal raises an exception, so that files and processes are put away on its way out: `KeyboardInterrupt` for
Ctrl-C, which a search answers with its results so far, and `SystemExit` for the others. A further signal on that way
ends the process at once, after unfinished files are removed; so does any signal before or after the work.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
"""What is said on standard error, by the name of the signal. Windows has no SIGHUP."""

_running = False
"""Whether a signal may raise an exception."""

_raised = False
"""Whether one did."""

_held = False
"""Whether a signal waits until `hold` ends."""

_last: int | None = None
"""The signal that came last."""


def watch() -> None:
    """Handle the signals of `WORDS`, but those that the caller of the process has it ignore, as `nohup` does."""
    for name in WORDS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _handle)
    sys.unraisablehook = _report_unraisable


def run_orderly(main: Callable[[], int]) -> int:
    """The exit status of ``main``. While it runs, the first signal raises an exception."""
    global _running, _raised
    try:
        try:
            _running, _raised = True, False
            return main()
        finally:
            _running = False
            _remove_unfinished()  # an exception between two lines of a `with` skips what the block would do
            watch()  # a server takes its own handlers away when it ends, and ours with them
    except KeyboardInterrupt:
        _say(signal.SIGINT)
        return 128 + signal.SIGINT
    except Exception:
        if not _raised or _last is None:
            raise
        return 128 + _last  # a library that was stopped in the middle fails in its own way


@contextmanager
def hold() -> Iterator[None]:
    """Hold a signal back until the block ends, for libraries that an exception would break; not a second signal."""
    global _held, _raised
    _held = True
    try:
        yield
    finally:
        _held = False
        if _raised and _last is not None:
            _raised = False
            _handle(_last, None)


@contextmanager
def shield() -> Iterator[None]:
    """As `hold`; and processes and threads that start in the block never get Ctrl-C and SIGHUP.

    A terminal sends these two to all its processes. What starts in the block ends with this process.
    """
    with hold():
        before = _block_terminal()
        try:
            yield
        finally:
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _block_terminal() -> Any:
    """Block Ctrl-C and SIGHUP in this thread, and give what was blocked before; None where threads block no signals."""
    if not hasattr(signal, "pthread_sigmask"):
        return None
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # here, because it lets Ctrl-C through once it has started its process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return before


def go_on() -> None:
    """Go on after an interruption, so that the next signal raises an exception too."""
    global _raised
    _raised = False


def _handle(number: int, frame: FrameType | None) -> None:
    global _raised, _last
    _last = number
    if _raised or not _running:
        _end_at_once(number)
    _raised = True
    if _held:
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    _say(number)
    raise SystemExit(128 + number)


def _end_at_once(number: int) -> NoReturn:
    _remove_unfinished()
    _say(number)
    os._exit(128 + number)


def _remove_unfinished() -> None:
    if files := sys.modules.get("plandsl.files"):
        files.remove_unfinished()


def _say(number: int) -> None:
    with suppress(OSError):  # standard error may be closed or full
        os.write(2, f"{WORDS[signal.Signals(number).name]}\n".encode())


def _report_unraisable(found: Any) -> None:
    """End the process where Python would drop the exception of a signal, as it does in a finalizer."""
    if _last is not None and isinstance(found.exc_value, KeyboardInterrupt | SystemExit):
        _end_at_once(_last)
    sys.__unraisablehook__(found)
