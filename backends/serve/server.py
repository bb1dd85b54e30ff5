"""The server: a socket, the workers, and when it all ends."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import uvicorn

from plandsl.backends.serve.app import make_app
from plandsl.backends.serve.guard import is_address
from plandsl.backends.serve.limits import LIMITS, Limits
from plandsl.backends.serve.protocol import bounded
from plandsl.backends.serve.workers import Answer, Crew, Log
from plandsl.diagnostics import Diagnostic, PlanError

FREE_PORTS = 20
"""How many ports are tried from the usual one on, where the caller names none."""


class Ends(NamedTuple):
    """When a server ends by itself: after ``seconds``, or ``idle`` seconds after the last request; None for never."""

    seconds: float | None = None
    idle: float | None = None

    def due(self, started: float, last: float, now: float) -> bool:
        """Whether it is time, for times of one clock."""
        return (self.seconds is not None and now - started >= self.seconds) or (
            self.idle is not None and now - last >= self.idle
        )


def listen(host: str, port: int, tries: int = 1) -> socket.socket:
    """A socket that listens at the first free of ``tries`` ports from ``port`` on. Raises `PlanError` (E596)."""
    for at in range(port, min(port + tries, 65_536)):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, at, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            opened = socket.create_server(address[:2], family=family, backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                why = f"cannot listen at {host}, port {at}: {error.strerror or error}"
                raise PlanError([Diagnostic("E596", why, hint=_hint(error))]) from error
        else:
            opened.setblocking(False)
            return opened
    where = f"port {port} is" if tries == 1 else f"ports {port} to {port + tries - 1} are"
    hint = "another server may run there; take another port with --port, or any free one with --port 0"
    raise PlanError([Diagnostic("E596", f"{where} in use", hint=hint)])


def _hint(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "ports below 1024 need rights of their own; take a larger one with --port"
    return "--host takes a name or an address of this machine"


def address_of(opened: socket.socket, host: str) -> str:
    """The address to open in a browser."""
    name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    name = f"[{name}]" if is_address(f"[{name}]") else name
    return f"http://{':'.join((name, str(opened.getsockname()[1])))}/"


def serve(
    opened: socket.socket,
    host: str,
    answer: Answer,
    kinds: tuple[str, ...],
    *,
    loaded: Sequence[str] = (),
    ends: Ends = Ends(),  # noqa: B008 - a value that does not change
    limits: Limits = LIMITS,
    log: Log = print,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal comes or ``ends`` says so. ``loaded`` are modules that workers have from the start.

    ``ready`` is called once the workers are there and requests are taken.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of numpy take address space, and answers are small
    crew = Crew(answer, limits, loaded, log)
    clock = Clock(ends)
    names = frozenset() if is_address(host) else frozenset({host.lower()})
    config = uvicorn.Config(
        make_app(crew, limits, kinds, names, clock.touch),
        http=bounded(limits), ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2, timeout_keep_alive=60,
    )  # fmt: skip
    server = Server(config)
    try:
        crew.start()
        asyncio.run(_run(server, opened, clock, ready))
    finally:
        crew.stop()
        opened.close()


class Server(uvicorn.Server):
    """uvicorn's server, whose signals are handled in `_run`: it would raise them again once it has ended."""

    def capture_signals(self) -> AbstractContextManager[None]:
        """Leave signals alone."""
        return nullcontext()


class Clock:
    """When the server started, and when a request came last."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        self.started = self.last = time.monotonic()

    def touch(self) -> None:
        """A request is here."""
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the server should end."""
        return self.ends.due(self.started, self.last, time.monotonic())


async def _run(server: Server, opened: socket.socket, clock: Clock, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or another signal to end, and look now and then whether it is time to end."""
    clock.started = clock.last = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: setattr(server, "should_exit", True))

    async def watch() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        ready()
        while not clock.due:
            await asyncio.sleep(0.25)
        server.should_exit = True

    watching = asyncio.create_task(watch())
    try:
        await server.serve([opened])
    finally:
        watching.cancel()
