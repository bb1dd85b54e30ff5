"""What the server allows a request, and how many requests and connections it takes at once."""

from __future__ import annotations

import os
from typing import NamedTuple


class Limits(NamedTuple):
    """The bounds of a server. Times are in seconds, sizes in bytes."""

    seconds: float = 1.6
    """From a complete request to its answer, waiting for a worker included."""
    arrival: float = 1.5
    """From the first byte of a request to its last. Later the server answers 408."""
    departure: float = 10.0
    """From the end of an answer to the end of its connection, where the client does not read."""
    idle: float = 5.0
    """How long a connection may stay open without a request."""
    memory: int = 1_073_741_824
    """Address space of a worker (RLIMIT_AS). A warm worker has about a fifth of it."""
    body: int = 524_288
    """Largest body of a request: twice the largest plan, since JSON escapes some characters."""
    answer: int = 8_388_608
    """Largest answer of a worker."""
    connections: int = 64
    """Most connections at once; a further one is answered 503 and closed."""
    waiting: int = 16
    """Most requests that wait for a worker; a further one is answered 503."""
    workers: int = max(2, min(4, os.cpu_count() or 2))
    """Worker processes."""
    recycle: int = 2_000
    """Requests after which a worker is replaced, so that its memory does not grow for ever."""


LIMITS = Limits()
