"""`planc calibrate`: the constants of calibrations, fitted to measurements."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json, print_text
from plandsl.commands.findings import print_diagnostics
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import write_file

if TYPE_CHECKING:
    from plandsl.spec.hardware import GpuSpec, LinkSpec


def run_calibrate(arguments: Namespace) -> int:
    """`planc calibrate`: files are written only if every fit succeeds."""
    from plandsl.backends.calibrate.declare import declared
    from plandsl.backends.calibrate.fit import THIN, Fitted
    from plandsl.backends.calibrate.run import calibrate, gpus_of
    from plandsl.entries import catalog_gpu, catalog_link

    lines: list[dict[str, Any]] = []

    def tell(key: str, fitted: Fitted) -> None:
        judged = fitted.unseen or fitted.seen
        rows = fitted.seen.rows + (fitted.unseen.rows if fitted.unseen and key != "pooled" else 0)
        line = {"gpu": key, "set": fitted.path, "rows": rows, "held_out": fitted.unseen is not None,
                "median_ape": judged.median, "p90_ape": judged.p90, "bias": judged.bias}  # fmt: skip
        lines.append(line)
        if not arguments.json:
            kept = "held out" if fitted.unseen else "fitted, too few to hold out"
            thin = "  warning: thin data" if rows < THIN else ""
            print_text(
                f"{key:<16}{fitted.path:<32}{rows:>6} rows  off by {100 * judged.median:5.1f} % (median)"
                f" {100 * judged.p90:6.1f} % (p90), bias {100 * judged.bias:+5.1f} %, {kept}{thin}\n"
            )

    data = [Path(p) for p in arguments.data]
    own = {name: found for name, found in declared(data).items() if catalog_gpu(name) is None}

    def gpu_of(name: str) -> GpuSpec | None:
        return own[name].gpu if name in own else catalog_gpu(name)

    def link_of(name: str) -> LinkSpec | None:
        return own[name].link if name in own else catalog_link(name)

    unknown = sorted(name for name in gpus_of(data) if gpu_of(name) is None)
    texts = calibrate(data, gpu_of, link_of, tell, arguments.pooled)
    if not texts:
        hint = (
            f"rows are of {', '.join(unknown)}, which the catalog lacks" if unknown else "a set needs 12 rows at least"
        )
        raise PlanError([Diagnostic("E554", "no set of rows can be fitted", hint=hint)])
    texts |= {name: f"{text}\n{own[name].text}\n" for name, text in texts.items() if name in own}
    target = Path(arguments.output)
    if target.suffix == ".plan":
        write_file(target, "\n".join(texts.values()))
    else:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError([Diagnostic("E405", f"cannot make {target}: {error.strerror}")]) from error
        for name, text in texts.items():
            write_file(target / f"{name}.plan", text)
    if arguments.json:
        print_json({"plandsl": __version__, "output": str(target), "sets": lines, "left_out": unknown})
    elif unknown:
        hint = "rows need a GPU of the catalog, or one that `planc measure` measured"
        print_diagnostics([Diagnostic("N533", f"rows of {', '.join(unknown)} are left out", hint=hint)], {})
    return OK
