"""The commands of `planc`: each calls the driver, prints the result, and gives an exit status."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from plandsl._version import __version__
from plandsl.diagnostics import Diagnostic, PlanError, coloured, plain, render, suggest
from plandsl.files import write_file

if TYPE_CHECKING:
    from plandsl.backends.accuracy.answer import Answer
    from plandsl.backends.accuracy.kernels import Shelf
    from plandsl.backends.accuracy.serving import Predicted
    from plandsl.backends.calibrate.table import Table
    from plandsl.driver import CompiledPlan
    from plandsl.grammar.resolve import Module
    from plandsl.progress import Tick
    from plandsl.spec.hardware import CalibrationSpec

OK, FAILED, WRONG = 0, 1, 2

Item = TypeVar("Item")

STDIN = "<stdin>"
"""The file name of standard input in diagnostics."""


def open_console() -> Any:
    """What reports are printed on: standard output."""
    from rich.console import Console

    # names and texts of a plan are shown as they are written, never read as markup or as the name of an emoji
    console = Console(highlight=False, markup=False, emoji=False)
    # a pipe has no width, and in a narrow window the labels of a table would be cut
    console.width = max(console.width, 100) if sys.stdout.isatty() else 120
    return console


def spaced(items: Iterable[Item], console: Any) -> Iterator[Item]:
    """``items`` one by one, with an empty line printed between any two."""
    for i, item in enumerate(items):
        if i:
            console.print()
        yield item


class Progress:
    """A progress bar with the rate, on standard error if it is a terminal, for work of more than a second."""

    def __init__(self, what: str) -> None:
        self.what, self.start = what, time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` pieces of work are finished."""
        if self.bar is None and done < total and time.monotonic() - self.start > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            usual = Bar.get_default_columns()
            self.bar = Bar(*usual, "{task.fields[rate]}", console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(self.what, total=total, rate="")
            self.bar.start()
        if self.bar is not None:
            from plandsl.units import show_count

            rate = f"{show_count(done / (time.monotonic() - self.start))}/s"
            self.bar.update(self.task, completed=done, total=total, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def print_json(value: object) -> None:
    """The machine form, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


def show_errors(error: PlanError, as_json: bool) -> int:
    """Print diagnostics on standard error and, with ``as_json``, as JSON on standard output. Gives the exit status."""
    _print_diagnostics(error.diagnostics, _with_files(error))
    if as_json:
        print_json({"plandsl": __version__, "diagnostics": [d.as_json() for d in error.diagnostics]})
    return WRONG


def _print_diagnostics(found: Sequence[Diagnostic], sources: Mapping[str, str]) -> None:
    """On standard error, in colour if a terminal shows it; `NO_COLOR` and `FORCE_COLOR` decide where they are set."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    colours = not os.environ.get("NO_COLOR") and (bool(os.environ.get("FORCE_COLOR")) or terminal)
    sys.stderr.write(render(found, sources, coloured if colours else plain) + "\n")


def _with_files(error: PlanError) -> dict[str, str]:
    """The sources of an error. What is found after a file is compiled comes without them, so they are read again."""
    found = dict(error.sources)
    for file in {d.span.file for d in error.diagnostics if d.span is not None} - set(found):
        if Path(file).suffix == ".plan" and Path(file).is_file():
            found[file] = _read(file)
    return found


def refuse_command(arguments: Namespace) -> int:
    """Refuse a command that this version does not have (E402)."""
    raise PlanError([Diagnostic("E402", f"`planc {arguments.command}` is not supported yet")])


def _overrides(arguments: Namespace) -> list[tuple[str, str]]:
    pairs = []
    for text in arguments.overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip() or not value.strip():
            why = f"`--set {text}` is not PATH=VALUE"
            raise PlanError([Diagnostic("E400", why, hint="for example --set workload.batch=64")])
        pairs.append((path.strip(), value.strip()))
    return pairs


def _open(path: str, overrides: list[tuple[str, str]] | None = None) -> Module:
    from plandsl.driver import open_file, open_text

    if path != "-":
        return open_file(path, overrides or [])
    return open_text(_read(path), STDIN, overrides or [])


def compile_plans(arguments: Namespace) -> list[CompiledPlan]:
    """The plans of the file that `--plan` names, or all."""
    from plandsl.driver import compile_module

    with Progress("compiling") as tick:
        return compile_module(_open(arguments.file, _overrides(arguments)), arguments.plan, tick)


def compile_one(arguments: Namespace) -> CompiledPlan:
    """The one plan that an output file holds: the plan named by `--plan`, or the only plan of the file."""
    plans = compile_plans(arguments)
    if len(plans) > 1:
        names = ", ".join(p.name for p in plans)
        why = f"{arguments.file} has {len(plans)} plans: {names}"
        raise PlanError([Diagnostic("E403", why, hint=f"pick one with --plan {plans[0].name}")])
    return plans[0]


def run_init(arguments: Namespace) -> int:
    """`planc init`: a file that exists is left as it is."""
    from plandsl.starter import MODEL, NODE, starter

    path = arguments.file
    if Path(path).suffix != ".plan":
        raise PlanError(
            [Diagnostic("E400", f"`{path}` does not end in .plan", hint=f"planc init {Path(path).stem}.plan")]
        )
    if Path(path).exists():
        raise PlanError([Diagnostic("E405", f"{path} exists already", hint="name another file: planc init FILE")])
    write_file(Path(path), starter(arguments.model or MODEL, arguments.node or NODE, path))
    if arguments.json:
        print_json({"plandsl": __version__, "output": path})
    else:
        sys.stdout.write(f"wrote {path}; now: planc compile {path}\n")
    return OK


COMPARED = 40
"""Most plans of a file that are compared with one another in a table."""


def run_compile(arguments: Namespace) -> int:
    """`planc compile`."""
    plans = compile_plans(arguments)
    if arguments.dump is not None:
        return _dump(arguments, plans)
    estimates = [p.estimate() for p in plans]
    if arguments.json:
        body = {"plandsl": __version__, "file": arguments.file, "plans": [e.as_json() for e in estimates]}
        if len(estimates) > 1:
            from plandsl.answers.estimate import comparisons

            body["comparisons"] = comparisons(estimates[:COMPARED])
        print_json(body)
    else:
        from plandsl.answers.text.estimate import print_comparison, print_estimate

        console = open_console()
        for plan, estimate in spaced(zip(plans, estimates, strict=True), console):
            print_estimate(plan.spec, estimate, console)
        if len(estimates) > 1:
            console.print()
            print_comparison(estimates[:COMPARED], console)
    return OK if all(e.ok for e in estimates) else FAILED


def run_simulate(arguments: Namespace) -> int:
    """`planc simulate`."""
    from plandsl.search.simulate import run_simulations

    return run_simulations(arguments)


def _dump(arguments: Namespace, plans: list[CompiledPlan]) -> int:
    from plandsl.ir.text import show
    from plandsl.passes import PIPELINE

    names = [step.name for step in PIPELINE]
    name = arguments.dump.replace("_", "-")
    if name not in names:
        raise PlanError([Diagnostic("E404", f"no pass is named `{arguments.dump}`", hint=suggest(name, names))])
    texts = {p.name: show(p.program(arguments.phase, name)) for p in plans}
    if arguments.json:
        print_json({"plandsl": __version__, "pass": name, "phase": arguments.phase, "programs": texts})
    else:
        sys.stdout.write("\n".join(f"# plan {plan}\n{text}" for plan, text in texts.items()))
    return OK


def run_check(arguments: Namespace) -> int:
    """`planc check`."""
    from plandsl.driver import check_module

    found: list[Diagnostic] = []
    sources: dict[str, str] = {}
    for path in arguments.files:
        try:
            module = _open(path, _overrides(arguments))
            found += check_module(module, arguments.plan)
            sources |= module.sources
        except PlanError as error:
            found += error.diagnostics
            sources |= error.sources
    found = list(dict.fromkeys(found))
    errors = [d for d in found if d.severity == "error"]
    _print_findings("json" if arguments.json else arguments.format, found, sources, len(arguments.files))
    return WRONG if errors else OK


def _print_findings(form: str, found: list[Diagnostic], sources: dict[str, str], files: int) -> None:
    """Findings as text on standard error; in another form for machines, also on standard output."""
    shown = [d for d in found if d.severity != "note"]
    if shown:
        _print_diagnostics(shown, sources)
    if form == "json":
        print_json({"plandsl": __version__, "diagnostics": [d.as_json() for d in found]})
    elif form != "text":
        from plandsl.annotations import github, sarif

        ordered = sorted(found, key=lambda d: (d.span is None, d.span or ()))
        sys.stdout.write(github(ordered)) if form == "github" else print_json(sarif(ordered))
    elif all(d.severity != "error" for d in found):
        sys.stdout.write(f"{'1 file' if files == 1 else f'{files} files'}: no errors\n")


def run_render(arguments: Namespace) -> int:
    """`planc render`."""
    if arguments.view == "tradeoff":
        return _render_tradeoff(arguments)
    if arguments.against:
        raise PlanError([Diagnostic("E400", "--against chooses a latency of `--view tradeoff`")])
    from plandsl.backends.graphviz import write

    plan = compile_one(arguments)
    write(plan.draw(arguments.view, arguments.phase), arguments.output)
    if arguments.json:
        more = {"flows": [one.as_json() for one in plan.flows()]} if arguments.view == "communication" else {}
        body = {"plandsl": __version__, "plan": plan.name, "view": arguments.view, "output": arguments.output}
        print_json(body | more)
    else:
        sys.stdout.write(f"{arguments.view} of {plan.name}: {arguments.output}\n")
    return OK


def _render_tradeoff(arguments: Namespace) -> int:
    """Draw all plans of a file over their load."""
    from plandsl.plotting import check_picture_path

    path = Path(arguments.output)
    check_picture_path(path, "a tradeoff", "use another view, or the numbers of `planc compile --json`")
    plans = compile_plans(arguments)
    from plandsl.backends.plots import draw_tradeoff, load_curves

    with Progress("points of curves") as tick:
        curves = load_curves(plans, tick)
    draw_tradeoff(curves, path, dict.fromkeys(arguments.against or ("ttft", "tpot", "latency")))
    names = [plan.name for plan in plans]
    if arguments.json:
        print_json({"plandsl": __version__, "plans": names, "view": "tradeoff", "output": arguments.output,
                    "curves": [curve.as_json() for curve in curves]})  # fmt: skip
    else:
        sys.stdout.write(f"tradeoff of {', '.join(names)}: {arguments.output}\n")
    return OK


def run_verify(arguments: Namespace) -> int:
    """`planc verify`."""
    if arguments.steps < 0 or arguments.steps > 64:
        raise PlanError([Diagnostic("E400", f"--steps {arguments.steps} is not between 0 and 64")])
    plans = compile_plans(arguments)
    verdicts = {}
    with Progress("verifying") as tick:
        for plan in plans:
            verdicts[plan.name] = plan.verify(arguments.steps, arguments.seed)
            tick(len(verdicts), len(plans))
    if arguments.json:
        bodies = [
            {"plan": name, "ok": v.ok, "worst": v.worst if v.ok else None, "ranks": v.ranks, "steps": v.steps,
             "where": v.where, "message": v.message}
            for name, v in verdicts.items()
        ]  # fmt: skip
        print_json({"plandsl": __version__, "plans": bodies})
        return OK if all(v.ok for v in verdicts.values()) else FAILED
    for name, v in verdicts.items():
        run = f"on {v.ranks} ranks, prefill and {v.steps} decode steps"
        if v.ok:
            sys.stdout.write(f"{name}: equal to the unsharded model {run}; largest difference {v.worst:.1e}\n")
        else:
            sys.stdout.write(f"{name}: DIFFERS from the unsharded model {run}: {v.message}\n")
    return OK if all(v.ok for v in verdicts.values()) else FAILED


def run_search(arguments: Namespace) -> int:
    """`planc search`: exit status 0 if some plan meets every requirement, 1 if none does."""
    from plandsl.search.command import run_searches

    return run_searches(arguments, _open(arguments.file, _overrides(arguments)), open_console)


def run_autoscale(arguments: Namespace) -> int:
    """`planc autoscale`."""
    from plandsl.search.scale import run_scaling

    return run_scaling(arguments)


def run_calibrate(arguments: Namespace) -> int:
    """`planc calibrate`: files are written only if every fit succeeds."""
    from plandsl.backends.calibrate.fit import THIN, Fitted
    from plandsl.backends.calibrate.run import calibrate
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
            sys.stdout.write(
                f"{key:<16}{fitted.path:<32}{rows:>6} rows  off by {100 * judged.median:5.1f} % (median)"
                f" {100 * judged.p90:6.1f} % (p90), bias {100 * judged.bias:+5.1f} %, {kept}{thin}\n"
            )

    texts = calibrate([Path(p) for p in arguments.data], catalog_gpu, catalog_link, tell, arguments.pooled)
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
        print_json({"plandsl": __version__, "output": str(target), "sets": lines})
    return OK


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
        return [calibration.placed_on(own) for calibration in found.values()]

    return Shelf(catalog_gpu, catalog_link, calibrations)


def _deployments(table: Table, file: str) -> dict[str, Answer]:
    """Predictions for rows of whole deployments, by column."""
    from plandsl.backends.accuracy.serving import by_column

    return by_column(_predict_rows(table, file, lambda done, of: None), file)


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
    sys.stdout.write(f"{target}: {found.rows:,} rows\n" + "".join(f"{line}\n" for line in lines))
    return OK


def run_fmt(arguments: Namespace) -> int:
    """`planc fmt`: files are written only when all of them parse."""
    from plandsl.grammar.fmt import format_text

    texts = {path: _read(path) for path in arguments.files}
    formatted = {path: format_text(text, path) for path, text in texts.items()}
    changed = [path for path in texts if texts[path] != formatted[path]]
    if "-" in formatted and not arguments.check:
        sys.stdout.write(formatted["-"])
        return OK
    if not arguments.check:
        for path in changed:
            write_file(Path(path), formatted[path])
    if arguments.json:
        print_json({"plandsl": __version__, "changed": changed})
    else:
        word = "would change" if arguments.check else "formatted"
        sys.stdout.write("".join(f"{word} {path}\n" for path in changed))
    return FAILED if arguments.check and changed else OK


def _read(path: str) -> str:
    """The text of a file, or of standard input for ``-``. Raises `PlanError` if it is not text, or is too large."""
    from plandsl.files import read_input
    from plandsl.grammar.modules import read_bytes
    from plandsl.grammar.parse import decode
    from plandsl.limits import MAX_FILE_BYTES

    shown = STDIN if path == "-" else path
    try:
        data = read_input(MAX_FILE_BYTES) if path == "-" else read_bytes(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlanError([Diagnostic("E209", f"cannot read {shown}: {reason}")]) from error
    text, found = decode(data, shown)
    if found:
        raise PlanError(found, {shown: text})
    return text


def run_catalog(arguments: Namespace) -> int:
    """`planc catalog`: the list, the entries with a word in their names, or the text of one entry."""
    from plandsl.grammar import catalog

    kind, name = arguments.kind, arguments.name
    if kind is not None and kind not in catalog.kinds() and name is None:
        # `planc catalog NAME` works too: people type it first
        kind, name = next((k for k in catalog.kinds() if kind in catalog.names(k)), None), kind
    elif kind is not None and kind not in catalog.kinds():
        raise PlanError([Diagnostic("E406", f"the catalog has no kind `{kind}`", hint=suggest(kind, catalog.kinds()))])
    if name is not None and kind is not None:
        made = kind == "model" and name.endswith(".json")  # what `hf(...)` makes of a file
        if made or name in catalog.names(kind):
            return _print_entry(kind, name, catalog.from_config(name) if made else catalog.text(kind, name), arguments)
    kinds = catalog.kinds() if kind is None else (kind,)
    listed = {k: [n for n in catalog.names(k) if name is None or name.lower() in n] for k in kinds}
    if name is not None and not any(listed.values()):
        known = [word for k in kinds for word in (*((k,) if kind is None else ()), *catalog.names(k))]
        from plandsl.grammar.near import hint_for_name

        what = f"{kind} `{name}`" if kind else f"kind or entry `{name}`"
        hint = hint_for_name(kind, name) if kind else suggest(name, known)
        raise PlanError([Diagnostic("E406", f"the catalog has no {what}", hint=hint)])
    listed = {k: names for k, names in listed.items() if names or name is None}
    if arguments.json:
        print_json({"plandsl": __version__, "catalog": listed})
    else:
        for one, names in listed.items():
            sys.stdout.write(f"{one}\n" + "".join(_catalog_lines(one, names)))
    return OK


def _catalog_lines(kind: str, names: list[str]) -> Iterator[str]:
    """A line for each entry, behind its figures the other names that it goes by."""
    from plandsl.entries import catalog_line
    from plandsl.grammar import catalog

    stands_for = catalog.aliases(kind)
    entries = {
        n: [a for a in stands_for if stands_for[a] == n] for n in dict.fromkeys(stands_for.get(n, n) for n in names)
    }
    width = max(map(len, entries), default=0)
    for name, aliases in entries.items():
        also = f"; also {', '.join(aliases)}" if aliases else ""
        yield f"  {name:<{width}}  {catalog_line(kind, name)}{also}\n"


def _print_entry(kind: str, name: str, text: str, arguments: Namespace) -> int:
    if arguments.json:
        print_json({"plandsl": __version__, "kind": kind, "name": name, "text": text})
    else:
        sys.stdout.write(text)
    return OK


def run_passes(arguments: Namespace) -> int:
    """`planc passes`."""
    from plandsl.driver import pass_lines

    lines = pass_lines()
    if arguments.json:
        print_json({"plandsl": __version__, "passes": [{"name": n, "does": d, "place": w} for n, d, w in lines]})
    else:
        width = max(len(n) for n, _, _ in lines)
        for name, does, why in lines:
            sys.stdout.write(f"{name:<{width}}  {does}\n{'':<{width}}  {why}\n")
    return OK


def run_completion(arguments: Namespace) -> int:
    """`planc completion`."""
    from plandsl.completion import script

    text = script(arguments.shell)
    if arguments.json:
        print_json({"plandsl": __version__, "shell": arguments.shell, "script": text})
    else:
        sys.stdout.write(text)
    return OK


def run_explain(arguments: Namespace) -> int:
    """`planc explain CODE` or `planc explain WORD`, or `planc explain FILE` if the argument names a file."""
    subject = arguments.file
    if subject == "-" or Path(subject).suffix == ".plan" or Path(subject).exists():
        return _explain_plans(arguments)
    from plandsl.terms import TERMS

    if subject.lower() in TERMS:
        return _explain_term(subject.lower(), arguments.json)
    return _explain_code(subject, arguments.json)


def _explain_term(name: str, as_json: bool) -> int:
    from plandsl.terms import TERMS

    if as_json:
        print_json({"plandsl": __version__, "term": name, "text": TERMS[name]})
    else:
        sys.stdout.write(f"{name}: {TERMS[name]}\n")
    return OK


def _explain_plans(arguments: Namespace) -> int:
    plans = compile_plans(arguments)
    found = [p.explain() for p in plans]
    if arguments.json:
        print_json({"plandsl": __version__, "file": arguments.file, "plans": [e.as_json() for e in found]})
        return OK
    from plandsl.answers.text.explanation import print_explanation

    console = open_console()
    for plan, explanation in spaced(zip(plans, found, strict=True), console):
        print_explanation(plan.spec, explanation, console)
    return OK


def _explain_code(name: str, as_json: bool) -> int:
    from plandsl.codes import CODES
    from plandsl.terms import TERMS

    code = CODES.get(name.upper())
    if code is None:
        code_like = any(letter.isdigit() for letter in name)
        hint = suggest(name.upper(), CODES) if code_like else suggest(name.lower(), TERMS)
        raise PlanError([Diagnostic("E407", f"no diagnostic has the code `{name}`", hint=hint)])
    if as_json:
        print_json({"plandsl": __version__, "code": name.upper(), **code._asdict()})
        return OK
    out = f"{name.upper()}: {code.title}\n\n{code.text}\n"
    if code.example:
        out += "\nFor example:\n\n" + "".join(f"    {line}\n" for line in code.example.strip("\n").split("\n"))
    if code.fix:
        out += f"\nWhat to do: {code.fix}\n"
    sys.stdout.write(out)
    return OK


def run_diff(arguments: Namespace) -> int:
    """`planc diff A B`: each argument is FILE or FILE:PLAN; a single FILE must have two plans."""
    from plandsl.driver import difference

    if arguments.each:
        return _compare_each(arguments)
    a, b = _plans_to_compare(arguments)
    found = difference(a, b)
    if arguments.json:
        print_json({"plandsl": __version__, "files": arguments.files, **found.as_json()})
    else:
        from plandsl.answers.text.difference import print_difference

        print_difference(found, open_console())
    return OK


def _compare_each(arguments: Namespace) -> int:
    """Compare the plans of the same name in two files, and name the others."""
    from plandsl.driver import compile_module, difference

    if len(arguments.files) != 2:
        why = f"`planc diff --each` compares the plans of two files, found {len(arguments.files)}"
        raise PlanError([Diagnostic("E400", why, hint="planc diff --each OLD.plan NEW.plan")])
    old, new = (
        {plan.name: plan for plan in compile_module(_open(path, _overrides(arguments)), arguments.plan)}
        for path in arguments.files
    )
    found = {name: difference(old[name], new[name]) for name in old if name in new}
    same = [name for name, one in found.items() if not one.changes]
    lone = {"removed": [name for name in old if name not in new], "added": [name for name in new if name not in old]}
    if arguments.json:
        plans = [{"name": name, **one.as_json()} for name, one in found.items()]
        print_json({"plandsl": __version__, "files": arguments.files, "plans": plans, **lone})
        return OK
    from plandsl.answers.text.difference import print_difference

    console = open_console()
    for one in spaced((one for one in found.values() if one.changes), console):
        print_difference(one, console)
    if len(same) < len(found) and (same or any(lone.values())):
        console.print()
    for word, names in ("the same", same), *lone.items():
        if names:
            console.print(f"{word}: {', '.join(names)}")
    return OK


MOST_PLANS = 40
"""Most plans whose communication is compared."""


def run_compare_comm(arguments: Namespace) -> int:
    """`planc compare-comm FILE[:PLAN]...`: the plans of all files side by side."""
    from plandsl.answers.text.compare_comm import print_compared
    from plandsl.driver import compare_communication, compile_module

    sides = [_split_plan(text, arguments.plan) for text in arguments.files]
    modules = {path: _open(path, _overrides(arguments)) for path, _ in dict.fromkeys(sides)}
    many = sum(len(modules[path].plans) if name is None else 1 for path, name in dict.fromkeys(sides))
    if many > MOST_PLANS:
        first = next(f"{path}:{plan}" for path, _ in sides for plan in modules[path].plans)
        why = f"{many} plans are too many to compare: at most {MOST_PLANS}"
        raise PlanError([Diagnostic("E458", why, hint=f"name some: planc compare-comm {first}")])
    found = [(path, plan) for path, name in dict.fromkeys(sides) for plan in compile_module(modules[path], name)]
    names = [plan.name for _, plan in found]
    labels = [p.name if names.count(p.name) == 1 else f"{Path(path).stem}:{p.name}" for path, p in found]
    compared = compare_communication([plan for _, plan in found], labels)
    if arguments.output:
        from plandsl.backends.graphviz import write
        from plandsl.backends.graphviz.compare import draw_compared

        write(draw_compared(compared), arguments.output)
    if arguments.json:
        more = {"output": arguments.output} if arguments.output else {}
        print_json({"plandsl": __version__, "plans": [one.as_json() for one in compared], **more})
        return OK
    print_compared(compared, open_console())
    if arguments.output:
        sys.stdout.write(f"\npicture: {arguments.output}\n")
    return OK


def _plans_to_compare(arguments: Namespace) -> list[CompiledPlan]:
    """The two plans to compare; a file that holds both is opened once."""
    from plandsl.driver import compile_module

    if len(arguments.files) > 2:
        why = f"`planc diff` compares two plans, found {len(arguments.files)}"
        raise PlanError([Diagnostic("E400", why, hint="planc diff A.plan B.plan, or planc diff A.plan:one A.plan:two")])
    sides = [_split_plan(text, arguments.plan) for text in arguments.files]
    modules = {path: _open(path, _overrides(arguments)) for path, _ in dict.fromkeys(sides)}
    if len(sides) == 1:
        path, name = sides[0]
        plans = modules[path].plans
        if plans and (name is not None or len(plans) != 2):
            raise PlanError([_plan_not_named(path, modules[path], "two")])
        sides = [(path, plan) for plan in plans] or sides
    for path, name in sides:
        if name is None and len(modules[path].plans) > 1:
            raise PlanError([_plan_not_named(path, modules[path], "one")])
    return [compile_module(modules[path], name)[0] for path, name in sides]


def _split_plan(text: str, plan: str | None) -> tuple[str, str | None]:
    """The file and the plan of ``FILE:PLAN``; for FILE alone, the plan is ``plan``."""
    path, colon, name = text.rpartition(":")
    is_file = Path(path).suffix == ".plan" or Path(path).is_file()
    return (path, name) if colon and is_file and not Path(text).exists() else (text, plan)


def _plan_not_named(path: str, module: Module, wanted: str) -> Diagnostic:
    names = module.plans
    if names[1:] == [] and wanted == "two":
        hint = f"compare it with the plan of another file: planc diff {path} OTHER.plan"
        return Diagnostic("E413", f"{path} has 1 plan: {names[0]}, and `planc diff` compares two", hint=hint)
    plans = f"{len(names)} plans: {', '.join(names)}" if len(names) > 1 else f"1 plan: {names[0]}"
    hint = " ".join(f"{path}:{name}" for name in (names * 2)[:2])
    return Diagnostic("E413", f"{path} has {plans}, but {wanted} must be named", hint=f"name it: planc diff {hint}")
