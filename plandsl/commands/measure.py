"""`planc measure`: kernels of this machine's GPUs or CPU, as rows that `planc calibrate` reads."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import OK, Progress, print_json, print_text
from plandsl.commands.findings import print_diagnostics
from plandsl.commands.sources import compile_plans
from plandsl.diagnostics import Diagnostic, PlanError, suggest
from plandsl.measurements import GPU_NAME
from plandsl.spec.formats import BITS
from plandsl.units import show_time

if TYPE_CHECKING:
    from plandsl.backends.measure import Asked, Case, Device, Done, Rows

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

MOST_DEVICES = 64
MOST_SECONDS = 1e6
FEW = 3
"""Cases that a note names before it counts the others."""

NOISY = 1.5
"""Ninetieth percentile over the least of the repetitions, in the median row, from which others disturb: assumed."""


def run_measure(arguments: Namespace) -> int:
    """`planc measure`: the file is whole after every row, so that an interrupted run loses nothing."""
    from plandsl.backends.measure import Rows, find_device, measure

    _check_arguments(arguments)
    asked = _asked(arguments)
    device = find_device(arguments.devices, arguments.library)
    rows = Rows(Path(arguments.output), arguments.gpu or _name_of(device), device.about.name, device.about.library)
    cases = _cases(arguments, device, asked)
    start, count = time.monotonic(), 0
    try:
        with Progress("measuring") as tick:

            def tell(case: Case, seconds: float) -> None:
                nonlocal count
                count += 1
                tick(count, max(len(cases), count + 1))

            done = measure(device, cases, rows, arguments.seconds, tell)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {arguments.output} has {len(rows.rows)} rows; the same command goes on\n")
        return INTERRUPTED
    notes = list(_notes(done, rows, asked))
    if arguments.json:
        found = {"output": arguments.output, "gpu": rows.gpu, "device": device.about._asdict(), "rows": len(rows.rows)}
        came = {"measured": done.measured, "left": done.left, "refused": done.refused}
        print_json({"plandsl": __version__, **found, **came, "notes": [note.as_json() for note in notes]})
        return OK
    kept = f", {rows.kept} of them from before" if rows.kept else ""
    by = f"{device.about.name} with {device.about.library}, {show_time(time.monotonic() - start)}"
    print_text(f"{arguments.output}: {len(rows.rows)} rows of {rows.gpu}{kept}; {by}\n")
    if notes:
        print_diagnostics(notes, {})
    return OK


def _check_arguments(arguments: Namespace) -> None:
    """Raise `PlanError` (E400) for arguments out of range."""
    wrong = []
    if Path(arguments.output).suffix != ".csv":
        wrong.append((f"`-o {arguments.output}` is no .csv file", "-o mine.csv"))
    if arguments.gpu is not None and not GPU_NAME.fullmatch(arguments.gpu):
        wrong.append((f"`--gpu {arguments.gpu}` is no name of a GPU", "small letters, digits and `_`: --gpu my_gpu"))
    if not 0 < arguments.seconds <= MOST_SECONDS:
        wrong.append((f"`--seconds {arguments.seconds:g}` is out of range", f"from 1 to {MOST_SECONDS:,.0f}"))
    if arguments.devices is not None and not 1 <= arguments.devices <= MOST_DEVICES:
        wrong.append((f"`--devices {arguments.devices}` is out of range", f"from 1 to {MOST_DEVICES}"))
    if arguments.dtype not in BITS:
        wrong.append((f"`--dtype {arguments.dtype}` is no number format", suggest(arguments.dtype, BITS)))
    if arguments.file is None and (arguments.plan or arguments.overrides):
        wrong.append(("`--plan` and `--set` need `--for FILE`", "--for FILE --plan NAME"))
    if wrong:
        raise PlanError([Diagnostic("E400", why, hint=hint) for why, hint in wrong])


def _asked(arguments: Namespace) -> Asked | None:
    """The cases of the plans of `--for`."""
    if arguments.file is None:
        return None
    from plandsl.backends.measure import plan_cases

    return plan_cases(plan.cost.evaluate() for plan in compile_plans(arguments))


def _name_of(device: Device) -> str:
    """A name for a GPU: ``measured_cpu``, ``measured_nvidia_h200``."""
    return "measured_" + "_".join(re.findall(r"[a-z0-9]+", device.about.name.lower()))


def _cases(arguments: Namespace, device: Device, asked: Asked | None) -> list[Case]:
    """The rates of the device, then the kernels."""
    from plandsl.backends.measure import default_cases, device_cases

    kernels = list(default_cases(arguments.dtype, device.about.devices)) if asked is None else list(asked.cases)
    dtypes = [dict(case.cells)["dtype"] for case in kernels if case.file == "gemm.csv"]
    return [*device_cases(dtypes, device.about.memory), *kernels]


def _notes(done: Done, rows: Rows, asked: Asked | None) -> Iterator[Diagnostic]:
    """What is not measured, and why."""
    if done.left:
        yield Diagnostic("N530", f"time is up: {done.left} kernels are not measured", hint="the same command goes on")
    for why, names in done.refused.items():
        yield Diagnostic("N531", f"not measured: {_few(names)}", hint=why)
    if asked is not None and asked.missing:
        hint = "their times come from `pooled` and `generic` constants (docs/calibration.md)"
        yield Diagnostic("N532", f"no table holds these ops of the plan: {', '.join(asked.missing)}", hint=hint)
    spreads = sorted(float(r["p90_s"]) / float(r["time_s"]) for r in rows.rows if r["p90_s"])
    if spreads and (spread := spreads[len(spreads) // 2]) > NOISY:
        why = f"repetitions differ: in the median row the 90th percentile is {spread:.1f} times the least"
        yield Diagnostic("N534", why, hint="other programs may run on this machine; `time_s` is the least")


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(f"`{name}`" for name in names[:FEW]) + more
