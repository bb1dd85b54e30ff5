"""The application: a few files from memory, and questions that go to the workers."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from plandsl.backends.serve.guard import Head, Refusal, check, page_headers, too_large
from plandsl.backends.serve.limits import Limits
from plandsl.backends.serve.workers import Crew

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
PAGE = "/"
ASK = "/ask/"
"""Where questions are posted; the last word is the kind."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Stored(NamedTuple):
    """A file of the page: its type and its bytes."""

    type: str
    content: bytes


def read_static(folder: Path = STATIC) -> dict[str, Stored]:
    """The files of the page by their paths on the server. They are read once: no request names a file of the disk."""
    found = {f"/{path.name}": Stored(TYPES[path.suffix], path.read_bytes()) for path in sorted(folder.iterdir())}
    return {PAGE if name == "/index.html" else name: stored for name, stored in found.items()}


def make_app(
    crew: Crew, limits: Limits, kinds: tuple[str, ...], names: frozenset[str], seen: Callable[[], None]
) -> App:
    """The application. ``kinds`` are the questions, ``names`` the server's; ``seen`` hears of each request."""
    files = read_static()
    methods = dict.fromkeys(files, "GET") | {ASK + kind: "POST" for kind in kinds}

    async def file(request: Request) -> Response:
        stored = files[request.url.path]
        if request.url.path != PAGE:
            return Response(stored.content, headers=page_headers(), media_type=stored.type)
        nonce = secrets.token_urlsafe(16)
        page = stored.content.replace(b"{nonce}", nonce.encode())
        return Response(page, headers=page_headers(nonce), media_type=stored.type)

    async def ask(request: Request) -> Response:
        body = await _read_body(request, limits)
        if isinstance(body, Refusal):
            return _say(body)
        reply = await crew.ask(request.url.path.removeprefix(ASK), body)
        return Response(reply.body, reply.status, page_headers(), "application/json")

    routes = [Route(path, file if method == "GET" else ask, methods=[method]) for path, method in methods.items()]
    inner = Starlette(routes=routes)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing else is served
            return
        seen()
        refusal = check(head_of(scope), methods, names, limits)
        try:
            await (inner if refusal is None else _say(refusal))(scope, receive, send)
        except ClientDisconnect:
            return

    return guarded


def head_of(scope: Mapping[str, Any]) -> Head:
    """The head of a request, as the guard reads it."""
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    counts = Counter(name for name, _ in pairs)
    repeated = frozenset(name for name, count in counts.items() if count > 1)
    return Head(scope["method"], scope["path"], dict(pairs), repeated, len(pairs))


async def _read_body(request: Request, limits: Limits) -> bytes | Refusal:
    """The body of a request, or the refusal of one that is too large; no more than the limit is held."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limits.body:
            return too_large(limits)
    return bytes(body)


def _say(refusal: Refusal) -> Response:
    """A refusal as an answer. The connection ends, since the rest of the request is not read."""
    more = {"connection": "close"} | ({"allow": refusal.allow} if refusal.allow else {})
    return Response(refusal.body, refusal.status, page_headers() | more, "application/json")
