"""How long the requests are that a benchmark sends: it has no conversations, so their turns become requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plandsl.backends.cost.serving.draws import Floats
from plandsl.backends.cost.serving.requests import Requests
from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.rates import has_sessions
from plandsl.spec.traffic import TrafficSpec, mean_of

DRAWN = 10_000
"""Most requests that are drawn for their mean lengths: as many as a simulation draws where a load does not say."""


class Sent(NamedTuple):
    """Tokens of each request: ``earlier`` ones that a prefix cache holds, ``new`` ones behind them, and ``output``."""

    earlier: int
    new: int
    output: int


def sent_lengths(load: WorkloadSpec) -> Sent:
    """The mean lengths of a load's requests. Raises `PlanError` where a file of lengths is wrong.

    A plan states the lengths. Where a file has the lengths instead, or where requests are turns of conversations, which
    send again what came before, the requests of a simulation are drawn, and their mean counts.
    """
    traffic = load.traffic
    if traffic is None or traffic.trace is not None or not (has_sessions(load) or _in_files(traffic)):
        cached = round(load.input * load.reuse)
        return Sent(cached, load.input - cached, load.output)
    requests = draw_requests(load, min(load.requests or DRAWN, DRAWN)).requests
    before = _before(traffic, requests) + load.reuse * requests.input * (requests.session is None)
    earlier, whole = round(float(before.mean())), round(float(requests.input.mean()))
    return Sent(earlier, max(1, whole - earlier), max(1, round(float(requests.output.mean()))))


def _in_files(traffic: TrafficSpec) -> bool:
    """Whether only a file has some lengths."""
    every = (traffic.lengths, *(one.lengths for one in traffic.classes))
    return any(mean_of(one) is None for lengths in every if lengths is not None for one in lengths)


def _before(traffic: TrafficSpec, requests: Requests) -> Floats:
    """Tokens of each prompt that stood in the conversation before this turn: float64[n]; 0 outside of one.

    The first turn has the system prompt before it; each other one the prompt and the answer of the turn before it.
    """
    before = np.zeros(len(requests.input))
    if requests.session is None:
        return before
    talks = [traffic.sessions] if traffic.sessions is not None else [one.sessions for one in traffic.classes]
    system = np.array([0 if one is None else one.system for one in talks])
    kind = np.zeros(len(before), np.int64) if requests.kind is None else requests.kind
    order = np.argsort(requests.session, kind="stable")  # turns are in the order of their times
    session, whole = requests.session[order], (requests.input + requests.output)[order]
    again = np.zeros(len(before), bool)
    again[1:] = session[1:] == session[:-1]
    before[order] = np.where(again, np.roll(whole, 1), system[kind[order]])
    return np.where(requests.session >= 0, before, 0.0)
