"""Bounds that keep an untrusted `.plan` file from taking unbounded time or memory.

An ordinary plan stays far below every limit. A limit is read when it is asked for, as ``limits.MAX_LAYERS``. Whoever
runs plandsl may set other limits; no plan can. `planc --max layers=20_000` does, and so does
``PLANC_LIMITS="layers=20_000 ranks=100_000"`` in the environment, which this module reads when it is imported. Worker
processes have the limits of the process that starts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from plandsl.diagnostics import Diagnostic, PlanError, clip, either, nearest

VARIABLE = "PLANC_LIMITS"
"""The variable of the environment that holds other limits: pairs ``NAME=NUMBER`` with spaces between them."""

LARGEST = 10**18
"""The largest number that a limit may be set to."""


class Limit(int):
    """The largest number that is accepted: of ``what``, in ``unit``. ``codes`` are the diagnostics beyond it."""

    name: str
    unit: str
    what: str
    codes: tuple[str, ...]

    def __new__(cls, name: str, value: int, unit: str, what: str, codes: str = "") -> Limit:
        """The limit ``name``, which is ``value`` unless it is set."""
        limit = super().__new__(cls, value)
        limit.name, limit.unit, limit.what, limit.codes = name, unit, what, tuple(codes.split())
        return limit

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """A plain number where a limit became part of a value that is copied or sent."""
        return int, (int(self),)

    def at(self, value: int) -> Limit:
        """The same limit with another value."""
        return Limit(self.name, value, self.unit, what=self.what, codes=" ".join(self.codes))

    def hint(self, text: str = "", found: float | None = None) -> str:
        """A hint: ``text`` says what is within the limit; then follows how to raise it, to ``found`` if that is given.

        A number ``found`` within the limit needs no higher one: then ``text`` is the hint.
        """
        if found is not None and found <= self:
            return text
        wanted = 2 * self if found is None else min(int(found), LARGEST)
        raised = f"raise the limit: `planc ... --max {self.name}={wanted}`"
        return f"{text}; or {raised}" if text else raised


def help_for(most: int, text: str = "", found: float | None = None) -> str:
    """As `Limit.hint` where ``most`` is a limit; ``text`` alone for a bound that nobody can raise."""
    return most.hint(text, found) if isinstance(most, Limit) else text


MAX_FILE_BYTES = Limit("file_bytes", 262_144, "bytes", what="a source file", codes="E108")
MAX_DIGITS = Limit("digits", 40, "digits", what="a number", codes="E106 E212")
MAX_NESTING = Limit("nesting", 64, "levels", what="brackets in one file", codes="E107")
MAX_CHAIN = Limit("chain", 200, "operators", what="a chain of operators in an expression", codes="E107")
MAX_ERRORS = Limit("errors", 50, "diagnostics", what="what is shown of one file; further ones are counted")
MAX_FILES = Limit("files", 64, "files", what="what a root file reaches through `use`, and its configs", codes="E209")
MAX_EXPANSION = Limit("expansion", 64, "names", what="the chain of `let`, alias and `with` of a value", codes="E208")
MAX_WORK = Limit("work", 1_000_000, "steps", what="reading the values of one file", codes="E208")

MAX_LAYERS = Limit("layers", 10_000, "layers", what="a model", codes="E214")
MAX_STATEMENTS = Limit("statements", 500, "statements", what="a block of a model", codes="E214")
MAX_DIMENSION = Limit("dimension", 10**9, "", what="a dimension of a model, a batch, a length", codes="E214")
MAX_EXPERTS = Limit("experts", 4_096, "experts", what="a layer; popularities have an entry for each", codes="E214")
MAX_BALANCED = Limit("balanced", 512, "layers", what="a model with `cut = balanced`", codes="E214")
MAX_ADAPTERS = Limit("adapters", 10_000, "adapters", what="a model's adapters on a GPU", codes="E214")
MAX_RANK = Limit("rank", 65_536, "", what="the rank of adapters", codes="E214")
MAX_IMAGES = Limit("images", 10_000, "images", what="a request", codes="E546")

MAX_RANKS = Limit("ranks", 65_536, "ranks", what="a plan: dp * tp * pp * ...", codes="E306")
MAX_AXES = Limit("axes", 8, "axes", what="a mesh", codes="E214")
MAX_RULES = Limit("rules", 200, "rules", what="a sharding", codes="E214")
MAX_COUNT = Limit("count", 100_000, "GPUs", what="a node or a cluster", codes="E214 E400")
MAX_CHUNKS = Limit("chunks", 64, "chunks", what="a GEMM and its collective", codes="E214")
MAX_DRAFTED = Limit("drafted", 256, "tokens", what="what a plan guesses ahead in a step", codes="E214 E224")
MAX_GRAPHS = Limit("graphs", 1_000, "sizes", what="CUDA graphs of an engine", codes="E214")
MAX_BOUNDS = Limit(
    "bounds", 8, "sizes", what="memory by which an engine chooses its limits; words for small GPUs", codes="E214"
)
MAX_NAMES = Limit("names", 256, "names", what="GPUs, or models, that the bands of an engine name", codes="E214")
MAX_TIERS = Limit("tiers", 8, "tiers", what="KV memory behind a GPU", codes="E243")

MAX_STEPS = Limit("steps", 10_000, "times", what="changes of a `rate`", codes="E240")
MAX_BINS = Limit("bins", 100_000, "bins", what="what `trace_rate` cuts a trace into", codes="E240")
MAX_CLASSES = Limit("classes", 64, "classes", what="a workload", codes="E242")
MAX_TURNS = Limit("turns", 1_000, "turns", what="a conversation", codes="E214")
MAX_ZIPF = Limit(
    "zipf", 1_000_000, "", what="the numbers that `zipf` draws; its table has an entry for each", codes="E214"
)
MAX_REQUESTS = Limit("requests", 100_000_000, "requests", what="one load", codes="E214 E400 E445")
MAX_BLOCKS = Limit(
    "blocks", 30_000_000, "blocks", what="the prompts of a load, of those that others may find again", codes="E602"
)
MAX_SEEDS = Limit("seeds", 10_000, "seeds", what="serving one load", codes="E400 E445")
MAX_WINDOWS = Limit("windows", 2_000, "intervals", what="a load that `planc autoscale` cuts", codes="E214")
MAX_LOAD = Limit("load", 10**12, "", what="requests or tokens that an evaluation from Python takes", codes="E445")

MAX_PLANS = Limit("plans", 200, "plans", what="a file that is compiled in one run", codes="E408")
MAX_VALUES = Limit("values", 100_000, "values", what="a field of a search", codes="E214")
MAX_COMPILED = Limit(
    "compiled", 20_000, "plans", what="a search: plans that differ by more than their load", codes="E409"
)
MAX_DRAWS = Limit("draws", 1_000, "plans", what="what `planc laws` draws beside each plan", codes="E400")
MAX_VERIFIED = Limit("verified", 64, "steps", what="decode steps that are verified", codes="E400 E445")

MAX_TABLE_BYTES = Limit("table_bytes", 16_777_216, "bytes", what="a file of measurements", codes="E450")
MAX_TABLES = Limit("tables", 16, "files", what="measured kernels that a gpu or a plan names", codes="E214")
MAX_TRACE_BYTES = Limit("trace_bytes", 1_073_741_824, "bytes", what="a trace, or a file of lengths", codes="E452")
MAX_TRACE_LINE = Limit("trace_line", 1_048_576, "bytes", what="a line of such a file", codes="E452")
MAX_BENCH_BYTES = Limit("bench_bytes", 268_435_456, "bytes", what="a result file of a benchmark", codes="E560")
MAX_BENCH_RUNS = Limit("bench_runs", 1_000, "runs", what="what `planc compare` compares at once", codes="E560")
MAX_HEADER_BYTES = Limit(
    "header_bytes", 33_554_432, "bytes", what="the header of a file of weights, or their index", codes="E485"
)
MAX_TENSORS = Limit("tensors", 1_000_000, "tensors", what="a checkpoint", codes="E485")
MAX_SHARDS = Limit("shards", 2_000, "files", what="the weights of a checkpoint", codes="E485")
MAX_TENSOR_ELEMENTS = Limit("tensor_elements", 2**48, "elements", what="a tensor of a checkpoint", codes="E485")
MAX_YAML_NODES = Limit(
    "yaml_nodes", 262_144, "nodes", what="a YAML file; an alias counts as what it stands for", codes="E509"
)
MAX_YAML_LEVELS = Limit("yaml_levels", 32, "levels", what="a YAML file", codes="E509")

MAX_TRACE_EVENTS = Limit(
    "trace_events", 100_000, "events", what="an exported trace; or nodes of all its files", codes="E511"
)
MAX_TRACE_PASSES = Limit(
    "trace_passes", 300_000, "passes", what="an exported trace: batches through stages", codes="E511"
)
MAX_TRACE_STEPS = Limit("trace_steps", 1_000, "steps", what="decode steps of an exported trace", codes="E400")

DEFAULTS: Mapping[str, Limit] = {limit.name: limit for limit in list(globals().values()) if isinstance(limit, Limit)}
"""Every limit by its name, as it is unless somebody sets it."""


def current(name: str) -> Limit:
    """The limit of a name, as it is now."""
    limit: Limit = globals()[f"MAX_{name.upper()}"]
    return limit


@contextmanager
def override(values: Mapping[str, int | str]) -> Iterator[None]:
    """Other limits in this process and in the processes that it starts, as long as the block runs.

    Raises `PlanError` for a name that no limit has (E620), and for a value that is no whole number from 1 to
    `LARGEST` (E621).
    """
    before = {name: current(name) for name in DEFAULTS}
    outside = os.environ.get(VARIABLE)
    _set(_read(values))
    os.environ[VARIABLE] = " ".join(f"{name}={now:d}" for name in DEFAULTS if (now := current(name)) != DEFAULTS[name])
    try:
        yield
    finally:
        _set(before)
        if outside is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = outside


def read_pairs(texts: list[str], given: str) -> dict[str, str]:
    """The limits in texts ``NAME=NUMBER``, which were ``given`` so. Raises `PlanError` (E621) for another form."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            why = f"`{clip(text)}` in {given} is not NAME=NUMBER"
            raise PlanError([Diagnostic("E621", why, hint="for example layers=20_000")])
        found[name.strip()] = value.strip()
    return found


