"""`planc`: arguments become calls, results become text and an exit status. The work is in the driver."""

from __future__ import annotations

import argparse
import atexit
import codecs
import gc
import importlib
import io
import keyword
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn, TextIO

from plandsl._version import __version__

OK, FAILED, WRONG = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are wrong input: one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        from plandsl.commands.findings import print_diagnostics
        from plandsl.diagnostics import Diagnostic

        print_diagnostics([Diagnostic("E400", message, hint=f"{self.prog} --help")], {})
        raise SystemExit(WRONG)

    def _print_message(self, message: str, file: Any = None) -> None:
        """As `argparse` does, but where the output cannot be written an `OSError` says so."""
        stream = file or sys.stderr
        stream.write(message)
        stream.flush()


Takes = Callable[[_Parser], None]
"""Adds the arguments of a verb to its parser."""


def parser(verbs: Iterable[str]) -> argparse.ArgumentParser:
    """The parser of a command line with some of the verbs."""
    top = _Parser(prog="planc", description="Compile .plan files: how a language model is spread over GPUs.")
    top.add_argument("--version", action="version", version=f"planc {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name in verbs:
        text, takes = VERBS[name]
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.add_argument("--json", action="store_true", help="print the machine form")
        made.add_argument("--max", metavar="NAME=NUMBER", action="append", default=[], dest="limits",
                          help="set a limit, e.g. layers=20_000 (docs/language.md#limits)")  # fmt: skip
        takes(made)
    return top


def _add_selection(made: _Parser) -> None:
    made.add_argument("--plan", metavar="NAME", help="only this plan and what it uses")
    _add_overrides(made)


def _add_overrides(made: _Parser) -> None:
    made.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], dest="overrides",
                      help="override a field, e.g. workload.batch=64")  # fmt: skip


