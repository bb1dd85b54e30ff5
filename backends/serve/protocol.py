"""HTTP on a connection, bounded in time: uvicorn's protocol waits for ever on clients that send or read nothing."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from plandsl.backends.serve.guard import Refusal, raw, refuse
from plandsl.backends.serve.limits import LIMITS, Limits
from plandsl.backends.serve.workers import busy

LINGER = 1.0
"""Seconds that a client has to read the last answer of a connection."""


class BoundedProtocol(H11Protocol):
    """One connection. A timer always runs; what it does when it ends depends on where the request is.

    Without a request the connection closes. A request that is not whole is answered 408. An answer that the client
    does not read is dropped.
    """

    limits: ClassVar[Limits] = LIMITS
    timer: asyncio.TimerHandle | None = None
    timed: str = ""

    def connection_made(self, transport: Any) -> None:
        """A client is there: one more than the server takes is told so."""
        super().connection_made(transport)
        self._time("idle", self.limits.idle)
        if len(self.connections) > self.limits.connections:
            self._end(busy(), "Service Unavailable")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and its timer too."""
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of the next one."""
        if self.transport.is_closing():
            return
        if self.timed == "idle":
            self._time("arrival", self.limits.arrival)
        super().data_received(data)
        if self.timed == "arrival" and self._whole:
            self._time("answer", self.limits.seconds + self.limits.departure)

    def eof_received(self) -> Any:
        """The client sends no more. It may still read the answer to what it sent; asyncio would close at once."""
        if not self._waited_for:
            return None
        self.cycle.keep_alive = False
        return True

    def on_response_complete(self) -> None:
        """The answer is handed over. What is left of the request has its time; then the connection is free again."""
        super().on_response_complete()
        if self._whole:
            self._time("idle", self.limits.idle)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing: the timer of this class closes connections."""

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP."""
        self._end(refuse(400, "the request is not HTTP/1.1"), "Bad Request")

    @property
    def _whole(self) -> bool:
        """Whether all of a request has come."""
        return self.cycle is not None and not self.cycle.more_body

    @property
    def _waited_for(self) -> bool:
        """Whether the answer to a whole request is on its way."""
        return self._whole and not self.cycle.response_complete

    def _time(self, what: str, seconds: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timed, self.timer = what, self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self.timed == "arrival" and not (self.cycle is not None and self.cycle.response_started):
            self._end(refuse(408, f"the request did not come within {self.limits.arrival:g} s"), "Request Timeout")
        elif self.timed == "idle" and not self.transport.is_closing():
            self.timed = "end"
            self.transport.close()
            self.timer = self.loop.call_later(LINGER, self.transport.abort)
        else:
            self.transport.abort()

    def _end(self, refusal: Refusal, phrase: str) -> None:
        """Say a last word, and close."""
        if self.cycle is not None:  # the application waits for a body that will not be read
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(raw(refusal, phrase))
        self.transport.close()
        self._time("end", LINGER)


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """The protocol with these limits."""
    return type("Protocol", (BoundedProtocol,), {"limits": limits})
