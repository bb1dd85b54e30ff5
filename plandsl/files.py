"""Files: what is read is bounded, what is written appears whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, cast

from plandsl.diagnostics import Diagnostic, PlanError, clip

Place = str | os.PathLike[str]

NOT_ORDINARY = "it is no ordinary file"
"""Why a pipe, a socket or a device is not read."""

# ---- reading


def read_file(path: Place, most: int) -> bytes:
    """The content of an ordinary file, cut one byte past ``most`` bytes. Raises `OSError`.

    A pipe or a device may have no end, or wait for ever: it is refused. `read_input` reads what is piped.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, NOT_ORDINARY)
        return file.read(most + 1)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_input(most: int) -> bytes:
    """Standard input, cut one byte past ``most`` bytes. Raises `OSError`."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read(most + 1)


# ---- writing

Told = Callable[[], AbstractContextManager[None]]
"""Makes a block whose failures are diagnostics that name the file."""


def write_file(path: Place, content: str | bytes, code: str = "E405") -> None:
    """Write a whole file or none of it, as `write_whole` does."""
    with write_whole(path, code) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def write_whole(path: Place, code: str = "E405") -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place at ``path`` when the block ends, and not before.

    The content goes to a new file of a random name in the same folder, which is then renamed. After an error in the
    block nothing of it stays, and ``path`` is as it was. An existing file keeps its mode. Where ``path`` is a
    symbolic link, the link stays, and the file that it points to is replaced; no other link is followed.

    Pipes, devices and the standard output cannot be replaced. They get the content when the block ends without an
    error.

    Raises `PlanError` (``code``) where the file cannot be written.
    """
    told = partial(_told, path, code)
    with told():
        found = _stat(path)
        target = os.path.realpath(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if found is None and not os.path.isdir(os.path.dirname(target)):
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {clip(os.path.dirname(path) or target, 80)}")
    own = found and _own_output(found)
    if found is None or (stat.S_ISREG(found.st_mode) and not own):
        opened = _write_beside(target, found and stat.S_IMODE(found.st_mode) & 0o777, told)
    else:
        opened = _write_through(own or path, told)
    with opened as file:
        yield file


@contextmanager
def _told(path: Place, code: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise PlanError([Diagnostic(code, f"cannot write {clip(os.fspath(path), 80)}: {reason}")]) from error


def _stat(path: Place) -> os.stat_result | None:
    """What ``path`` names, links followed; None where there is nothing yet."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _own_output(found: os.stat_result) -> int | None:
    """The descriptor of this process's standard output or error that ``found`` is, as for ``/dev/stdout``."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


class _File(io.FileIO):
    """A file whose failing writes are diagnostics."""

    def __init__(self, descriptor: int, told: Told) -> None:
        super().__init__(descriptor, "wb")
        self.told = told

    def write(self, data: Any) -> int:
        with self.told():
            return super().write(data)


@contextmanager
def _write_beside(target: str, mode: int | None, told: Told) -> Iterator[BinaryIO]:
    """Write a new file beside ``target`` and rename it; ``mode`` is that of the file which is there already."""
    folder, name = os.path.split(target)
    beside = os.path.join(folder, f".{name[:40]}-{os.urandom(8).hex()}.tmp")
    with told():
        # O_EXCL follows no link, and takes no file that is there
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(beside, flags, 0o666 if mode is None else 0o600)
    try:
        with io.BufferedWriter(_File(descriptor, told)) as file:
            if mode is not None:
                with told():
                    os.chmod(descriptor if os.chmod in os.supports_fd else beside, mode)
            yield cast(BinaryIO, file)
            with told():
                file.close()
        with told():
            os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


@contextmanager
def _write_through(target: Place | int, told: Told) -> Iterator[BinaryIO]:
    """Collect the content, then send it to a pipe, a device, or a descriptor that is open already."""
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        with told():
            if isinstance(target, int):
                sys.stdout.flush()
            with open(os.dup(target) if isinstance(target, int) else target, "wb") as out:
                shutil.copyfileobj(file, out)
