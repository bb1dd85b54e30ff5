"""A load that was drawn and served several times: the result of `planc simulate --seeds`, with its machine form."""

from __future__ import annotations

from typing import Any, NamedTuple

from plandsl.answers.simulation import Figure, Simulation


class SeedsRequirement(NamedTuple):
    """A requirement as written, the mean over the runs of what it is about, and whether that mean meets it.

    ``met`` of the ``runs`` that say something of it meet it by themselves.
    """

    text: str
    figure: Figure
    ok: bool
    met: int
    runs: int

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        numbers = self.figure.as_json()
        return {"text": self.text, **numbers, "ok": self.ok, "met_runs": self.met, "runs": self.runs}


class OverSeeds(NamedTuple):
    """A plan that served its load once for each of ``seeds``; the ``runs`` are in their order.

    ``mean`` has means over the runs in place of the numbers of one run, with 95 % intervals by Student's t; so have
    ``request_rate``, ``output_rate`` and ``goodput``.
    """

    seeds: tuple[int, ...]
    mean: Simulation
    request_rate: Figure
    output_rate: Figure
    goodput: Figure
    requires: tuple[SeedsRequirement, ...]
    runs: tuple[Simulation, ...]

    @property
    def ok(self) -> bool:
        """Whether every run served a request, and the means meet all requirements."""
        return all(run.summary.served for run in self.runs) and all(r.ok for r in self.requires)

    def __repr__(self) -> str:
        from plandsl.answers.shown import seeds_line

        return seeds_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """The machine form; null where there is no number."""
        times = {f"{name}_s": getattr(self.mean.summary, name).as_json() for name in ("ttft", "tpot", "itl", "latency")}
        return {
            "plan": self.mean.plan, "gpus": self.mean.gpus, "seeds": list(self.seeds),
            "requests_per_s": self.request_rate.as_json(), "output_tokens_per_s": self.output_rate.as_json(),
            "goodput_requests_per_s": self.goodput.as_json(), **times,
            "requires": [r.as_json() for r in self.requires], "warnings": list(self.mean.summary.warnings),
            "runs": [run.as_json() for run in self.runs], "ok": self.ok,
        }  # fmt: skip
