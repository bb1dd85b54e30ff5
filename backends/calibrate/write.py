"""A fitted calibration as `.plan` text: constants, where they come from, and how far they were off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from plandsl.backends.calibrate.conformal import Margin, margin, together
from plandsl.backends.calibrate.distance import Margins, near_band
from plandsl.backends.calibrate.fit import THIN, Errors, Fitted
from plandsl.spec.constants import MARGINS, values
from plandsl.spec.hardware import CORE, MARGINS_OF, TRANSFER, constant_dimension
from plandsl.units import BYTES, TIME

MADE = "# Made by `planc calibrate`: do not edit."


def plan_texts(
    name: str, fitted: Sequence[Fitted], source: str, nearest: Sequence[str] = (), *, margins: Mapping[str, Margins]
) -> dict[str, str]:
    """The calibration of a GPU by name: its sets as sections, with their errors beside them.

    Kinds of kernels that few plans need stand in one of their own, so that others need not read them. Those that no
    set answers are as in ``nearest``, `pooled` or `generic`, and stand in `assumed`. ``low`` and ``high`` of a set are
    the band that holds 80 % of measured / predicted on shapes that the fit did not see, by the ``margins`` of its kind.
    """
    core = [f for f in fitted if f.path.split(".")[0] in CORE]
    more = [f for f in fitted if f.path.split(".")[0] not in CORE]
    texts = {}
    others = list(nearest)  # these hold the core too, and so come first: what follows is read only where that is short
    if core and more:
        texts[f"{name}_more"] = _text(f"{name}_more", more, source, [], margins)
        others.append(f"{name}_more")
    texts[name] = _text(name, core or more, source, [*others, "pooled", "generic"], margins)
    return texts


def _text(
    name: str, fitted: Sequence[Fitted], source: str, others: Sequence[str], margins: Mapping[str, Margins]
) -> str:
    lines = [MADE, f"calibration {name} {{", f'  source = "{source}"', *_kinds(fitted, margins)]
    if others:
        lines += ["", "  # kinds that this file lacks", "  assumed {", f"    otherwise = [{', '.join(others)}]", "  }"]
    return "\n".join([*lines, "}", ""])


def pooled_text(fitted: Sequence[Fitted]) -> str:
    """The calibration for what nobody measured on a GPU: constants that many GPUs share."""
    source = "fitted to all measured GPUs at once; errors are those of each GPU left out of the fit in turn"
    return "\n".join([MADE, "calibration pooled {", f'  source = "{source}"', *_kinds(fitted, {}), "}", ""])


def _kinds(fitted: Sequence[Fitted], margins: Mapping[str, Margins]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(f.path.split(".")[0] for f in fitted):
        lines += ["", f"  {kind} {{"]
        if kind in margins:
            lines += _margin_lines(margins[kind])
        same = [f for f in fitted if f.path.split(".")[0] == kind]
        for f in same:
            known = margins.get(kind)
            lines += _section(f, near_band(f.spread, f.left.near, known.shapes) if known else _left_out_band(f, same))
        lines.append("  }")
    return lines


def _margin_lines(found: Margins) -> list[str]:
    """How much wider than a set's own the bands of a kind are beyond the fitted sizes, and on other GPUs."""
    told = [log - near for at in (found.beyond, found.lent) if at for log, near in zip(at, found.near, strict=True)]
    numbers = zip(MARGINS, told, strict=False)
    return [f"    {MARGINS_OF} {{", *(f"      {name} = {math.exp(log):.4g}" for name, log in numbers), "    }"]


def _left_out_band(f: Fitted, same: Sequence[Fitted]) -> Margin:
    """The band of constants that many GPUs share, from GPUs left out; ``same`` are all sets of the kind."""
    everything = together([one.left.lent for one in same])
    if len(everything.groups):
        return margin((f.left.lent, everything))
    return TRANSFER * math.log(f.seen.low), TRANSFER * math.log(f.seen.high)


def _section(f: Fitted, band: Margin) -> list[str]:
    judged = f.unseen or f.seen
    what = "rows not fitted" if f.unseen else "rows fitted: too few to leave any out"
    thin = ", thin data" if f.seen.rows + (f.unseen.rows if f.unseen else 0) < THIN else ""
    said = (
        f"{f.seen.rows} rows fitted; off by {_percent(judged.median)} (median) and"
        f" {_percent(judged.p90)} (90th percentile), bias {100 * judged.bias:+.1f} %, on {_rows(judged)} {what}{thin}"
    )
    out = [f"    # {f.derived or said}", f"    {f.path.split('.')[1]} {{"]
    ends = {} if f.sizes is None else dict(zip(("least", "most"), f.sizes, strict=True))
    constants = values(f.constants) | {"low": math.exp(band[0]), "high": math.exp(band[1])} | ends
    out += [f"      {name} = {_constant(f'{f.path}.{name}', value)}" for name, value in constants.items()]
    return [*out, "    }"]


def _rows(errors: Errors) -> str:
    return f"{errors.rows}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _constant(path: str, value: float) -> str:
    """In a unit that keeps the figures readable; four digits are what a fit is worth."""
    dimension = constant_dimension(path)
    if dimension == TIME:
        return f"{value * 1e6:.4g} us" if value < 1e-3 else f"{value * 1e3:.4g} ms"
    if dimension == BYTES:
        return f"{value:.4g} B"
    return f"{value:.4g}"
