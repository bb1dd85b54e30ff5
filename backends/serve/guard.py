"""Which requests the server refuses before it reads their bodies, and the headers of every answer.

These are pure functions of the head of a request. A web page that the user has open elsewhere can send requests to a
server on this machine: by another name of its address (DNS rebinding), or from its own origin (CSRF). Both are refused
here.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from plandsl.backends.serve.limits import Limits
from plandsl.diagnostics import Diagnostic, clip

LOOPBACK = ("localhost",)
"""Names that always mean this machine. Addresses in digits are no names, so that no name server can redirect them."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Headers of every answer, beside its policy. There is none of CORS: no other origin may read an answer."""


def policy(nonce: str = "") -> str:
    """The content security policy: all of the page comes from this server.

    The editor writes a style sheet, which carries the ``nonce`` of the page. ``data:`` and ``blob:`` are pictures that
    the page itself makes.
    """
    style = f"style-src 'self' 'nonce-{nonce}'" if nonce else "style-src 'self'"
    return (
        f"default-src 'none'; script-src 'self'; {style}; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Head(NamedTuple):
    """The head of a request. Names of headers are in lower case; a header that comes twice has both in `repeated`."""

    method: str
    path: str
    headers: Mapping[str, str]
    repeated: frozenset[str] = frozenset()
    lines: int = 0
    """The number of headers."""


MOST_HEADERS = 100
"""Most headers of a request. Browsers send some twenty."""


class Refusal(NamedTuple):
    """An answer that says no: its status, and why."""

    status: int
    why: Diagnostic
    allow: str = ""
    """The methods that a path takes, where the method was wrong."""

    @property
    def body(self) -> bytes:
        """The answer as JSON."""
        return said(self.why)


def said(*found: Diagnostic) -> bytes:
    """Diagnostics as the JSON of an answer."""
    return json.dumps({"diagnostics": [one.as_json() for one in found]}).encode()


def refuse(status: int, message: str, hint: str = "", allow: str = "") -> Refusal:
    """A refusal with E599."""
    return Refusal(status, Diagnostic("E599", message, hint=hint), allow)


def check(head: Head, methods: Mapping[str, str], names: frozenset[str], limits: Limits) -> Refusal | None:
    """Why a request is refused; None where it is not.

    ``methods`` has the method of each path, ``names`` the names of the server beside addresses and `LOOPBACK`.
    """
    if head.lines > MOST_HEADERS:
        return refuse(431, f"the request has more than {MOST_HEADERS} headers")
    return (
        _check_host(head, names)
        or _check_origin(head)
        or _check_target(head, methods)
        or (_check_body(head, limits) if head.method == "POST" else None)
    )


def _check_host(head: Head, names: frozenset[str]) -> Refusal | None:
    host = head.headers.get("host", "")
    if "host" in head.repeated or not host:
        return refuse(400, "the request needs one header `Host`")
    name = split_host(host)
    if name is None or not (is_address(name) or name in LOOPBACK or name in names):
        hint = "open the address that `planc serve` printed, or give this name with --host"
        return refuse(421, f"this server does not go by the name `{clip(host)}`", hint)
    return None


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/?#@\s]+)(:[0-9]{1,5})?")


def split_host(host: str) -> str | None:
    """The name in a header ``Host``, without its port and in lower case; None where it has another form."""
    found = _HOST.fullmatch(host)
    return None if found is None else found[1].lower().removesuffix(".") or None


def is_address(name: str) -> bool:
    """Whether a host is an address in digits: 127.0.0.1, or [::1]."""
    try:
        if name.startswith("[") and name.endswith("]"):
            ipaddress.IPv6Address(name[1:-1])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _check_origin(head: Head) -> Refusal | None:
    origin, host = head.headers.get("origin"), head.headers.get("host", "").lower()
    site = head.headers.get("sec-fetch-site", "none")
    foreign = origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}")
    # a link from elsewhere may open the page, which then says by itself what it wants
    opens = head.method in ("GET", "HEAD") and head.headers.get("sec-fetch-mode") == "navigate"
    if foreign or "origin" in head.repeated or (site not in ("same-origin", "none") and not opens):
        return refuse(403, "the request comes from a page of another site", "use the page of this server")
    return None


def _check_target(head: Head, methods: Mapping[str, str]) -> Refusal | None:
    method = methods.get(head.path)
    if method is None:
        return refuse(404, f"there is nothing at `{clip(head.path)}`", "the playground is at `/`")
    allowed = ("GET", "HEAD") if method == "GET" else (method,)
    if head.method not in allowed:
        allow = ", ".join(allowed)
        return refuse(405, f"`{clip(head.path)}` does not take {clip(head.method)}", f"it takes {allow}", allow)
    return None


def _check_body(head: Head, limits: Limits) -> Refusal | None:
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or "content-type" in head.repeated:  # no form of another site can send this type
        return refuse(415, f"the body must be application/json, found `{clip(kind)}`")
    length = head.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > limits.body):
        return too_large(limits)
    return None


def too_large(limits: Limits) -> Refusal:
    """The refusal of a body that has too many bytes."""
    return refuse(413, f"the request has more than {limits.body:,} bytes", "`planc compile` reads files of this size")


def raw(refusal: Refusal, phrase: str) -> bytes:
    """A refusal as the bytes of an HTTP answer, for requests that never become whole."""
    lines = [f"HTTP/1.1 {refusal.status} {phrase}", "content-type: application/json", "connection: close"]
    lines += [f"{name}: {value}" for name, value in (HEADERS | {"content-security-policy": policy()}).items()]
    return "\r\n".join([*lines, f"content-length: {len(refusal.body)}", "", ""]).encode() + refusal.body


def page_headers(nonce: str = "") -> dict[str, str]:
    """The headers of an answer: those of `HEADERS`, and the policy."""
    return HEADERS | {"content-security-policy": policy(nonce)}
