"""Reading and writing files: a read has a size limit, and a written file appears whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from plandsl.diagnostics import Diagnostic, PlanError, clip

Place = str | os.PathLike[str]

NOT_ORDINARY = "it is no ordinary file"
"""The reason that an error gives for refusing to read a pipe, a socket or a device."""

SHOWN = 120
"""Characters of a path that an error shows: the name of the file stands at the end, and should be among them."""


def split_part(text: str) -> tuple[str, str | None]:
    """The file and the name of ``FILE:NAME``, which is a part of the file; for a text without a colon, no name."""
    path, colon, name = text.rpartition(":")
    return (path, name) if colon else (text, None)


# ---- reading


def read_file(path: Place, most: int, *, resolved: bool = False) -> bytes:
    """The content of an ordinary file, but at most ``most + 1`` bytes. Raises `OSError`.

    ``resolved`` as for `open_ordinary`. Pipes and devices are refused, because they may never end or may block;
    `read_input` reads piped input.
    """
    with open_ordinary(path, resolved=resolved) as file:
        return file.read(most + 1)


def is_there(path: Path) -> bool:
    """Whether there is no folder at ``path``, but something to read. A pipe counts: reading tells why it is refused.

    Nothing is at a path that the system cannot look for, such as too long a name.
    """
    return os.path.exists(path) and not os.path.isdir(path)


class TooLong(Exception):
    """A file has more bytes than may be read, or a line has; ``line`` is its number in that case."""

    def __init__(self, line: int | None) -> None:
        self.line = line
        super().__init__(line)


def read_lines(path: Place, most: int, longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines of an ordinary file with their numbers from 1, without their ends; one line is in memory at a time.

    ``path`` is a resolved one, as for `open_ordinary`.

    Raises `OSError`; `TooLong` after ``most`` bytes, or at a line of more than ``longest`` bytes.
    """
    with open_ordinary(path, resolved=True) as file:
        number = read = 0
        while line := file.readline(longest + 2):
            number += 1
            read += len(line)
            if read > most:
                raise TooLong(None)
            text = line.rstrip(b"\r\n")
            if len(text) > longest:
                raise TooLong(number)
            yield number, text


@contextmanager
def open_ordinary(path: Place, *, resolved: bool = False) -> Iterator[BinaryIO]:
    """An ordinary file, open for reading. Raises `OSError` for a pipe or a device, which may never end or may block.

    The links of a ``resolved`` path were followed, and where that leads was found to be allowed. A link that has taken
    the place of one of its folders since then is an error.
    """
    with open(path, "rb", opener=_open_without_links if resolved else open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, NOT_ORDINARY)
        yield file