def _read(values: Mapping[str, int | str]) -> dict[str, Limit]:
    found = {}
    for name, value in values.items():
        if name not in DEFAULTS:
            near = nearest(name, DEFAULTS)
            hint = f"did you mean {either(near)}?" if near else "docs/language.md#limits lists all of them"
            raise PlanError([Diagnostic("E620", f"there is no limit `{clip(name)}`", hint=hint)])
        text = str(value)
        digits = text.replace("_", "")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and 1 <= int(digits) <= LARGEST):
            why = f"the limit `{name}` is a whole number from 1 to {LARGEST:,}, found `{clip(text)}`"
            raise PlanError([Diagnostic("E621", why, hint=f"it is {DEFAULTS[name]:d} unless it is set")])
        found[name] = DEFAULTS[name].at(int(digits))
    return found


SETTING: tuple[int, ...] = ()
"""All limits as they are now: a part of the key of what is kept of a text, for other limits read it otherwise."""


def _set(found: Mapping[str, Limit]) -> None:
    globals().update({f"MAX_{name.upper()}": limit for name, limit in found.items()})
    globals()["SETTING"] = tuple(int(current(name)) for name in DEFAULTS)


_set(_read(read_pairs(os.environ.get(VARIABLE, "").split(), VARIABLE)))
