"""Two plans, term by term: typed results of `planc diff`, in SI units, with their machine form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import frozen

from plandsl.answers.estimate import Estimate
from plandsl.fields import Change

if TYPE_CHECKING:
    from plandsl.columns import Table


class Part(NamedTuple):
    """A term in the first plan (``before``) and in the second (``after``), and its part of the metric's ``change``.

    For throughput, ``before`` and ``after`` are seconds per token. ``why`` says which part of the term's work changed,
    and by which factor; it is empty where the work is the same.
    """

    phase: str
    group: str
    op: str
    name: str
    before: float
    after: float
    change: float
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """An entry of ``terms``, or of ``groups``, which have no ops."""
        return {name: value for name, value in self._asdict().items() if value != ""}


@frozen
class Split:
    """A metric of both plans. ``parts`` and ``groups`` each add up to ``after - before``, the largest change first.

    ``alike``: each value lies in the other's band; None where there is no band.
    """

    metric: str
    before: float
    after: float
    parts: tuple[Part, ...]
    groups: tuple[Part, ...]
    alike: bool | None = None

    @property
    def change(self) -> float:
        """``after - before``."""
        return self.after - self.before

    def as_json(self) -> dict[str, Any]:
        """The object of one metric."""
        return {
            "before": self.before, "after": self.after, "change": self.change, "within_band": self.alike,
            "groups": [p.as_json() for p in self.groups], "terms": [p.as_json() for p in self.parts],
        }  # fmt: skip


@frozen(repr=False)
class Difference:
    """The fields in which plans ``a`` and ``b`` differ, and the difference of each metric."""

    a: Estimate
    b: Estimate
    changes: tuple[Change, ...]
    ttft: Split
    tpot: Split
    throughput: Split
    memory: Split

    @property
    def splits(self) -> tuple[Split, ...]:
        """All metrics; TPOT where both plans have it."""
        times = (self.ttft,) if self.encodes else (self.ttft, self.tpot)
        return *times, self.throughput, self.memory

    @property
    def encodes(self) -> bool:
        """Whether nothing comes out of one of the plans."""
        return self.a.encodes or self.b.encodes

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        from plandsl.answers.tables import DIFFERENCE

        return tuple(name for name in DIFFERENCE if not self.encodes or name != "tpot")

    def table(self, name: str) -> Table:
        """A table by its name. Raises `PlanError` (E445) for another name."""
        from plandsl.answers.tables import difference_table

        return difference_table(self, name)

    def __repr__(self) -> str:
        from plandsl.answers.shown import difference_line

        return difference_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """The whole difference, as JSON."""
        names = {"throughput": "throughput_tokens_per_s", "memory": "memory_per_gpu_bytes"}
        plans = [
            {"plan": e.plan, "gpus": e.gpus, "fits": e.fits, "max_batch": e.max_batch}
            | ({} if e.encodes else {"kv_capacity_tokens": e.kv_capacity_tokens})
            | {name: part.as_json() for name in ("money", "energy", "fleet") if (part := getattr(e, name)) is not None}
            for e in (self.a, self.b)
        ]
        return {
            "plans": plans,
            "declarations": [c.as_json() for c in self.changes],
            **{names.get(split.metric, f"{split.metric}_s"): split.as_json() for split in self.splits},
        }
