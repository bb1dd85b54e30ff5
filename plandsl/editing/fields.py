"""What may stand where in a plan: the fields of each scope, and what each takes as its value.

A scope is what a `{ }` is the body of: a kind of declaration, or a section such as ``link``. The names come from the
readers of the grammar; `tests/test_editing_words.py` holds this table to them.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.grammar import (
    engine_bands,
    engines,
    functions,
    fusions,
    hardware,
    lora,
    models,
    plans,
    requires,
    sharding,
    shift,
    speculate,
    split,
    towers,
    traffic,
    workloads,
)
from plandsl.grammar.arrivals import AT_ONCE, FORMS
from plandsl.grammar.draws import FORMS as DISTRIBUTIONS
from plandsl.grammar.engine_limits import EXAMPLES as LIMITS
from plandsl.grammar.modules import KINDS
from plandsl.grammar.searches import SHORT
from plandsl.spec import hardware as spec
from plandsl.spec.constants import FORMS as SECTIONS_OF_CALIBRATIONS
from plandsl.spec.engine_bands import DISTANCES, LOADS, SERVED
from plandsl.spec.formats import BITS, GGUF
from plandsl.spec.plan import TARIFFS
from plandsl.spec.scheduler import GRAPHS, ROUTERS, SCHEDULERS, WRITES
from plandsl.spec.scheduler import LIMITS as OF_SCHEDULERS
from plandsl.traces import FORMATS as TRACES
from plandsl.units import (
    BYTE_RATE,
    BYTES,
    FLOP_RATE,
    MONEY_RATE,
    NUMBER,
    POWER,
    REQUEST_RATE,
    TIME,
    Dimension,
)


class Takes(NamedTuple):
    """What the value of a field is.

    ``what`` says it to people. A quantity has a ``dimension``; a few fields take one of ``words``; ``calls`` are forms
    with arguments, such as ``lognormal``. ``kind`` is the kind of the declaration that the field names, and ``section``
    the scope of its ``{ }``.
    """

    what: str
    dimension: Dimension | None = None
    words: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    kind: str = ""
    section: str = ""
    file: str = ""  # the ending of the file that it names


WHOLE = Takes("a whole number", NUMBER)
SHARE = Takes("a share, such as `90 %`", NUMBER)
FACTOR = Takes("a number", NUMBER)
SIZE = Takes("bytes", BYTES)
SECONDS = Takes("a time", TIME)
RATE = Takes("bytes per second", BYTE_RATE)
WATTS = Takes("power", POWER)
PRICE = Takes("money per time", MONEY_RATE)
FLAG = Takes("`true` or `false`", words=("true", "false"))
SWITCH = Takes("`on` or `off`", words=("on", "off"))
TEXT = Takes("a text in quotes")
FILE = Takes("the path of a file in quotes, or a list of them", file=".csv")
FORMAT = Takes("a number format", words=tuple(BITS))
PEAKS = tuple(name for name in BITS if name not in GGUF)
"""Formats in which hardware may multiply."""
LIST = Takes("a list")
REQUESTS = Takes("requests per second", REQUEST_RATE)
ANY = Takes("a value")


def _words(*words: str) -> Takes:
    return Takes("one of " + ", ".join(f"`{word}`" for word in words), words=words)


def _named(kind: str) -> Takes:
    """A declaration by name, or written out in `{ }`."""
    return Takes(f"a {kind}", kind=kind, section=kind)


def _section(scope: str) -> Takes:
    return Takes("a section `{ }`", section=scope)


def _each(names: tuple[str, ...], takes: Takes) -> dict[str, Takes]:
    return dict.fromkeys(names, takes)


DRAWN = Takes("a whole number, or a distribution", NUMBER, calls=tuple(DISTRIBUTIONS))
_PRICES = {"price": PRICE, "price_reserved": PRICE, "price_source": TEXT}
_LINK = {
    "topology": Takes(_words(*hardware.TOPOLOGIES).what, words=hardware.TOPOLOGIES, calls=("torus",)),
    "bandwidth": RATE,
    "latency": SECONDS,
    "pcie": WHOLE,
    "lanes": WHOLE,
    "bridge": RATE,
    "p2p": SWITCH,
    "wrap": SWITCH,
}
_PARTS = {kind: _named(kind) for kind in plans.PARTS}
_SETTINGS = {
    "kv_residency": _words("all_batches", "one_batch"),
    "step_tokens": WHOLE,
    "chunked_prefill": WHOLE,
    "memory_fraction": SHARE,
    "hop_tensors": WHOLE,
    "fuse_norms": FLAG,
    "algorithm": _words(*plans.ALGORITHMS),
    "overlap": _words("none", "collectives"),
    "chunks": WHOLE,
    "micro_batches": WHOLE,
    "router": _words(*ROUTERS),
    "pricing": _words(*TARIFFS),
    "shift": _section("shift"),
    "speculate": _section("speculate"),
    "tower": _section("place_of_tower"),
    "measured": FILE,
}
_SCHEDULED = {
    "flag": FLAG,
    "whole": WHOLE,
    "share": SHARE,
    "number": FACTOR,
}


def _scheduler_limits() -> dict[str, Takes]:
    found: dict[str, Takes] = {}
    words: dict[str, tuple[str, ...]] = {}
    for limits in OF_SCHEDULERS.values():
        for name, limit in limits.items():
            words[name] = tuple(dict.fromkeys((*words.get(name, ()), *limit.words)))
            found[name] = _words(*words[name]) if limit.kind == "word" else _SCHEDULED[limit.kind]
    return found


FIELDS: dict[str, dict[str, Takes]] = {
    "model": {
        "layers": WHOLE,
        "max_context": WHOLE,
        "causal": FLAG,
        "source": TEXT,
        "stored": _section("stored"),
        "lora": _section("lora"),
        "tower": Takes("a model, by name or written out", kind="model", section="model"),
        **_each(models.DTYPES, FORMAT),
    },
    "lora": {
        "adapters": WHOLE,
        "rank": WHOLE,
        "targets": Takes("a list of weights, or `all`", words=("all",)),
        "active": WHOLE,
        "host_bandwidth": RATE,
        "load_time": SECONDS,
        "host_adapters": WHOLE,
        "disk_bandwidth": RATE,
    },
    "gpu": {
        "memory": SIZE,
        "memory_total": SIZE,
        "bandwidth": RATE,
        "units": WHOLE,
        "compute": _section("compute"),
        "calibration": _named("calibration"),
        **_each(("power", "power_max", "power_idle"), WATTS),
        "p2p": SWITCH,
        **_PRICES,
        "source": TEXT,
        "measured": FILE,
    },
    "compute": _each(PEAKS, Takes("dense operations per second", FLOP_RATE)),
    "node": {
        "gpu": _named("gpu"),
        "gpus": Takes("a list such as `[4 * h100_sxm, 4 * h200_sxm]`", kind="gpu"),
        "count": WHOLE,
        "link": _section("link"),
        "network": _section("network"),
        "host_memory": SIZE,
        **_PRICES,
        "overhead": WATTS,
        "pue": FACTOR,
        "source": TEXT,
        "measured": FILE,
    },
    "link": _LINK,
    "network": {
        "topology": Takes(_words(*hardware.NETWORKS).what, words=hardware.NETWORKS, calls=("torus",)),
        "bandwidth": RATE,
        "latency": SECONDS,
        "wrap": SWITCH,
    },
    "cluster": {
        "node": _named("node"),
        "nodes": Takes("a list such as `[2 * h100_8, 2 * h200_8]`", kind="node"),
        "count": WHOLE,
        "network": _section("network"),
        "source": TEXT,
        "measured": FILE,
    },
    "calibration": {
        **{name: Takes(str(of), of) for name, of in spec.CONSTANTS.items()},
        **{name: _section(name) for name in SECTIONS_OF_CALIBRATIONS},
        "otherwise": Takes("a calibration, or a list of them", kind="calibration"),
        "source": TEXT,
        "measured": TEXT,
    },
    "engine": {
        **_each(spec.ENGINE_RATES, SHARE),
        **_each(spec.ENGINE_SHARES, SHARE),
        **_each((*spec.ENGINE_TIMES, *spec.RANK_TIMES), SECONDS),
        **_each(tuple(spec.ENGINE_COUNTS), WHOLE),
        **_each(spec.ENGINE_BYTES, SIZE),
        **_each(spec.ENGINE_BANDS, FACTOR),
        "limits": _section("limits"),
        "bands": _section("bands"),
        "fused_sizes": _section("fused_sizes"),
        "fraction_of": _words(*spec.FRACTIONS),
        "states": FACTOR,
        "graphs_in_budget": FLAG,
        "kernels": _words(*engines.LIBRARIES),
        "fusions": Takes("a list of fusions", words=tuple(fusions.FUSIONS)),
        "scheduler": _words(*SCHEDULERS),
        "prefix_cache": FLAG,
        "graph_sizes": Takes("a list of sizes, or the name of an engine", words=(*GRAPHS, "none")),
        "kv_tiers": LIST,
        "kv_write": _words(*WRITES),
        **_scheduler_limits(),
        "source": TEXT,
    },
    "limits": _each(tuple(LIMITS), LIST),
    "bands": {**_each(("gpus", "models"), LIST), **_each(LOADS, _section("bands_of_load"))},
    "bands_of_load": _each(DISTANCES, _section("bands_of_distance")),
    "bands_of_distance": _each(SERVED, LIST),
    "sharding": {
        **_each(tuple(sharding.SUGAR), WHOLE),
        "context_form": _words("ring", "gather"),
        "hop_tensors": WHOLE,
        "cut": Takes("a list of layers of each stage, or `balanced`", words=("balanced",)),
    },
    "workload": {
        **_each(("input", "output"), DRAWN),
        **_each(("batch", "in_flight", "concurrency", "requests"), WHOLE),
        "demand": REQUESTS,
        "reuse": SHARE,
        "prefix": _words("own", "shared"),
        "images": FACTOR,
        "image_tokens": WHOLE,
        "rate": Takes("requests per second, or a form such as `poisson`", REQUEST_RATE, (AT_ONCE,), tuple(FORMS)),
        "trace": Takes("the path of a trace in quotes", file=".csv"),
        "speed": FACTOR,
        "format": _words(*TRACES),
        "duration": SECONDS,
        "seed": WHOLE,
        "sessions": _section("sessions"),
        "adapters": Takes("a distribution of adapters, or `column(...)`", NUMBER, calls=(*DISTRIBUTIONS, "column")),
        "adapted": SHARE,
    },
    "sessions": {
        "turns": DRAWN,
        "think": Takes("a time, or a distribution of times", TIME, calls=tuple(DISTRIBUTIONS)),
        "system": WHOLE,
    },
    "plan": {
        **_PARTS,
        **_SETTINGS,
        **_each(plans.POOLS, _section("pool")),
        "transfer": _section("transfer"),
        "kv_transfer": _words("after", "layerwise"),
    },
    "transfer": {"bandwidth": RATE, "latency": SECONDS},
    "shift": {**_each(("base", "tensor"), _named("sharding")), "threshold": WHOLE},
    "speculate": {"draft": _named("model"), "tokens": WHOLE, "acceptance": SHARE, "sharding": _named("sharding")},
    "place_of_tower": {"sharding": _named("sharding")},
}
FIELDS["class"] = {
    **{name: FIELDS["workload"][name] for name in traffic.CLASS if name in FIELDS["workload"]},
    "share": SHARE,
    "priority": WHOLE,
}
FIELDS["pool"] = {**_PARTS, **_SETTINGS, **_each(tuple(split.SHORT), WHOLE)}
FIELDS["search"] = {"plan": _named("plan"), **FIELDS["plan"]}
FIELDS["fused_sizes"] = _each(("ranks", *fusions.NARROWEST, fusions.ANY), LIST)
"""Scope -> its fields, in the order in which an editor offers them."""

READERS: dict[str, tuple[str, ...]] = {
    "model": models.FIELDS,
    "lora": lora.LORA,
    "gpu": hardware.GPU,
    "node": hardware.NODE,
    "link": hardware.LINK,
    "network": hardware.NETWORK,
    "cluster": hardware.CLUSTER,
    "engine": engines.ENGINE,
    "limits": tuple(LIMITS),
    "bands": ("gpus", "models", *engine_bands.LOADS),
    "sharding": sharding.KNOWN,
    "workload": (
        *workloads.STATIC,
        "requests",
        workloads.DEMAND,
        *workloads.PREFIX,
        *workloads.IMAGES,
        *workloads.TRAFFIC,
    ),
    "class": traffic.CLASS,
    "plan": plans.PLAN,
    "pool": split.POOL,
    "shift": shift.SHIFT,
    "speculate": speculate.SPECULATE,
    "place_of_tower": towers.TOWER,
}
"""Scope -> what the reader of the grammar knows there."""

ITEMS: dict[str, dict[str, str]] = {
    "file": {
        **{kind: f"declares a {kind}: `{kind} NAME {{ ... }}`" for kind in KINDS},
        "let": "names a value: `let NAME = EXPRESSION`",
        "plandsl": "the version of the language that the file is written in, as its first line: `plandsl = 1`",
        "use": 'makes the declarations of another file known: `use "PATH.plan"`',
    },
    "model": {
        "embedding": "the table that turns token ids into vectors: `embedding w_embed[vocab, hidden]`",
        "block": "what a layer computes: `block x[tokens, hidden] { ... }`",
        "head": "what makes logits of the last layer's result: `head rms_norm(x) @ w_head[hidden, vocab]`",
        "mtp": "a block that predicts a further token: `mtp x[tokens, hidden] with e[tokens, hidden] { ... }`",
    },
    "sharding": {
        "mesh": "the axes of the GPUs and their sizes, major first: `mesh stage = 2, tensor = 4`",
        "place": "keeps the groups of some axes inside one node: `place tensor in node`",
        "in": "rules for one region alone: `in attention { heads -> tensor, seq }`",
    },
    "workload": {"class": "one of several kinds of requests: `class chat { share = 70 %, input = 900, output = 180 }`"},
    "class": {"require": "a bound that requests of this class must keep: `require p99(ttft) <= 2 s`"},
    "plan": {"require": "a bound that the plan must keep: `require tpot <= 50 ms`"},
    "search": {
        "vary": "fields that take several values: `vary tp in [1, 2, 4, 8], batch in 1..256 by * 2`",
        "where": "a condition on the fields that vary: `where tp * pp <= 8`",
        "require": "a bound that every answer must keep: `require tpot <= 50 ms`",
        "maximize": "a goal: `maximize throughput_per_gpu`",
        "minimize": "a goal: `minimize cost`",
    },
}
"""Scope -> the words of the language that start an item there, with what each says."""

METRICS = requires.METRICS | requires.OVER_REQUESTS
VARIES = SHORT
FUNCTIONS, OPTIONS = functions.FUNCTIONS, functions.OPTIONS


def fields_of(scope: str) -> dict[str, Takes]:
    """The fields of a scope, `assumed { }` where it may stand; no fields for a scope without a table."""
    found = FIELDS.get(scope, {})
    return (
        found | {"assumed": _section(scope)} if scope in ("gpu", "node", "cluster", "calibration", "engine") else found
    )
