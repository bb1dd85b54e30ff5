"""What the pictures of runs share: a plan and its run, names, and the frame of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from plandsl import plotting
from plandsl.backends.cost.answers.simulation import Run
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.spec.plan import PlanSpec


class Served(NamedTuple):
    """A compiled plan and a run of its requests."""

    made: Compiled
    run: Run

    @property
    def plan(self) -> PlanSpec:
        """The plan as written."""
        return self.made.spec


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


def draw_legend(figure: Any, handles: Sequence[Any], note: str = "") -> None:
    """One legend below all panels, headed by a note in small print."""
    if handles or note:
        columns = min(len(handles), 4 if sum(len(h.get_label()) for h in handles) > 60 else 6)
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, columns),
                      columnspacing=1.4, title=note or None, title_fontsize=7)  # fmt: skip
