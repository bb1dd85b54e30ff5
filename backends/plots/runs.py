"""What the pictures of runs share: a plan and its run, names, and the frame of a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from plandsl import plotting
from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.spec.plan import PlanSpec, WorkloadSpec


class Served(NamedTuple):
    """A compiled plan and a run of its requests."""

    made: Compiled
    run: Run

    @property
    def plan(self) -> PlanSpec:
        """The plan as written."""
        return self.made.spec


LETTERS = 108
"""Letters that fit into a row of a legend; a mark and the space behind it take as much as eight."""


def labels(plans: Sequence[PlanSpec]) -> list[str]:
    """The names of plans, with their GPUs where these differ."""
    gpus = [plan.ranks for plan in plans]
    if len(set(gpus)) == 1:
        return [plan.name for plan in plans]
    return [f"{plan.name}, {n} GPU{'s' if n > 1 else ''}" for plan, n in zip(plans, gpus, strict=True)]


def new_figure(height: float) -> Any:
    """A figure of the usual width, in the style that `plotting.SMALL` has set."""
    figure = plotting.pyplot().figure(figsize=(7.4, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)
    return figure


def caption_of(plans: Sequence[PlanSpec]) -> str:
    """The models, machines and lengths of requests of plans, each once."""
    models = dict.fromkeys(plan.model.name for plan in plans)
    machines = dict.fromkeys(pool.machine for plan in plans for pool in plan.pools)
    loads = dict.fromkeys(_lengths(plan.workload) for plan in plans)
    return "; ".join((f"{_few(models, 'model')} on {_few(machines, 'machine')}", _few(loads, "load")))


def _lengths(load: WorkloadSpec) -> str:
    """The lengths of requests in a few words: ``9092 tokens in, 208 out``."""
    if load.traffic is None:
        return f"{load.input} tokens in, {'nothing' if load.encodes else load.output} out"
    return "requests from a trace" if load.traffic.trace else "requests over time"


def _few(words: Iterable[str], what: str) -> str:
    """One word, or two; of more their number."""
    every = list(words)
    return " and ".join(every) if len(every) <= 2 else f"{len(every)} {what}s"


def draw_legend(figure: Any, handles: Sequence[Any], note: str = "") -> None:
    """One legend below all panels, headed by a note in small print."""
    if handles or note:
        longest = max((len(h.get_label()) for h in handles), default=1)
        columns = min(len(handles), LETTERS // (longest + 8))
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, columns),
                      columnspacing=1.4, title=note or None, title_fontsize=7)  # fmt: skip
