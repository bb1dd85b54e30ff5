"""`planc accuracy`: predictions beside measurements."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import OK, Progress, open_console, print_json, print_text
from plandsl.diagnostics import Diagnostic, PlanError

if TYPE_CHECKING:
    from plandsl.backends.accuracy.answer import Answer
    from plandsl.backends.accuracy.kernels import Shelf
    from plandsl.backends.accuracy.serving import Predicted
    from plandsl.backends.calibrate.table import Table
    from plandsl.progress import Tick
    from plandsl.spec.hardware import CalibrationSpec


def run_accuracy(arguments: Namespace) -> int:
    """`planc accuracy`: large errors are a result, not a failure."""
    if arguments.rows:
        return _write_predictions(arguments)
    from plandsl.backends.accuracy.run import evaluate
    from plandsl.backends.accuracy.show import print_evaluation

    with Progress("predicting") as tick:
        found = evaluate(Path(arguments.data), _shelf(), _deployments, tick)
    if arguments.json:
        print_json({"plandsl": __version__, **found.as_json()})
    else:
        print_evaluation(found, open_console())
    return OK


def _shelf() -> Shelf:
    """The catalog's figures. Calibrations of a GPU, in order: the one that it names, the one of its name, `pooled`."""
    from plandsl.backends.accuracy.kernels import Shelf
    from plandsl.entries import catalog_calibration, catalog_gpu, catalog_has, catalog_link

    def calibrations(key: str) -> list[CalibrationSpec]:
        gpu = catalog_gpu(key)
        names = (gpu.calibration if gpu else None, key, "pooled")
        found = {name: catalog_calibration(name) for name in names if name and catalog_has("calibration", name)}
        relative = gpu is not None and any(field == "calibration" for field, _ in gpu.assumed)
        own = {key} if gpu is None or relative else {key, *gpu.bases, gpu.calibration or key}
        return [calibration.placed_on(tuple(sorted(own))) for calibration in found.values()]

    return Shelf(catalog_gpu, catalog_link, calibrations)


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
    return OK
