"""Links that hold a plan: its text, compressed, behind the `#` of an address, which a browser sends to no server."""

from __future__ import annotations

import base64
import zlib

from plandsl import limits
from plandsl.diagnostics import Diagnostic, PlanError

FORM = "1"
"""The form of links. The page writes and reads the same form (`backends/serve/page/link.js`)."""


def fragment(text: str) -> str:
    """``#1.`` and the text: UTF-8, deflated (RFC 1951), in the letters of base64url without padding."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    squeezed = squeezer.compress(text.encode("utf-8", "replace")) + squeezer.flush()
    return f"#{FORM}." + base64.urlsafe_b64encode(squeezed).rstrip(b"=").decode()


def text_of(link: str) -> str:
    """The text in a link. Raises `PlanError` (E599) where it holds none, or more than a plan may have."""
    form, _, letters = link.rpartition("#")[2].partition(".")
    try:
        if form != FORM:
            raise ValueError(f"its form is not {FORM}")
        squeezed = base64.b64decode(letters + "=" * (-len(letters) % 4), altchars=b"-_", validate=True)
        opener = zlib.decompressobj(-zlib.MAX_WBITS)
        text = opener.decompress(squeezed, limits.MAX_FILE_BYTES + 1)
        if len(text) > limits.MAX_FILE_BYTES or not opener.eof:
            raise ValueError("its text is cut, or too long")
        return text.decode("utf-8")
    except (ValueError, zlib.error) as error:
        raise PlanError([Diagnostic("E599", f"the link holds no plan: {error}", hint="copy the link whole")]) from None
