"""The protocol of `planc serve` as bytes of a connection: requests, halves of requests, what is no HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from itertools import pairwise
from random import Random
from typing import Any, cast

from tests.fuzz.case import Answer, Case, Corpus, Target
from tests.fuzz.mutate import mutate

BODY = b'{"text": "plan p { }"}'

FINAL = re.compile(rb"HTTP/1\.1 (100|200|400|403|404|405|408|413|415|421|431|503) ")


def _draw(random: Random, corpus: Corpus) -> Case:
    """What a client sends, in parts as they come."""
    if corpus and random.random() < 0.3:
        sent = random.choice(corpus).stdin
        sent = mutate(sent, random, [_request(random)])
    else:
        sent = b"".join(_request(random) for _ in range(random.choice((1, 1, 1, 2, 3))))
        if random.random() < 0.4:
            sent = mutate(sent, random)
    cuts = tuple(f"{random.random():.3f}" for _ in range(random.choice((0, 0, 1, 3))))
    return Case({}, cuts, sent)


def _request(random: Random) -> bytes:
    method = random.choice((b"GET", b"POST", b"POST", b"HEAD", b"PUT", b"get", b"X" * 50))
    path = random.choice(
        (b"/", b"/ask/estimate", b"/ask/hover", b"/nothing", b"*", b"http://127.0.0.1/", b"/%00", b"/" * 5000)
    )
    body = random.choice((BODY, BODY, b"", b"{", b"x" * 3000))
    lines = [b"%s %s %s" % (method, path, random.choice((b"HTTP/1.1",) * 6 + (b"HTTP/1.0", b"HTTP/2", b"x")))]
    lines += random.choice(([b"host: 127.0.0.1:8765"],) * 5 + ([b"host: evil.example"], [], [b"host: a", b"host: b"]))
    lines += random.choice(([b"content-type: application/json"],) * 4 + ([b"content-type: text/plain"], []))
    length = random.choice((len(body),) * 6 + (0, 1, 10**12, -1))
    lines += random.choice(([b"content-length: %d" % length],) * 4 + ([b"transfer-encoding: chunked"], []))
    lines += random.choice(([],) * 4 + ([b"connection: close"], [b"expect: 100-continue"], [b"upgrade: websocket"]))
    lines += random.choice(([],) * 6 + ([b"x: y"] * 150, [b"x: " + b"y" * 70_000], [b" folded"], [b"\x80: \xff"]))
    if b"transfer-encoding: chunked" in lines and random.random() < 0.8:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return b"\r\n".join((*lines, b"", body))


class _Transport(asyncio.Transport):
    """A connection that remembers what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 8765)})
        self.written, self.closed = bytearray(), False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        """Nothing waits here."""

    def resume_reading(self) -> None:
        """Nothing waits here."""


class _Crew:
    """In the place of the workers: it answers all that comes through to them."""

    async def ask(self, kind: str, body: bytes) -> Any:
        from plandsl.backends.serve.workers import Reply

        return Reply(200, b'{"diagnostics": []}')


def _run(case: Case) -> Answer:
    """Feed the bytes to the protocol, and let it answer; what it raises is raised."""
    loop = asyncio.new_event_loop()
    raised: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: raised.append(context.get("exception") or RuntimeError(str(context))))
    try:
        written = loop.run_until_complete(_talk(loop, case))
    finally:
        loop.close()
    if raised:
        raise raised[0]
    said = re.findall(rb"^HTTP/[^\r\n]*", written, re.M)
    for status in said:
        assert FINAL.match(status + b" "), status
    served = any(b" 200 " in status + b" " for status in said)
    return Answer(0) if served else Answer(2, "", "E599")


async def _talk(loop: asyncio.AbstractEventLoop, case: Case) -> bytes:
    import logging

    from uvicorn import Config
    from uvicorn.server import ServerState

    from plandsl.backends.serve.app import make_app
    from plandsl.backends.serve.limits import LIMITS
    from plandsl.backends.serve.protocol import bounded

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would print a line for each that is no HTTP
    app = make_app(cast(Any, _Crew()), LIMITS, ("estimate", "hover"), frozenset(), lambda: None)
    config = Config(cast(Any, app), log_config=None, access_log=False, lifespan="off")
    config.load()
    protocol = bounded(LIMITS)(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    transport = _Transport()
    protocol.connection_made(transport)
    cuts = sorted({0, len(case.stdin), *(int(float(cut) * len(case.stdin)) for cut in case.argv)})
    for start, stop in pairwise(cuts):
        if not transport.is_closing():
            protocol.data_received(case.stdin[start:stop])
        for _ in range(12):
            await asyncio.sleep(0)
    if not transport.is_closing():
        protocol.eof_received()
    protocol.connection_lost(None)
    for _ in range(12):
        await asyncio.sleep(0)
    return bytes(transport.written)


HTTP: tuple[Target, ...] = ()
if all(importlib.util.find_spec(name) for name in ("uvicorn", "starlette", "h11")):
    HTTP = (Target("http", "verb", _draw, _run, on_disk=False),)
"""With the extra `serve` alone."""
