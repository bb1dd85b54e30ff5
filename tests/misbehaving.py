"""Answers of a worker that misbehaves, by the word that is asked of it (tests/test_serve_workers.py)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import gettempdir

WRITTEN = Path(gettempdir()) / "written_by_a_worker"


def misbehave(kind: str, body: bytes, seconds: float) -> tuple[int, bytes]:
    """Do what ``kind`` says."""
    if kind == "sleep":
        time.sleep(60)
    elif kind == "spin":
        while True:
            pass
    elif kind == "eat":
        return 200, b"%d" % len(bytes(700 << 20))  # more than the limit of the tests; zeros cost no time
    elif kind == "grow":
        held = []
        while True:
            held.append(bytearray(1 << 20))
    elif kind == "leave":
        os._exit(3)
    elif kind == "fail":
        raise ZeroDivisionError("a secret of the server")
    elif kind == "recurse":
        return misbehave(kind, body, seconds)
    elif kind == "read":
        return 200, Path("/etc/hostname").read_bytes()
    elif kind == "write":
        WRITTEN.write_bytes(b"x")
    elif kind == "start":
        os.system("true")
    elif kind == "talk":
        return 200, b"x" * (64 << 20)
    elif kind == "deepen":
        sys.setrecursionlimit(10**9)
        return misbehave("recurse", body, seconds)
    return 200, b'{"pid": %d}' % os.getpid()
