"""From folders of measurements to calibrations: read, group by GPU and set, fit, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import field, frozen

from plandsl.backends.calibrate.between import fill_between
from plandsl.backends.calibrate.declare import tables_of
from plandsl.backends.calibrate.distance import Left, Margins, end_residuals, kind_margins, lent_residuals
from plandsl.backends.calibrate.fit import Fitted, fit
from plandsl.backends.calibrate.kind import AnyKind
from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.pooled import fit_pooled
from plandsl.backends.calibrate.relatives import RELATIVES, completing, relatives_of
from plandsl.backends.calibrate.table import Table, joined, read_table
from plandsl.backends.calibrate.write import plan_texts, pooled_text
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.files import is_there
from plandsl.spec.constants import FormConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec

LEAST = 12
"""Fewer rows of one set are not fitted: the form has as many constants."""

GpuOf = Callable[[str], GpuSpec | None]
LinkOf = Callable[[str], LinkSpec | None]


@frozen
class Job:
    """The rows of one GPU and one set, and those of a relative that join them."""

    kind: AnyKind
    gpu: GpuSpec
    key: str
    path: str
    rows: Table
    joining: Mapping[GpuSpec, Table] = field(factory=dict)


def files(data: Sequence[Path]) -> Iterator[tuple[AnyKind, Table]]:
    """The rows of every known kind in ``data``: files, or folders that hold files.

    Several files of a kind are as one that holds their rows, and a file that is named twice counts once. Raises
    `PlanError` (E450) where one of ``data`` is not there, or where none has such rows.
    """
    for place in data:
        if not os.path.exists(place):
            hint = "name CSV files, or folders that hold CSV files"
            raise PlanError([Diagnostic("E450", f"there is no file or folder {place}", hint=hint)])
    places = {os.path.realpath(place): place for place in data}.values()
    several = {place: tables_of(place) if is_there(place) else None for place in places}
    found, others = False, set[str]().union(*(tables or () for tables in several.values()))
    for kind in KINDS:
        paths = {}
        for place, tables in several.items():
            path = place / kind.file if os.path.isdir(place) else place
            if is_there(path) and (path.name == kind.file if tables is None else kind.file in tables):
                paths[os.path.realpath(path)] = path
        if paths:
            found = True
            table = joined([read_table(path, kind.columns, kind.blank, part=kind.file) for path in paths.values()])
            yield kind, table.where(kind.where(table))
    if not found:
        names = ", ".join(dict.fromkeys(k.file for k in KINDS))
        where = ", ".join(map(str, data))
        hint = f"files are known by name: {names}"
        if others:
            hint = f"it has rows of {', '.join(map(clip, sorted(others)))} alone, and a fit needs those of {names}"
        raise PlanError([Diagnostic("E450", f"no measurements of kernels in {where}", hint=hint)])


def gpus_of(data: Sequence[Path]) -> set[str]:
    """The names in the column ``gpu`` of all files."""
    return {str(name) for _, table in files(data) for name in table.texts("gpu")}


def jobs(data: Sequence[Path], gpu_of: GpuOf, link_of: LinkOf) -> Iterator[Job]:
    """Every group of rows that can be fitted."""
    for kind, table in files(data):
        if not kind.fits:
            continue
        keys, sets = table.texts("gpu"), kind.sets(table)
        for key in np.unique(keys):
            gpu = gpu_of(str(key))
            if gpu is None or gpu.units is None:
                continue
            for path in np.unique(sets[keys == key]):
                rows = table.where((keys == key) & (sets == path))
                link = link_of(str(key))
                if kind.linked is not None and link is not None:
                    rows = kind.linked(rows, link)
                if path and len(rows) >= LEAST and kind.answers(gpu, str(path)) and (kind.linked is None or link):
                    joining = _joining(kind, table.where(sets == path), str(key), gpu_of, link_of)
                    own = joining if kind.leans(rows) else {}
                    yield Job(kind, gpu, str(key), str(path), rows=rows, joining=own)


def _joining(kind: AnyKind, rows: Table, key: str, gpu_of: GpuOf, link_of: LinkOf) -> dict[GpuSpec, Table]:
    """The rows of the nearest relative among ``rows`` of one set that do not lean on others' themselves."""
    for name in RELATIVES[key].names if key in RELATIVES else ():
        gpu, link, own = gpu_of(name), link_of(name), rows.where(rows.texts("gpu") == name)
        if gpu is not None and gpu.units is not None and len(own) and not kind.leans(own):
            return {gpu: kind.linked(own, link) if kind.linked is not None and link is not None else own}
    return {}


