"""The width of text. Graphviz places nothing, so we must know which text fits into a box."""

from __future__ import annotations

FONT = "Helvetica,Arial,sans-serif"

_FIRST = 32
_WIDTHS = (
    "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278 "
    "584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 "
    "667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 "
    "278 556 500 722 500 500 500 334 260 334 584"
)
WIDTHS = tuple(int(w) for w in _WIDTHS.split())
"""Advance widths of Helvetica for ASCII 32..126, in thousandths of the size. Source: Adobe's Helvetica.afm."""

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
WIDER = {False: 1.0, True: 1.08}
"""The factor by which text is wider, by whether it is bold."""


def text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of ``text`` at ``size``, in points."""
    total = 0
    for c in text:
        i = ord(c) - _FIRST
        total += WIDTHS[i] if 0 <= i < len(WIDTHS) else 600 if ord(c) < 0x2E80 else 1000
    return total * size / 1000 * WIDER[bold]


def fit(text: str, width: float, size: float, bold: bool = False) -> str:
    """``text``; if it is wider than ``width`` points, it is cut and ends in an ellipsis."""
    if text_width(text, size, bold) <= width:
        return text
    cut = text
    while cut and text_width(cut + ELLIPSIS, size, bold) > width:
        cut = cut[:-1]
    return cut.rstrip(" ,:") + ELLIPSIS
