"""What the words of the language mean: fields, metrics, functions, units, in the words of docs/language.md."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from plandsl.editing.fields import FIELDS, ITEMS, METRICS, OPTIONS, fields_of
from plandsl.spec.constants import FORMS
from plandsl.spec.engine_bands import DISTANCES, LOADS, SERVED
from plandsl.spec.fusions import ANY, NARROWEST
from plandsl.spec.hardware import CONSTANTS
from plandsl.terms import TERMS, find_term
from plandsl.units import EXAMPLES, UNITS


class Meaning(NamedTuple):
    """What a word means, and its default where it is a field; both as Markdown."""

    text: str
    default: str = ""


FIRST = {"pool": ("plan",), "search": ("plan",), "network": ("link",), "class": ("workload",), "place_of_tower": ()}
"""Scope -> other scopes whose words it has too."""

MORE: dict[str, dict[str, str]] = {
    "calibration": {
        "otherwise": "calibrations that give the constants that this one does not have",
        "source": "where the constants come from",
        "measured": "what was measured",
        **{name: f"a constant of kernels ({of})" for name, of in CONSTANTS.items()},
    },
    "sharding": {
        "context_form": "how split keys reach the queries: `ring`, or `gather`",
        "hop_tensors": "how many tensors one stage sends to the next, 1 or 2",
        "cut": "how many layers each stage gets, first to last, or `balanced`: the compiler chooses the cut",
    },
    "sessions": {
        "turns": "number of requests of a conversation",
        "think": "time between an answer and the next request",
        "system": "tokens at the start of every prompt, which all conversations share",
    },
    "class": {
        "share": "share of the arrivals, or of the requests in flight, of the workload",
        "priority": "the class with the lowest number comes first where the scheduler goes by priority",
    },
    "transfer": {
        "bandwidth": "bytes per second from each GPU of the prefill pool",
        "latency": "time of a message from pool to pool",
    },
    "place_of_tower": {"sharding": "how the tower is spread over the GPUs of the plan"},
    "pool": {
        "nodes": "number of nodes of the pool, of the plan's cluster",
        "batch": "`batch` of the workload, for this pool alone",
        "in_flight": "`in_flight` of the workload, for this pool alone",
    },
    "search": {"plan": "a plan whose fields and requirements the search takes over"},
    "bands": {
        **dict.fromkeys(LOADS, "bands of loads of this class: dense models or experts, fixed or varying lengths"),
        "gpus": "names of GPUs that the engine was fitted to",
        "models": "names of models that the engine was fitted to",
    },
    "bands_of_load": dict.fromkeys(DISTANCES, "bands by what was fitted: the same, another model, or another GPU"),
    "bands_of_distance": dict.fromkeys(SERVED, "two factors of this metric, between which 80 % of measurements lie"),
    "fused_sizes": {
        "ranks": "numbers of ranks, which grow",
        **dict.fromkeys((*NARROWEST, ANY), "the largest bytes that are fused, for each number of ranks"),
    },
    "function": {
        "query": "the queries of latent attention: `query(qn, qr)`",
        "latent": "the latent cache of latent attention: `latent(c, kr, w_uk[...], w_uv[...])`",
    },
    "rms_norm()": {
        "over": "the dimension that is normalised",
        "gain": "`none`: without a gain",
        "groups": "a dimension that says how many groups there are: each takes neighbouring heads together",
    },
    "item()": {"over": "the dimension of items", "at": "which one: a number, or `layer`"},
    "stack()": {"into": "the new dimension, whose items the values are"},
    "spread()": {"into": "the new dimension", "first": "the first item that is `x`; those before are zeros"},
    "mix()": {"over": "the dimension of streams", "by": "the dimension of streams of the result"},
    "match()": {"over": "the dimension over which the root mean square is taken"},
    "excess()": {"share": "the share of normal numbers that is kept"},
    "clamp()": {"low": "the least value", "high": "the greatest value"},
    "concat()": {"into": "the dimension of the result"},
    "merge()": {"tokens": "how many neighbours make one token", "into": "the dimension of the result"},
    "lookup()": {"by": "what picks the rows: `token`, `position` or `type`"},
    "rope()": {"first": "how many elements are turned; the rest stays as it is"},
    "index()": {"top_k": "how many keys each query picks"},
    "attention()": {
        "window": "a token sees the last so many positions",
        "chunk": "a token sees its own chunk of so many positions",
        "causal": "`false`: a token sees later positions too",
        "softcap": "a soft cap of the scores: `cap * tanh(score / cap)`",
        "alibi": "`true`: scores fall with the distance, as in BLOOM and MPT",
        "among": "the keys that an `index(...)` picked",
    },
}
"""Scope -> words that no table of the page explains."""

OF_METRICS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "latency": "latency",
    "throughput": "throughput",
    "mfu": "MFU",
    "mbu": "MBU",
}

KEYWORDS = {
    "with": "the same with other fields: `llama_3_1_70b with { weights = fp8 }`",
    "and": "both hold",
    "or": "one of the two holds, or both",
    "not": "the opposite",
    "by": "the step of a range: `1..64 by * 2`",
}


@cache
def _tables() -> dict[str, dict[str, tuple[str, str]]]:
    tables: dict[str, dict[str, tuple[str, str]]] = json.loads(
        Path(__file__).with_name("words.json").read_text("utf-8")
    )
    return tables


def meaning(scope: str, word: str) -> Meaning:
    """What ``word`` means in ``scope``: a scope of `FIELDS`, ``metric``, ``function``, ``NAME()`` or ``fusion``.

    An empty text where nothing is told about it.
    """
    for one in (scope, *FIRST.get(scope, ())):
        if word in MORE.get(one, {}):
            return Meaning(MORE[one][word])
        if found := _tables().get(one, {}).get(word):
            return Meaning(*found)
    if word == "assumed" and word in fields_of(scope):
        return Meaning("figures that nobody published or measured; every report repeats them")
    if scope == "calibration" and word in FORMS:
        return Meaning((FORMS[word].__doc__ or "").split("\n")[0])
    if scope == "compute":
        return Meaning(f"dense operations per second in `{word}`")
    if scope == "layer_norm()":
        return meaning("rms_norm()", word)
    return Meaning(ITEMS.get(scope, {}).get(word, ""))


def metric(name: str) -> str:
    """What a metric is, and the units of its bounds."""
    term = find_term(OF_METRICS.get(name, ""))
    text = TERMS[term].text if term else meaning("metric", name).text.rpartition("; ")[0]
    bound = METRICS[name]
    return f"{text}\n\nA bound is {bound.words}, such as `{bound.example}`."


def option(function: str, name: str) -> str:
    """What an option of a function of the block language says."""
    return meaning(f"{function}()", name).text if name in OPTIONS.get(function, ()) else ""


def unit(name: str) -> str:
    """What a unit is: its dimension, and how much it is in the base unit; empty for other words."""
    if name not in UNITS:
        return ""
    factor, dimension = UNITS[name]
    if name == "%":
        return "a hundredth"
    base = EXAMPLES.get(dimension, "")
    return f"{dimension}; 1 {name} is {factor:,.10g} in SI units" + (f". For example `{base}`" if base else "")


def undocumented() -> list[str]:
    """Fields about which nothing is told, as ``scope.field``."""
    return [f"{scope}.{name}" for scope in FIELDS for name in fields_of(scope) if not meaning(scope, name).text]
