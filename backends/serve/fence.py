"""What a worker process may not do, whatever the text that it compiles makes it try.

The language reads no file where the playground asks it to. The fence holds even if that has a mistake: the system
bounds memory, time and writing, and Python itself refuses to open files outside its libraries, to start other programs
than the one that draws, and to use the network.
"""

from __future__ import annotations

import os
import resource
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plandsl

PROGRAMS = ("dot", "dot.exe", os.path.basename(sys.executable))
"""What may be started: Graphviz, or Python with Graphviz in it."""

REFUSED = (
    "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "os.system",
    "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill", "os.killpg", "shutil.", "ctypes.dlopen",
)  # fmt: skip
"""Events of `sys.addaudithook` (their first letters) that no answer needs."""


def bound(memory: int) -> None:
    """Let the system bound this process: its address space, no core files, nothing written into files."""
    _set_limit(resource.RLIMIT_AS, memory)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_FSIZE, 0)
    sys.dont_write_bytecode = True


def bound_cpu(seconds: float) -> None:
    """End this process after so many more CPU seconds: the server ends it by the clock, this holds without the server.

    The limit is of whole seconds.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _set_limit(kind: int, value: int) -> None:
    """Lower a limit for good, never raise it. Systems that lack the limit (macOS has no RLIMIT_AS) go without."""
    _, hard = resource.getrlimit(kind)
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (least, least))
    except (ValueError, OSError):
        return


def raise_fence() -> None:
    """From here on, refuse what no answer needs. A fence cannot be taken down."""
    sys.addaudithook(make_hook(tuple(sorted(set(library_folders())))))


def make_hook(folders: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """The hook that raises `PermissionError` for what is refused; files in ``folders`` may be read."""
    inside = tuple(folder + os.sep for folder in folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            if isinstance(path, int) or path in (os.devnull, os.fsencode(os.devnull)):
                return
            real = os.path.realpath(os.fsdecode(path))
            if writes or not real.startswith(inside):
                raise PermissionError(f"a worker may not open {real}")
        elif event == "subprocess.Popen":
            if os.path.basename(os.fsdecode(arguments[0] or arguments[1][0])) not in PROGRAMS:
                raise PermissionError(f"a worker may not start {arguments[0]}")
        elif event.startswith(REFUSED):
            raise PermissionError(f"a worker may not use {event}")

    return hook


def library_folders() -> Iterator[str]:
    """The folders of Python's libraries and of plandsl itself, links resolved."""
    paths = sysconfig.get_paths()
    yield from (os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield from map(os.path.realpath, (*site.getsitepackages(), site.getusersitepackages()))
    root = Path(plandsl.__file__).parent
    yield from (os.path.realpath(path) for path in (root, *(p for p in root.iterdir() if p.is_dir())))
