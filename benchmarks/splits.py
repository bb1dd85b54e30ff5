"""Divide measurements so that predictions are judged on rows that the fit did not see.

There are three divisions, none of them random:

- `unseen shapes`: one shape in five, by hash (`fit.held_out`); constants come from the others;
- `unseen sizes`: the smallest and the largest tenth of each set; constants come from the middle;
- `unseen GPUs`: all rows of a GPU; constants come from the relatives in `calibrate.relatives`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from attrs import evolve, field, frozen

from plandsl.backends.accuracy.answer import Mask
from plandsl.backends.accuracy.kernels import Group, Shelf, grouped
from plandsl.backends.accuracy.run import compare, read, usable
from plandsl.backends.accuracy.score import Judged
from plandsl.backends.calibrate.conformal import NONE, Residuals
from plandsl.backends.calibrate.distance import Left, Margins, end_rows, kind_margins, lent_residuals, off
from plandsl.backends.calibrate.fit import Fitted, fit, held_out
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.relatives import relatives_of
from plandsl.backends.calibrate.run import LEAST
from plandsl.entries import catalog_gpu, catalog_link
from plandsl.spec.constants import FORMS, FormConstants, names, values
from plandsl.spec.constants import read as read_constants
from plandsl.spec.hardware import CalibrationSpec

Fits = dict[str, dict[str, dict[str, float]]]
"""Constants by GPU, set and name."""


@frozen(eq=False)
class Splits:
    """Constants by GPU and set, and masks of the judged rows by file and metric, for each division.

    ``rest`` was fitted without the rows in ``shapes``, and ``middle`` without the rows in ``sizes``. ``left`` has the
    residuals of each GPU and set. Bands of a GPU come from those of the others.
    """

    rest: Fits = field(factory=dict)
    middle: Fits = field(factory=dict)
    shapes: dict[tuple[str, str], Mask] = field(factory=dict)
    sizes: dict[tuple[str, str], Mask] = field(factory=dict)

    groups: list[tuple[Group, Fitted, Residuals]] = field(factory=list)
    _margins: dict[str, dict[str, Margins]] = field(factory=dict)

    def own(self, fits: Fits) -> Shelf:
        """Predict each GPU from its own constants."""
        distance = "beyond" if fits is self.middle else "near"
        return self._shelf(lambda key: [_spec(key, fits.get(key, {}), self.margins(key), distance)])

    def relatives(self) -> Shelf:
        """Predict each GPU from the constants of its relatives."""
        return self._shelf(lambda key: [_spec(n, self.rest[n], self.margins(key), "lent") for n in self.lenders(key)])

    def _shelf(self, calibrations: Callable[[str], list[CalibrationSpec]]) -> Shelf:
        return Shelf(catalog_gpu, catalog_link, cache(calibrations))

    def margins(self, key: str) -> dict[str, Margins]:
        """The margins of each kind without the residuals of one GPU."""
        if key not in self._margins:
            sets: dict[str, dict[str, Fitted]] = {}
            for g, found, _ in self.groups:
                sets.setdefault(g.key, {})[g.path] = found
            left: dict[str, list[Left]] = {}
            for g, found, ends in self.groups:
                if g.key == key:
                    continue
                lenders = [sets[name] for name in self.lenders(g.key) if name in sets and name != key]
                lent = lent_residuals(g.kind, g.gpu, g.rows, g.path, lenders)
                left.setdefault(g.path.partition(".")[0], []).append(found.left._replace(beyond=ends, lent=lent))
            self._margins[key] = kind_margins(left)
        return self._margins[key]

    def lenders(self, key: str) -> list[str]:
        """The relatives of a GPU that have fitted constants."""
        gpu = catalog_gpu(key)
        return [name for name in (relatives_of(gpu) if gpu else ()) if name in self.rest]


def files(data: Path) -> Iterator[Path]:
    """The files of kernels in a folder, without empty ones."""
    for name in dict.fromkeys(kind.file for kind in KINDS):
        if (data / name).is_file() and len(read(data / name)):
            yield data / name


def divide(data: Path) -> Splits:
    """Fit every set of a folder twice: without the unseen shapes, and without the unseen sizes."""
    out = Splits()
    for path in files(data):
        table = read(path)
        claimed: dict[tuple[str, str], Mask] = {}
        for g in grouped(table, usable(path.name, path, table), Shelf(catalog_gpu, catalog_link, lambda key: [])):
            name = (path.stem, g.kind.metric)
            for masks in (out.shapes, out.sizes, claimed):
                masks.setdefault(name, np.zeros(len(table), dtype=np.bool_))
            first = ~claimed[name][g.at]  # a row is judged once, by the kind that comes first
            claimed[name][g.at] = True
            for masks, judges in zip((out.shapes, out.sizes), _divide(out, g), strict=True):
                masks[name][g.at[first]] = judges[first]
    return out


def judged_errors(data: Path, shelf: Shelf, masks: dict[tuple[str, str], Mask] | None = None) -> Iterator[Judged]:
    """Errors by file and metric, on the rows that ``masks`` picks, or on all rows."""
    for path in files(data):
        table = read(path)
        for whole, counted in compare(path.stem, table, usable(path.name, path, table), shelf):
            nothing = np.zeros(len(table), dtype=np.bool_)
            of = counted if masks is None else counted & masks.get((whole.file, whole.metric), nothing)
            if of.any():
                yield whole.where(of)


def _divide(out: Splits, g: Group) -> tuple[Mask, Mask]:
    """Fit one set twice. Return the rows to judge in each division: unseen shapes, unseen sizes.

    A set that is too small to fit counts whole as unseen shapes.
    """
    measured = g.rows.numbers(g.kind.metric)
    good = np.isfinite(measured) & (measured > 0)
    whole = np.ones(len(g.rows), dtype=np.bool_)
    if not g.kind.fits or good.sum() < LEAST:
        return whole, ~whole
    rows = g.rows.where(good)
    found = fit(g.kind, g.gpu, rows, g.path, _fitted_before(out.rest, g))
    _keep(out.rest, g, found)
    shapes = held_out(g.kind, g.rows) if found.unseen is not None else ~whole
    edges = end_rows(g.kind, g.gpu, g.rows, of=good)
    inside = good & ~edges
    if inside.sum() < max(LEAST, 2 * len(names(type(g.kind.start)))):
        out.groups.append((evolve(g, rows=rows), found, NONE))
        return shapes, ~whole
    middle = fit(g.kind, g.gpu, g.rows.where(inside), g.path, _fitted_before(out.middle, g))
    _keep(out.middle, g, middle)
    ends = off(middle.constants, g.kind, g.gpu, g.rows.where(good & edges), f"{g.key} {g.path}").beyond(middle.spread)
    out.groups.append((evolve(g, rows=rows), found, ends))
    return shapes, edges


def _fitted_before(fits: Fits, g: Group) -> dict[str, FormConstants]:
    """The sets of the group's GPU and section."""
    section = g.path.partition(".")[0]
    of = {path: cs for path, cs in fits.get(g.key, {}).items() if path.partition(".")[0] == section}
    return {path: read_constants(FORMS[section], cs) for path, cs in of.items()}


def _keep(fits: Fits, g: Group, found: Fitted) -> None:
    band = {"low": math.exp(found.spread[0]), "high": math.exp(found.spread[1])}
    fits.setdefault(g.key, {})[g.path] = values(found.constants) | band


def _spec(
    name: str, sections: dict[str, dict[str, float]], margins: dict[str, Margins], distance: str
) -> CalibrationSpec:
    """A calibration whose bands are as wide as rows at a ``distance`` ask for, a field of `Margins`."""
    flat = []
    for path, constants in sections.items():
        margin = getattr(margins.get(path.partition(".")[0], Margins()), distance) or (0.0, 0.0)
        ends = dict(zip(("low", "high"), margin, strict=True))
        flat += [(f"{path}.{n}", v * math.exp(ends.get(n, 0.0))) for n, v in constants.items()]
    return CalibrationSpec(name, tuple(flat))
