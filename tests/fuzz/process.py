"""`planc` in this process: its streams are in memory, and nothing of one run is left for the next."""

from __future__ import annotations

import atexit
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.fuzz.case import Answer


@contextmanager
def streams(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Streams in memory in the place of those of this process."""
    kept = sys.stdin, sys.stdout, sys.stderr
    out, err = io.BytesIO(), io.BytesIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(err, encoding="utf-8", write_through=True)
    try:
        yield out, err
    finally:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.detach()
        sys.stdin, sys.stdout, sys.stderr = kept


def run_main(argv: Sequence[str], stdin: bytes) -> Answer:
    """What `planc` prints, and its exit status. What it raises beside `SystemExit` is raised."""
    from plandsl.cli import main

    registered, atexit.register = atexit.register, _forget
    try:
        with streams(stdin) as (out, err):
            try:
                status = main(list(argv))
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else 1
    finally:
        atexit.register = registered
    return Answer(status, *(stream.getvalue().decode("utf-8", "replace") for stream in (out, err)))


def _forget(call: object, *_: object, **__: object) -> object:
    """In the place of `atexit.register`: each call of `main` registers the same function."""
    return call