def _add_file(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", help="a .plan file, or - for standard input")
    _add_selection(made)


def _add_phase(made: _Parser) -> None:
    made.add_argument("--phase", choices=("prefill", "decode"), default="prefill", help="(default: prefill)")


def _init(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", nargs="?", default="first.plan", help="(default: first.plan)")
    made.add_argument("--model", metavar="NAME", help="a model of the catalog (default: llama_3_1_8b)")
    made.add_argument("--node", metavar="NAME", help="a node of the catalog (default: h100_2)")


def _compile(made: _Parser) -> None:
    _add_file(made)
    made.add_argument("--dump", metavar="PASS", help="print the program after a pass instead")
    _add_phase(made)


def _check(made: _Parser) -> None:
    made.add_argument("files", metavar="FILE", nargs="+")
    made.add_argument("--format", choices=("text", "json", "sarif", "github"), default="text",
                      help="of the findings; sarif and github are for build services (default: text)")  # fmt: skip
    _add_selection(made)


def _render(made: _Parser) -> None:
    _add_file(made)
    views = ("devices", "communication", "block", "timeline", "memory", "tradeoff")
    made.add_argument("--view", choices=views, default="devices",
                      help="of one plan (default: devices), or the tradeoff of all plans")  # fmt: skip
    _add_phase(made)
    made.add_argument("--against", choices=("ttft", "tpot", "latency"), action="append",
                      help="of the tradeoff: only this latency")  # fmt: skip
    made.add_argument("-o", "--output", metavar="OUT", required=True, help="a .svg, .png, .pdf or .dot file")


def _report(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", help="a .plan file, or - for standard input")
    made.add_argument("--plan", metavar="NAME", action="append", help="only this plan; may be given several times")
    made.add_argument("--search", metavar="NAME", help="only this search, and its best plan")
    _add_overrides(made)
    made.add_argument("--requests", metavar="N", type=int, help="serve N requests of a load over time (at most 10,000)")
    made.add_argument("-o", "--output", metavar="OUT", required=True, help="a .html file, or - for standard output")


def _verify(made: _Parser) -> None:
    _add_file(made)
    made.add_argument("--steps", type=int, default=3, help="decode steps (default: 3)")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and tokens (default: 0)")


def _laws(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", nargs="?", help="a .plan file, or - for standard input")
    _add_selection(made)
    made.add_argument("--law", metavar="NAME", action="append", default=[],
                      help="only this law (or several); FILE.py:FUNCTION is one of your own")  # fmt: skip
    made.add_argument("--draws", metavar="N", type=int, help="neighbours of each plan to draw (default: 3)")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="from which they are drawn (default: 0)")
    made.add_argument("--list", action="store_true", help="print all laws, and what each says")
    made.add_argument("-o", "--output", metavar="OUT", help="write the smallest plan that breaks a law, a .plan file")


def _search(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", help="a .plan file, or - for standard input")
    made.add_argument("--search", metavar="NAME", help="only this search")
    made.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], dest="overrides",
                      help="override a field, e.g. workload.input=2048")  # fmt: skip
    made.add_argument("--top", type=int, default=10, metavar="K", help="number of best plans to show (default: 10)")
    made.add_argument("-o", "--output", metavar="OUT", help="write the best plan, a .plan file")
    made.add_argument("--rows", metavar="OUT", help="write every configuration, a .csv or .parquet file")
    made.add_argument("--plot", metavar="OUT", help="draw the Pareto front and heat maps, a .svg, .png or .pdf file")
    made.add_argument(
        "--simulate", type=int, metavar="K", help="simulate at most K candidates of a load over time (32)"
    )
    made.add_argument("--requests", type=int, metavar="N", help="simulate N requests with each")
    _add_scheduler(made)


def _add_scheduler(made: _Parser) -> None:
    made.add_argument("--scheduler", metavar="ADDRESS", help="distribute the work over a Dask cluster")


def _fmt(made: _Parser) -> None:
    made.add_argument("files", metavar="FILE", nargs="+")
    made.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")


def _catalog(made: _Parser) -> None:
    made.add_argument("kind", nargs="?", metavar="KIND", help="model, gpu, node, cluster, calibration or engine")
    made.add_argument(
        "name", nargs="?", metavar="NAME", help="an entry; or config.json, folder or GGUF file of a model"
    )


def _passes(made: _Parser) -> None:
    """No arguments of its own."""


def _explain(made: _Parser) -> None:
    made.add_argument(
        "words",
        metavar="FILE|CODE|WORD",
        nargs="+",
        help="a .plan file, - for standard input, a code such as E301, or a word of reports such as TTFT",
    )
    _add_selection(made)


def _diff(made: _Parser) -> None:
    made.add_argument("files", metavar="FILE[:PLAN]", nargs="+", help="two plans, or one file that has two")
    made.add_argument(
        "--each", action="store_true", help="compare every plan of one file with its namesake in the other"
    )
    _add_selection(made)


def _compare(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", help="a .plan file")
    made.add_argument("benches", metavar="BENCH", nargs="+",
                      help="results of a benchmark: vLLM's, SGLang's, AIPerf's, GuideLLM's, InferenceX's")  # fmt: skip
    _add_selection(made)
    made.add_argument("--rows", metavar="OUT", help="write each statistic of each run, a .csv or .parquet file")
    made.add_argument("--fit", metavar="OUT", help="write an engine fitted to the runs, a .plan file")


def _compare_comm(made: _Parser) -> None:
    made.add_argument("files", metavar="FILE[:PLAN]", nargs="+", help="all plans of a file, or one")
    made.add_argument("-o", "--output", metavar="OUT", help="also draw the comparison, a .svg, .png, .pdf or .dot file")
    _add_selection(made)


def _calibrate(made: _Parser) -> None:
    made.add_argument("data", metavar="DATA", nargs="+", help="CSV files, or folders of them (docs/calibration.md)")
    made.add_argument("-o", "--output", metavar="OUT", required=True,
                      help="a .plan file for all calibrations, or a folder for one file each")  # fmt: skip
    made.add_argument("--pooled", action="store_true",
                      help="also fit one calibration to all GPUs, for those not measured (minutes)")  # fmt: skip


def _measure(made: _Parser) -> None:
    made.add_argument("-o", "--output", metavar="OUT", required=True,
                      help="a .csv file for all rows; rows that it has already are not measured again")  # fmt: skip
    made.add_argument("--for", metavar="FILE", dest="file", help="a .plan file: measure only what its plans run")
    _add_selection(made)
    made.add_argument("--gpu", metavar="NAME", help="the GPU in the rows (default: a name made of the device's)")
    made.add_argument("--seconds", metavar="N", type=float, default=300,
                      help="start no kernel after so many seconds (default: 300)")  # fmt: skip
    made.add_argument("--dtype", metavar="NAME", default="bf16",
                      help="format of kernels without --for (default: bf16)")  # fmt: skip
    made.add_argument("--devices", metavar="N", type=int, help="take a CPU as N devices, for collectives")
    made.add_argument("--with", dest="library", choices=("jax", "torch"),
                      help="whose kernels are timed (default: jax if it is installed, else torch)")  # fmt: skip


def _accuracy(made: _Parser) -> None:
    made.add_argument("data", metavar="DATA", help="a CSV file, or a folder of them (docs/calibration.md)")
    made.add_argument("--rows", metavar="OUT",
                      help="write what is predicted of each deployment, a .csv or .parquet file")  # fmt: skip
    made.add_argument("--use", metavar="FILE",
                      help="a .plan file, as `planc calibrate` writes it, that goes before the catalog")  # fmt: skip


def _simulate(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", help="a .plan file, or - for standard input")
    made.add_argument("--plan", metavar="NAME", action="append", help="only this plan; may be given several times")
    _add_overrides(made)
    made.add_argument("--requests", metavar="N", type=int, help="serve this many requests")
    made.add_argument(
        "--seeds", metavar="N", type=int, help="serve the load N times, from N seeds: means and intervals"
    )
    made.add_argument("--find-rate", action="store_true", help="find the largest rate that meets the requirements")
    made.add_argument("--rows", metavar="OUT", help="write a row for each request to a .csv or .parquet file")
    made.add_argument("--plot", metavar="OUT", help="draw the runs of all plans, a .svg, .png or .pdf file")
    made.add_argument("--view", choices=("latency", "occupancy", "steps", "rates"),
                      help="draw times of requests (default), what servers hold, steps, times over rates")  # fmt: skip
    _add_scheduler(made)


def _autoscale(made: _Parser) -> None:
    _add_file(made)
    made.add_argument("--every", metavar="TIME", default="1h", help="length of an interval, e.g. 15min (default: 1h)")
    made.add_argument("--requests", metavar="N", type=int, help="serve N requests for each replica (1,000)")
    made.add_argument("--least", metavar="N", type=int, default=1, help="replicas that always run (default: 1)")
    _add_scheduler(made)


def _completion(made: _Parser) -> None:
    made.add_argument("shell", choices=("bash", "zsh", "fish"))


def _export(made: _Parser) -> None:
    _add_file(made)
    made.add_argument("--to", metavar="TARGET", required=True, help="the tool that reads it (docs/engines.md)")
    made.add_argument("--connector", choices=("nixl", "mooncake"),
                      help="what moves the KV cache between two pools (default: as the engine does)")  # fmt: skip
    made.add_argument(
        "-o", "--output", metavar="OUT", help="a file, or a folder for several (default: standard output)"
    )
    made.add_argument("--ranks", metavar="RANKS", help="of a trace: all (default), stages, replica, or 0..7,64")
    made.add_argument("--steps", metavar="N", type=int, help="decode steps of a trace (1; perfetto: 2)")
    made.add_argument("--simulate", action="store_true", help="perfetto: requests that are served one by one")
    made.add_argument("--requests", metavar="N", type=int, help="perfetto: serve this many requests")
    made.add_argument("--shrink", action="store_true", help="with --to jax: small dimensions on the same mesh")


def _execute(made: _Parser) -> None:
    _add_file(made)
    made.add_argument("--shrink", action="store_true",
                      help="small dimensions on devices of the host, compared with the reference")  # fmt: skip
    made.add_argument("--steps", type=int, default=3, help="decode steps to compare (default: 3)")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and tokens (default: 0)")


def _lsp(made: _Parser) -> None:
    made.add_argument("--stdio", action="store_true", help="speak over standard input and output (default)")
    made.add_argument("--port", metavar="N", type=int, help="listen on port N of this machine instead")


def _import(made: _Parser) -> None:
    made.add_argument("source", metavar="FILE|WORDS", nargs="+",
                      help="a script, a manifest, - for standard input, or `--` and a command")  # fmt: skip
    made.add_argument("--model", metavar="NAME", help="a model of the catalog, or a config.json")
    made.add_argument("--node", metavar="NAME", help="a node of the catalog (default: h100_8)")
    made.add_argument("-o", "--output", metavar="OUT", help="a .plan file (default: standard output)")


def _serve(made: _Parser) -> None:
    made.add_argument("file", metavar="FILE", nargs="?", help="a .plan file to start with, or - for standard input")
    made.add_argument("--port", metavar="N", type=int, help="(default: the first free one from 8765 on)")
    made.add_argument("--host", metavar="NAME", default="127.0.0.1",
                      help="a name or address of this machine, for others (default: this machine alone)")  # fmt: skip
    made.add_argument("--open", action="store_true", help="open the page in the browser")
    made.add_argument("--limit", metavar="SECONDS", type=float, help="most time of an answer (default: 1.6)")
    made.add_argument("--for", metavar="SECONDS", dest="seconds", type=float, help="stop after this time")
    made.add_argument("--idle", metavar="SECONDS", type=float, help="stop after this time without a request")


VERBS: dict[str, tuple[str, Takes]] = {
    "init": ("write a small plan to start from", _init),
    "compile": ("compile every plan of a file and print its estimates", _compile),
    "check": ("report every mistake, without compiling", _check),
    "render": ("draw a plan", _render),
    "report": ("write plans and searches as one HTML page: charts, tables, comparison", _report),
    "verify": ("run the sharded program on small dimensions and compare it with the unsharded one", _verify),
    "laws": ("check what must hold of every plan, on yours and on plans that differ a little", _laws),
    "search": ("run the searches of a file: best plans, Pareto front, and why plans were excluded", _search),
    "fmt": ("rewrite files in canonical form, comments kept", _fmt),
    "catalog": ("list the models and hardware that come with planc, or print one entry", _catalog),
    "passes": ("list the passes of the compiler, in order", _passes),
    "explain": ("show where a plan's time goes and what would change it, or explain a diagnostic or a word", _explain),
    "diff": ("compare two plans term by term", _diff),
    "compare": (
        "lay results of benchmarks beside the predictions of a plan, and name the cause of the largest gap",
        _compare,
    ),
    "compare-comm": ("compare what several plans send: by phase and mesh axis", _compare_comm),
    "measure": ("measure the kernels of this machine's GPUs or CPU, for `planc calibrate`", _measure),
    "calibrate": ("fit the constants of calibrations to measurements", _calibrate),
    "accuracy": ("compare predictions with measurements", _accuracy),
    "simulate": ("serve the requests of a plan one by one: percentiles, goodput, occupancy", _simulate),
    "autoscale": ("find the fewest replicas for each hour of a load, and what they cost", _autoscale),
    "lsp": ("serve an editor: mistakes as one types, completions, derived numbers, fixes", _lsp),
    "serve": ("open a playground in the browser: an editor, with estimates and pictures as you type", _serve),
    "completion": ("print the script that completes planc's commands in a shell", _completion),
    "export": ("write a plan as a file that another tool reads", _export),
    "import": ("read an engine's command line, script or manifest as a plan", _import),
    "run": ("run a plan in JAX: small sizes beside the reference, or real sizes beside the prediction", _execute),
}
"""Every verb: what help says of it, and what adds its arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `planc`. Gives the exit status: 0 success, 1 failed requirement or difference, 2 wrong input."""
    # a compilation makes many small values and hardly any cycles: searching for cycles takes a tenth of a cold start
    gc.set_threshold(100_000, 50, 50)
    # at exit Python would search once more, though the system takes the memory back anyway: it skips what is frozen
    atexit.register(gc.freeze)
    codecs.register_error("planc", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="planc")
    if sys.stderr is None:  # closed by the caller, who reads the exit status
        import os

        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except OSError:  # standard error cannot be written either
        _discard(sys.stderr)
        return WRONG


ENGINES = ("vllm", "sglang", "trtllm-serve", "docker", "podman", "python", "python3")
"""Words with which the launch command of an engine begins."""


def _mark_command(given: Sequence[str]) -> Sequence[str]:
    """`planc import vllm serve ...` with the `--` that tells the options of planc from those of the command."""
    at = next((i for i, word in enumerate(given[:-1]) if word in ENGINES), 0)
    if list(given[:1]) != ["import"] or not at or "--" in given[:at]:
        return given
    return [*given[:at], "--", *given[at:]]


def _main(given: Sequence[str]) -> int:
    """As `main`. Raises `OSError` where standard error cannot be written."""
    if sys.stdout is None:
        sys.stderr.write("error[E405]: cannot write the output: it is closed\nhelp: planc explain E405\n")
        return WRONG
    try:
        if not given:
            _print_landing_page()
            sys.stdout.flush()
            return OK
        given = _mark_command(given)
        arguments = parser(given[:1] if given[:1] and given[0] in VERBS else VERBS).parse_args(given)
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader closed the pipe
        sys.stderr.close()
        return OK
    except OSError as error:
        sys.stderr.write(f"error[E405]: cannot write the output: {error.strerror}\nhelp: planc explain E405\n")
        _discard(sys.stdout)
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except RecursionError:
        sys.stderr.write("error[E107]: the input is nested too deeply\n")
        return WRONG
    except Exception as error:
        from plandsl.diagnostics import PlanError

        if not isinstance(error, PlanError):
            raise
        from plandsl.commands.findings import show_errors

        return show_errors(error, arguments.json)


TO_START = {
    "planc init": "write a small plan, first.plan",
    "planc compile first.plan": "its estimates, and where the time goes",
    "planc explain first.plan": "what would make it faster",
    "planc search FILE": "the best sharding for a load",
    "planc serve first.plan": "all of this in the browser, as you type",
    "planc simulate FILE": "percentiles under traffic",
    "planc catalog llama": "models, GPUs, nodes and engines that ship, by a part of the name",
    "planc explain TTFT": "what a word of a report means",
}


def _print_landing_page() -> None:
    """What `planc` prints when nothing is asked of it."""
    from plandsl.commands.console import print_text

    def print_list(lines: dict[str, str]) -> None:
        width = max(map(len, lines))
        print_text("".join(f"  {name:<{width}}  {text}\n" for name, text in lines.items()), hang=width + 2)

    print_text(f"planc {__version__}: how a language model is spread over GPUs, and how fast it is then\n\n", hang=0)
    print_text("to start\n")
    print_list(TO_START)
    print_text("\nall commands (planc COMMAND --help tells more)\n")
    print_list({name: text for name, (text, _) in VERBS.items()})


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What to print for signs that an output cannot encode: bars as `#`, `.` and `|`, all others as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join({"\u2588": "#", "\u2591": ".", "\u258f": "|"}.get(sign, "?") for sign in found), error.end


def _discard(stream: TextIO) -> None:
    """Send the rest of a stream to the null device, so that Python does not try to write it again at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(arguments: argparse.Namespace) -> int:
    """Run the verb, under the limits of `--max` and of the environment."""
    from plandsl import limits

    with limits.override(limits.read_pairs(arguments.limits, "--max")) if arguments.limits else nullcontext():
        return _run_verb(arguments)


def _run_verb(arguments: argparse.Namespace) -> int:
    name = arguments.command.replace("-", "_")
    module = f"plandsl.commands.{name}" + ("_" if keyword.iskeyword(name) else "")
    command: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), f"run_{name}")
    return command(arguments)
