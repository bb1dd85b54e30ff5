"""What a plan sends between its GPUs: the calls of each phase by kind, with their number, bytes and time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from plandsl.arguments import Arguments
from plandsl.ir.program import DECODE, PREFILL
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.columns import Table

TRANSFER = "transfer"
"""The phase in which the KV cache travels from the prefill pool to the decode pool."""


class Traffic(NamedTuple):
    """Sums over some calls in one pass of a phase, on one rank of every stage.

    ``payload`` is bytes as nccl-tests count them, ``wire`` the bytes that the ranks send over the links. ``time_s`` is
    the time of all calls. ``share`` is the part of TTFT, or of TPOT, that they take along the path of one batch,
    whether kernels hide it or not. ``per_request`` is the wire bytes for one request: for its prompt in prefill, for
    all its decode steps in decode.
    """

    calls: int
    payload: float
    wire: float
    time_s: float
    share: float
    per_request: float

    def as_json(self) -> dict[str, Any]:
        """An entry of ``totals``."""
        return {
            "calls": self.calls,
            "payload_bytes": self.payload,
            "wire_bytes": self.wire,
            "time_s": self.time_s,
            "share": self.share,
            "wire_bytes_per_request": self.per_request,
        }


class Calls(NamedTuple):
    """All calls of ``op`` along ``axis`` by one ``algorithm``, between ranks on ``nodes`` nodes.

    ``part`` is ``draft`` for calls of the model that guesses tokens ahead. The other numbers are as in `Traffic`.
    """

    phase: str
    op: str
    axis: str
    algorithm: str
    nodes: int
    part: str
    calls: int
    payload: float
    wire: float
    time_s: float
    share: float
    per_request: float

    @property
    def traffic(self) -> Traffic:
        """The sums of the row."""
        return Traffic(
            self.calls, self.payload, wire=self.wire, time_s=self.time_s, share=self.share, per_request=self.per_request
        )

    def as_json(self) -> dict[str, Any]:
        """An entry of ``rows``."""
        out: dict[str, Any] = {"phase": self.phase, "op": self.op, "axis": self.axis, "algorithm": self.algorithm}
        out |= {"nodes": self.nodes} if self.nodes > 1 else {}
        out |= {"part": self.part} if self.part else {}
        return out | self.traffic.as_json()


class Communication(NamedTuple):
    """All calls of a plan: the rows of one phase together, the longest first; empty where nothing is sent.

    ``decodes`` is false where nothing comes out.
    """

    rows: tuple[Calls, ...] = ()
    decodes: bool = True

    def of(self, phase: str) -> tuple[Calls, ...]:
        """The rows of one phase: ``prefill``, ``decode`` or ``transfer``; another word is a `PlanError` (E445)."""
        Arguments("of", phase=phase).word("phase", (PREFILL, DECODE, TRANSFER))
        return tuple(row for row in self.rows if row.phase == phase)

    def total(self, phase: str) -> Traffic:
        """The sums over the rows of one phase."""
        return add_up(row.traffic for row in self.of(phase))

    def by_axis(self, phase: str) -> dict[str, Traffic]:
        """The sums over the rows of each axis in a phase, the longest first."""
        rows: dict[str, list[Traffic]] = {}
        for row in self.of(phase):
            rows.setdefault(row.axis, []).append(row.traffic)
        sums = {axis: add_up(parts) for axis, parts in rows.items()}
        return dict(sorted(sums.items(), key=lambda pair: -pair[1].time_s))

    def table(self) -> Table:
        """All rows as a table."""
        from plandsl.answers.tables import communication_table

        return communication_table(self)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    @property
    def per_request(self) -> float:
        """Wire bytes that one request causes from its prompt to its last token."""
        return sum_up(row.per_request for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The ``communication`` object."""
        phases = [PREFILL, *([DECODE] if self.decodes else ()), *([TRANSFER] if self.of(TRANSFER) else ())]
        return {
            "rows": [row.as_json() for row in self.rows],
            "totals": {phase: self.total(phase).as_json() for phase in phases},
            "wire_bytes_per_request": self.per_request,
        }


class Compared(NamedTuple):
    """What one of several plans sends; ``meshes`` has a mesh for each pool.

    Shares of prefill are of ``ttft_s``, shares of decode and of a transfer of ``tpot_s``.
    """

    plan: str
    meshes: tuple[tuple[tuple[str, int], ...], ...]
    gpus: int
    ttft_s: float
    tpot_s: float | None
    sent: Communication

    @property
    def mesh(self) -> str:
        """The meshes in words: ``stage 2 x tensor 4``."""
        return " | ".join(" x ".join(f"{n} {size}" for n, size in mesh) or "1 GPU" for mesh in self.meshes)

    def as_json(self) -> dict[str, Any]:
        """An entry of ``plans``: for each phase, the sums of each axis and of all axes."""
        phases = (PREFILL, DECODE, TRANSFER)
        return {
            "plan": self.plan,
            "meshes": [dict(mesh) for mesh in self.meshes],
            "gpus": self.gpus,
            "ttft_s": self.ttft_s,
            **({} if self.tpot_s is None else {"tpot_s": self.tpot_s}),
            "phases": {
                phase: {
                    "axes": [{"axis": axis, **sums.as_json()} for axis, sums in self.sent.by_axis(phase).items()],
                    "total": self.sent.total(phase).as_json(),
                }
                for phase in phases
                if phase != TRANSFER or self.sent.of(phase)
            },
            "wire_bytes_per_request": self.sent.per_request,
        }


NO_CALLS = Communication()
"""A plan that sends nothing."""


def add_up(parts: Iterable[Traffic]) -> Traffic:
    """The sums over ``parts``."""
    every = tuple(parts)
    return Traffic(
        calls=sum_up(part.calls for part in every),
        payload=sum_up(part.payload for part in every),
        wire=sum_up(part.wire for part in every),
        time_s=sum_up(part.time_s for part in every),
        share=sum_up(part.share for part in every),
        per_request=sum_up(part.per_request for part in every),
    )
