"""The width of text. Graphviz places nothing, so we must know which text fits into a box."""

from __future__ import annotations

FONT = "Helvetica,Arial,Liberation Sans,DejaVu Sans,sans-serif"

_FIRST = 32
_WIDTHS = (
    "318 401 460 838 636 950 780 275 390 390 500 838 318 361 318 337 636 636 636 636 636 636 636 636 636 636 337 337 "
    "838 838 838 556 1015 684 686 722 770 667 611 778 752 295 500 667 557 863 748 787 667 787 722 667 611 732 684 989 "
    "685 667 685 390 337 390 838 556 500 613 635 550 635 615 352 635 634 278 278 579 278 974 634 612 635 635 411 521 "
    "392 634 592 818 592 592 525 636 337 636 838"
)
_BOLD_WIDTHS = (
    "348 456 521 838 696 1002 872 306 457 457 523 838 380 415 380 365 696 696 696 696 696 696 696 696 696 696 400 400 "
    "838 838 838 611 1000 774 762 734 830 683 683 821 837 372 556 775 637 995 837 850 733 850 770 720 682 812 774 1103 "
    "771 724 725 457 365 457 838 556 500 675 716 593 716 678 435 716 712 343 343 665 343 1042 712 687 716 716 493 595 "
    "478 712 652 924 645 652 582 712 365 712 838"
)
WIDTHS = {False: tuple(map(int, _WIDTHS.split())), True: tuple(map(int, _BOLD_WIDTHS.split()))}
"""Advance widths of ASCII 32..126 in thousandths of the size, by whether the text is bold.

Each is the larger one of Helvetica (Adobe's Helvetica.afm and Helvetica-Bold.afm) and DejaVu Sans 2.37, the wide font
that many machines without Helvetica draw instead: what fits here fits in both.
"""

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
OTHERS = {"\N{MULTIPLICATION SIGN}": 838, "\N{MIDDLE DOT}": 380, "\N{EN DASH}": 556, ELLIPSIS: 1000}
"""The widths of other characters that pictures use, in both weights."""

WIDEST = 1000
"""The width of every other character."""


def text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of ``text`` at ``size``, in points."""
    total = 0
    for c in text:
        i = ord(c) - _FIRST
        total += WIDTHS[bold][i] if 0 <= i < len(WIDTHS[bold]) else OTHERS.get(c, WIDEST)
    return total * size / 1000


def fit(text: str, width: float, size: float, bold: bool = False) -> str:
    """``text``; if it is wider than ``width`` points, it is cut and ends in an ellipsis."""
    if text_width(text, size, bold) <= width:
        return text
    cut = text
    while cut and text_width(cut + ELLIPSIS, size, bold) > width:
        cut = cut[:-1]
    return cut.rstrip(" ,:") + ELLIPSIS
