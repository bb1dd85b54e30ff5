"""`planc accuracy`: predictions beside measurements."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import OK, Progress, open_console, print_json, print_text
from plandsl.commands.findings import print_diagnostics
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.spec.hardware import CalibrationSpec, GpuSpec, LinkSpec, NodeSpec

if TYPE_CHECKING:
    from plandsl.backends.accuracy.answer import Answer
    from plandsl.backends.accuracy.kernels import Shelf
    from plandsl.backends.accuracy.serving import Predicted
    from plandsl.backends.calibrate.table import Table
    from plandsl.grammar.resolve import Module, Spec
    from plandsl.progress import Tick


def run_accuracy(arguments: Namespace) -> int:
    """`planc accuracy`: large errors are a result, not a failure."""
    if arguments.rows:
        return _write_predictions(arguments)
    from plandsl.backends.accuracy.run import evaluate
    from plandsl.backends.accuracy.show import print_evaluation

    shelf = _shelf(arguments.use)
    with Progress("predicting") as tick:
        found = evaluate(Path(arguments.data), shelf, _deployments, tick)
    if arguments.json:
        print_json({"plandsl": __version__, **found.as_json()})
    else:
        print_evaluation(found, open_console())
        _print_notes(found.notes)
    return OK


def _print_notes(notes: Sequence[Diagnostic]) -> None:
    if notes:
        print_diagnostics(notes, {})


def _shelf(path: str | None) -> Shelf:
    """The figures of the file ``path``, if there is one, and of the catalog.

    Calibrations of a GPU, in order: the one that it names, the one of its name, `pooled`.
    """
    from plandsl.backends.accuracy.kernels import Shelf
    from plandsl.entries import catalog_calibration, catalog_gpu, catalog_has, catalog_link

    own_ = _Own(path)

    def gpu_of(key: str) -> GpuSpec | None:
        return own_.gpu(key) or catalog_gpu(key)

    def calibration_of(name: str) -> CalibrationSpec | None:
        mine = own_.calibration(name)
        return mine or (catalog_calibration(name) if catalog_has("calibration", name) else None)

    def calibrations(key: str) -> list[CalibrationSpec]:
        gpu = gpu_of(key)
        names = dict.fromkeys(name for name in (gpu.calibration if gpu else None, key, "pooled") if name)
        found = [spec for name in names if (spec := calibration_of(name)) is not None]
        relative = gpu is not None and any(field == "calibration" for field, _ in gpu.assumed)
        own = {key} if gpu is None or relative else {key, *gpu.bases, gpu.calibration or key}
        return [calibration.placed_on(tuple(sorted(own))) for calibration in found]

    return Shelf(gpu_of, lambda key: own_.link(key) or catalog_link(key), calibrations)


class _Own:
    """What a file declares: GPUs, their calibrations, and the links of its nodes. Without a path nothing.

    Raises `PlanError` where the file is wrong.
    """

    def __init__(self, path: str | None) -> None:
        self.module: Module | None = None
        if path is not None:
            from plandsl.driver import open_file

            self.module = open_file(path)
            self.module.check()
            if errors := [one for one in self.module.diagnostics if one.severity == "error"]:
                raise PlanError(errors, self.module.sources)

    def _find(self, kind: str, name: str) -> Spec | None:
        if self.module is None or name not in self.module.root.declared[kind]:
            return None
        return self.module.spec(kind, name)

    def gpu(self, name: str) -> GpuSpec | None:
        """A GPU of the file."""
        found = self._find("gpu", name)
        return found if isinstance(found, GpuSpec) else None

    def calibration(self, name: str) -> CalibrationSpec | None:
        """A calibration of the file."""
        found = self._find("calibration", name)
        return found if isinstance(found, CalibrationSpec) else None

    def link(self, gpu: str) -> LinkSpec | None:
        """The links of the largest node of such GPUs."""
        nodes = () if self.module is None else self.module.root.declared["node"]
        found = [spec for name in nodes if isinstance(spec := self._find("node", name), NodeSpec)]
        mine = [node for node in found if node.gpu.name == gpu and node.count > 1]
        return max(mine, key=lambda node: node.count).link if mine else None


def _deployments(table: Table, file: str) -> dict[str, Answer]:
    """Predictions for rows of whole deployments, by column."""
    from plandsl.backends.accuracy.serving import by_column
    from plandsl.progress import silent

    return by_column(_predict_rows(table, file, silent), file)


def _predict_rows(table: Table, file: str, tick: Tick) -> Predicted:
    """Predictions for rows of whole deployments; each row is compiled as a plan. Processes on all CPUs share them."""
    from plandsl.backends.accuracy.serving import predict_rows
    from plandsl.driver import compile_cost
    from plandsl.entries import catalog_has

    return predict_rows(table, file, compile_cost, catalog_has, tick, jobs=os.cpu_count() or 1)


def _write_predictions(arguments: Namespace) -> int:
    """`planc accuracy --rows`: a line for each row of the files of deployments."""
    from plandsl.backends.accuracy.rows import deployment_files, predict_files
    from plandsl.sheets import open_sheet

    paths, target = deployment_files(Path(arguments.data)), Path(arguments.rows)
    if any(path.resolve() == target.resolve() for path in paths):
        raise PlanError([Diagnostic("E400", f"`{target}` is a file of measurements, which --rows would overwrite")])
    with open_sheet(target) as sheet, Progress("predicting") as tick:
        found = predict_files(paths, _predict_rows, tick)
        sheet(found.columns)
    if arguments.json:
        print_json({"plandsl": __version__, "output": str(target), **found.as_json()})
        return OK
    lines = [f"{count:>7,} by {what}" for what, count in found.answered.items()]
    lines += [f"{count:>7,} refused: {why}" for why, count in found.refused.items()]
    print_text(f"{target}: {found.rows:,} rows\n" + "".join(f"{line}\n" for line in lines))
    _print_notes(found.notes)
    return OK