def open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open_without_links(path: str, flags: int) -> int:
    """Open folder after folder, none of which may be a link; where the system has no such call, as `open_at_once`."""
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        return open_at_once(path, flags)
    start, *folders, name = Path(path).parts
    through = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
    at = os.open(start, through)
    try:
        for folder in folders:
            below = os.open(folder, through, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


def read_input(most: int) -> bytes:
    """The content of standard input, but at most ``most + 1`` bytes. Raises `OSError`."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read(most + 1)


# ---- writing

ErrorContext = Callable[[], AbstractContextManager[None]]
"""Makes a context that turns an error in writing the file into a diagnostic that names it."""


def make_folder(path: Place) -> None:
    """Make a folder, and those that it lies in, where there is none. Raises `PlanError` (E405)."""
    try:
        os.makedirs(path, exist_ok=True)
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        why = f"cannot make the folder {clip(os.fspath(path), SHOWN)}: {getattr(error, 'strerror', None) or error}"
        raise PlanError([Diagnostic("E405", why)]) from error


def write_file(path: Place, content: str | bytes, code: str = "E405") -> None:
    """Write a whole file or none of it, as `write_whole` does."""
    with write_whole(path, code) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def write_whole(path: Place, code: str = "E405") -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place at ``path`` when the block ends, and not before.

    The content goes to a new file of a random name in the same folder, which is then renamed. After an error in the
    block the new file is removed, and ``path`` is unchanged. An existing file keeps its mode. Where ``path`` is a
    symbolic link, the link stays, and the file that it points to is replaced; no other link is followed.

    Pipes, devices and the standard output cannot be replaced. They get the content when the block ends without an
    error.

    Raises `PlanError` (``code``) where the file cannot be written.
    """
    report_errors = partial(_report_errors, path, code)
    with report_errors():
        found = _stat(path)
        target = os.path.realpath(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if found is None and not os.path.isdir(os.path.dirname(target)):
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {clip(os.path.dirname(path) or target, SHOWN)}")
    own = None if found is None else _own_output(found)
    if found is None or (stat.S_ISREG(found.st_mode) and not own):
        opened = _write_beside(target, None if found is None else stat.S_IMODE(found.st_mode) & 0o777, report_errors)
    else:
        opened = _write_through(own or path, report_errors)
    with opened as file:
        yield file


@contextmanager
def _report_errors(path: Place, code: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise PlanError([Diagnostic(code, f"cannot write {clip(os.fspath(path), SHOWN)}: {reason}")]) from error


def _stat(path: Place) -> os.stat_result | None:
    """The status of the file at ``path``, links followed; None where there is no file yet."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _own_output(found: os.stat_result) -> int | None:
    """The descriptor of standard output or error, if ``found`` is one of them (``/dev/stdout``); else None."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


class _File(io.FileIO):
    """A file that reports a failed write as a diagnostic."""

    def __init__(self, descriptor: int, report_errors: ErrorContext) -> None:
        self.report_errors = report_errors
        super().__init__(descriptor, "wb")  # last: an interrupt behind it would leave the file open

    def write(self, data: Any) -> int:
        with self.report_errors():
            return super().write(data)


_unfinished: set[str] = set()
"""Files that are being written, by the names that they have until then."""


def remove_unfinished() -> None:
    """Remove all files that are being written, for a process that ends at once."""
    for path in tuple(_unfinished):
        with suppress(OSError):
            os.unlink(path)


@contextmanager
def _write_beside(target: str, mode: int | None, report_errors: ErrorContext) -> Iterator[BinaryIO]:
    """Write a new file beside ``target`` and rename it to ``target``; ``mode`` is the mode of an existing target."""
    folder, name = os.path.split(target)
    beside = os.path.join(folder, f".{name[:40]}-{os.urandom(8).hex()}.tmp")
    try:
        _unfinished.add(beside)  # before it is there: a signal may come between its making and the next line
        with report_errors():
            descriptor = _create(beside, 0o666 if mode is None else 0o600)
        with io.BufferedWriter(_File(descriptor, report_errors)) as file:
            if mode is not None:
                with report_errors():
                    os.chmod(descriptor if os.chmod in os.supports_fd else beside, mode)
            yield cast(BinaryIO, file)
            with report_errors():
                file.flush()
                _sync(descriptor)
                file.close()
        with report_errors():
            os.replace(beside, target)
    finally:
        if beside in _unfinished:
            with suppress(OSError):
                os.unlink(beside)
            _unfinished.discard(beside)


def _sync(descriptor: int) -> None:
    """Wait until the content is on the disk: else a machine that stops may have the new name without the content."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # of a file system that cannot say so
            raise


def _create(path: str, mode: int) -> int:
    """Create a file for writing; one that exists is left alone. Raises `OSError`."""
    try:
        # O_EXCL follows no link and refuses a file that exists
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    except FileExistsError:
        _unfinished.discard(path)  # it is not ours
        raise


@contextmanager
def _write_through(target: Place | int, report_errors: ErrorContext) -> Iterator[BinaryIO]:
    """Collect the content, then write it to a pipe, a device, or an open descriptor."""
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        with report_errors():
            if isinstance(target, int):
                sys.stdout.flush()
            with open(os.dup(target) if isinstance(target, int) else target, "wb") as out:
                shutil.copyfileobj(file, out)