def calibrate(
    data: Sequence[Path], gpu_of: GpuOf, link_of: LinkOf, tell: Callable[[str, Fitted], None], pooled: bool = False
) -> dict[str, str]:
    """Fit everything in ``data``; gives calibration texts by GPU.

    ``gpu_of`` and ``link_of`` look a GPU and the links of its node up. ``tell`` hears of each fit as it is done, with
    the GPU's name. With ``pooled``, one more text holds what sets that several GPUs have come to on all of them, for
    GPUs that nobody measured.
    """
    fitted: dict[str, list[Fitted]] = {}
    done: list[tuple[Job, Fitted]] = []
    names: dict[str, set[str]] = {}
    alike: dict[str, tuple[AnyKind, dict[GpuSpec, Table]]] = {}
    for job in jobs(data, gpu_of, link_of):
        found = _fit(job, {one.path: one.constants for one in fitted.get(job.key, ())})
        done.append((job, found))
        tell(job.key, found)
        fitted.setdefault(job.key, []).append(found)
        sources = np.unique(job.rows.texts("source"))
        names.setdefault(job.key, set()).update(f"{job.kind.file} ({source or 'unnamed'})" for source in sources)
        if shared := job.kind.pools(job.path):
            settled = job.kind.settled(found.constants, job.rows)
            alike.setdefault(shared, (job.kind, {}))[1].setdefault(job.gpu, settled)
    common = _pool(alike, tell) if pooled else []
    lent = {one.path: one for one in common if alike[one.path][0].lent(one.path)}
    margins = _margins(done)
    texts: dict[str, str] = {}
    for key, sets in fitted.items():
        source = "fitted to measurements: " + ", ".join(sorted(names[key]))
        everything = [*sets, *fill_between(sets, lent)]
        texts |= plan_texts(key, everything, source, completing(key), margins=margins)
    if pooled:
        texts["pooled"] = pooled_text(common)
    return texts


def _margins(done: Sequence[tuple[Job, Fitted]]) -> dict[str, Margins]:
    """The margins of each kind by distance, from sizes and whole GPUs that are left out here, and shapes that were."""
    by_gpu: dict[str, dict[str, Fitted]] = {}
    for job, found in done:
        by_gpu.setdefault(job.key, {})[job.path] = found
    left: dict[str, list[Left]] = {}
    for job, found in done:
        ends = end_residuals(job.kind, job.gpu, job.rows, group=f"{job.key} {job.path}", least=LEAST)
        sets = [by_gpu[name] for name in relatives_of(job.gpu) if name in by_gpu]
        lent = lent_residuals(job.kind, job.gpu, job.rows, job.path, sets)
        left.setdefault(job.path.partition(".")[0], []).append(found.left._replace(beyond=ends, lent=lent))
    return kind_margins(left)


def _fit(job: Job, before: Mapping[str, FormConstants]) -> Fitted:
    """The constants of a job; of the GPU alone, or of it and the relative that joins it."""
    if job.joining:
        return fit_pooled(job.kind, {job.gpu: job.rows, **job.joining}, job.path, before)
    return fit(job.kind, job.gpu, job.rows, job.path, before)


def _pool(
    alike: Mapping[str, tuple[AnyKind, dict[GpuSpec, Table]]], tell: Callable[[str, Fitted], None]
) -> list[Fitted]:
    """The sets that several GPUs have, those that are lent, and sections of which no set is."""
    common: list[Fitted] = []
    several = {path.split(".")[0] for path, (_, rows) in alike.items() if len(rows) > 1}
    for path, (kind, rows) in alike.items():
        if len(rows) > 1 or path.split(".")[0] not in several or kind.lent(path):
            common.append(fit_pooled(kind, rows, path, {one.path: one.constants for one in common}))
            tell("pooled", common[-1])
    return common
