"""The tables of docs/calibration.md that a fit of engines writes: errors of rows left out, and the constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.engine_files import quantity
from benchmarks.steps import LOOSE, Fit
from plandsl.backends.calibrate.fit import Errors

PAGE = Path(__file__).resolve().parent.parent / "docs" / "calibration.md"

CLASSES = {
    (True, "jittered"): "without experts, jittered",
    (True, "fixed"): "without experts, fixed",
    (True, "assumed"): "without experts, assumed fixed",
    (False, "jittered"): "with experts, jittered",
    (False, "fixed"): "with experts, fixed",
    (False, "assumed"): "with experts, assumed fixed",
}
"""Classes of rows, by models without experts or not and by how lengths are known."""

SAID = {"ttft_s": "TTFT", "tpot_s": "TPOT", "output_tok_per_s": "throughput"}

Key = tuple[bool, str, str]
"""A class of rows and a metric."""


def write_tables(errors: Mapping[Key, Sequence[Errors]], fits: Mapping[str, Fit]) -> None:
    """Replace both tables of the page. ``errors`` are those of each fold; ``fits`` are by engine, `all` first."""
    text = PAGE.read_text(encoding="utf-8")
    text = replace_table(text, "| models, lengths |", error_lines(errors))
    PAGE.write_text(replace_table(text, "| | `prefill`", constant_lines(fits)), encoding="utf-8")


def replace_table(text: str, begin: str, lines: Sequence[str]) -> str:
    """``text`` with other ``lines`` below the header of the table that begins so."""
    before, header, after = text.partition(begin)
    assert header, f"the page has a table that begins with {begin}"
    names, rule, *rest = after.split("\n")
    end = next(i for i, line in enumerate(rest) if not line.startswith("|"))
    return "\n".join([before + header + names, rule, *lines, *rest[end:]])


def error_lines(errors: Mapping[Key, Sequence[Errors]]) -> list[str]:
    """A line for each class and metric: rows, and the median and 90th percentile of each fold."""
    out = []
    for (dense, lengths, metric), folds in errors.items():
        cells = [f"{100 * e.median:.1f} ({100 * e.p90:.0f}) %" for e in folds]
        told = [CLASSES[dense, lengths], SAID[metric], f"{folds[0].rows:,}", *cells]
        out.append(f"| {' | '.join(told)} |")
    return out


def constant_lines(fits: Mapping[str, Fit]) -> list[str]:
    """A line for each engine: its constants, with the factor of their interval."""
    out = []
    for name, one in fits.items():
        cells = [f"{quantity(n, one.constants[n])} ({one.interval[n]:.2f})" for n in LOOSE]
        out.append(f"| {'all engines' if name == 'all' else f'`{name}`'} | {' | '.join(cells)} |")
    return out
