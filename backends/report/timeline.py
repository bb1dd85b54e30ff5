"""The timeline of a prefill and of a decode step: when each stage works on which batch, down to the ops of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.graphviz.palette import HOP, KIND_NAMES, KINDS, LOOKS, TRANSFER
from plandsl.backends.report.charts import LEGEND, Chart, Packed, Spec, colours, field, rounded, time_unit
from plandsl.backends.traces.passes import Layer
from plandsl.backends.traces.timeline import Phase, Steps, Turn, play_steps
from plandsl.ir.base import LINK
from plandsl.units import counted, show_time

MOST_OPS, MOST_PASSES, MOST_STAGES = 1600, 400, 8
"""Most ops and passes that are drawn, and most stages; a note says what is left out."""

ALL_OPS, LEAST_OPS = 9600, 300
"""Most ops in all timelines of a page, and how many each has at least."""

MOST_PLAYED = 50_000
"""Most passes of a phase that is played out for the few that are drawn."""

PASS, HOST, SENT, MOVED = "pass of a batch", "the engine's own time", KIND_NAMES["hop"], "KV cache to the other pool"
KINDS_DRAWN = {
    PASS: "#8fb3d9",
    HOST: "#9aa5b1",
    **{KIND_NAMES[k]: KINDS[k] for k in KINDS if k != "hop"},
    SENT: HOP,
    MOVED: TRANSFER,
}
"""What is drawn, with its colour."""


class Span(NamedTuple):
    """Something that lasts from ``start`` to ``end`` seconds, on a ``lane``; ``where`` names its layer, if any."""

    lane: str
    start: float
    end: float
    kind: str
    name: str
    where: str = ""


def timeline_charts(name: str, model: Deployment, e: Estimate, plans: int) -> Iterator[Chart]:
    """A timeline for each phase that takes time; the page has those of so many ``plans``.

    Raises `PlanError` (E511) where a phase has too many passes to be played.
    """
    room = min(MOST_OPS, max(LEAST_OPS, ALL_OPS // (2 * plans)))
    steps = play_steps(model, e.decode.engine_s, 1, MOST_PLAYED)
    for phase in steps.phases[: len(e.timed)]:
        drawn = _Drawn(phase, steps, room)
        if drawn.spans:
            yield drawn.chart(f"{name}-{phase.name}", e)


class _Drawn:
    """The spans of one phase, and what is left out of them."""

    def __init__(self, phase: Phase, steps: Steps, room: int) -> None:
        self.phase = phase
        self.spans: list[Span] = []
        self.notes: list[str] = []
        stages = len(phase.main.stages)
        self.stages = [*range(stages)] if stages <= MOST_STAGES else [*range(MOST_STAGES - 1), stages - 1]
        if stages > MOST_STAGES:
            self.notes.append(f"stages {MOST_STAGES - 1} to {stages - 2} are not drawn")
        turns = [turn for turn in phase.turns if turn.stage is None or turn.stage in self.stages]
        if len(turns) > MOST_PASSES:
            self.notes.append(f"{len(turns) - MOST_PASSES:,} later passes are not drawn")
            turns = sorted(turns, key=lambda turn: (turn.round, turn.batch))[:MOST_PASSES]
        self.end = max([turn.end for turn in turns], default=phase.start)
        self._add_passes(turns)
        self._add_ops(turns, room)
        self._add_between(steps)
        self.end = max([self.end, *(span.end for span in self.spans)])

    def _lane(self, turn: Turn, what: str) -> str:
        if turn.stage is None:
            return f"{turn.part}, {what}"
        return what if len(self.phase.main.stages) == 1 else f"stage {turn.stage}, {what}"

    def _batch(self, turn: Turn) -> str:
        parts = f", part {turn.batch % self.phase.parts}" if self.phase.parts > 1 else ""
        return f"batch {turn.batch // self.phase.parts}{parts}"

    def _add_passes(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            self.spans.append(Span(self._lane(turn, "passes"), turn.start, turn.end, PASS, self._batch(turn)))
            if (
                self.phase.host
                and turn.stage == self.stages[-1]
                and turn.batch % self.phase.parts == self.phase.parts - 1
            ):
                end = turn.end + self.phase.host
                self.spans.append(Span(self._lane(turn, "passes"), turn.end, end, HOST, self._batch(turn)))

    def _add_ops(self, turns: Sequence[Turn], room: int) -> None:
        """The ops of the first passes, layer by layer, as far as there is room; each stage has as much room."""
        rooms = dict.fromkeys((turn.stage for turn in turns), room // max(1, len({turn.stage for turn in turns})))
        left = 0
        for turn in sorted(turns, key=lambda turn: (turn.round, turn.batch)):
            for layer in turn.work.layers:
                if len(layer.ran) > rooms[turn.stage]:
                    rooms[turn.stage], left = 0, left + 1
                    continue
                rooms[turn.stage] -= len(layer.ran)
                self.spans += self._layer_spans(turn, layer)
        if left:
            self.notes.append(
                f"the ops of {left:,} layers are not drawn" if left > 1 else "the ops of a layer are not drawn"
            )

    def _layer_spans(self, turn: Turn, layer: Layer) -> Iterator[Span]:
        for ran in layer.ran:
            lane = self._lane(turn, "links" if ran.stream == LINK else "kernels")
            start = turn.start + layer.start + ran.start
            kind = KIND_NAMES[LOOKS.get(ran.line.op, "elementwise")]
            words = ran.line.op if ran.line.op == ran.line.name else f"{ran.line.op} {ran.line.name}"
            end = start + (ran.end - ran.start)
            yield Span(lane, start, end, kind, name=words, where=f"{layer.name}, {self._batch(turn)}")

    def _add_between(self, steps: Steps) -> None:
        """Hops from stage to stage, and the KV cache that travels from pool to pool."""
        hops = [hop for hop in self.phase.hops if hop.stage in self.stages and hop.start <= self.end]
        for hop in hops[:MOST_PASSES]:
            name = f"batch {hop.batch // self.phase.parts} to stage {hop.stage + 1}"
            self.spans.append(Span(f"stage {hop.stage}, links", hop.start, hop.end, SENT, name))
        if steps.sent is not None and self.phase is steps.prefill:
            self.spans.append(Span("KV cache", *steps.sent, MOVED, "of the first batch"))

    def chart(self, name: str, e: Estimate) -> Chart:
        """The chart; time starts with the phase."""
        start = min(span.start for span in self.spans)
        factor, unit = time_unit(self.end - start)
        whole = round((self.end - start) * factor, 9)
        rows = [
            {"l": s.lane, "a": rounded((s.start - start) * factor), "b": rounded((s.end - start) * factor),
             "k": s.kind, "n": s.name, "w": s.where, "t": show_time(s.end - s.start)}
            for s in self.spans
        ]  # fmt: skip
        lanes, kinds = _in_order(self.spans), {span.kind for span in self.spans}
        x = field("a", f"time ({unit})", scale={"domain": [0, whole], "nice": False}, axis={"grid": True})
        spec: Spec = {
            "width": "container",
            "height": 26 * len(lanes),
            "params": [
                {"name": "zoom", "bind": "scales",
                 "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.ctrlKey]"}}
            ],
            "mark": {"type": "bar", "clip": True, "height": {"band": 0.8}},
            "encoding": {
                "y": field("l", None, "nominal", scale={"domain": lanes}, axis={"labelLimit": 160}),
                "x": x,
                "x2": {"field": "b"},
                "stroke": {"condition": {"test": f"datum.k == '{PASS}'", "value": "var(--paper)"}, "value": None},
                "color": field("k", None, "nominal",
                               scale=colours({k: v for k, v in KINDS_DRAWN.items() if k in kinds}),
                               legend=LEGEND),
                "tooltip": [field("n", "what", "nominal"), field("w", "of", "nominal"), field("k", "kind", "nominal"),
                            field("t", "takes", "nominal")],
            },
        }  # fmt: skip
        many = self.phase.batches
        step = "a decode step of each batch" if self.phase.name == "decode" else "a prefill"
        title = f"Timeline of {step}" + (f", {many:,} batches in flight" if many > 1 else "")
        replicas = f"one of {e.replicas} replicas is drawn" if e.replicas > 1 else ""
        note = "; ".join(filter(None, ("one rank of each stage is drawn", replicas, *self.notes)))
        said = (
            f"{title}: {show_time(self.end - start)} in all, {counted(len(lanes), 'lane')}. The table of ops has times."
        )
        return Chart(
            name,
            title,
            said,
            spec,
            note[0].upper() + note[1:] + ".",
            zoom=("zoom_a", 0.0, whole),
            packed=Packed.of(rows),
        )


def _in_order(spans: Sequence[Span]) -> list[str]:
    """The lanes: drafts first, then stage by stage, passes above kernels above links."""
    sides = ("passes", "kernels", "links")

    def place(lane: str) -> tuple[int, int, int]:
        before, _, side = lane.rpartition(", ")
        number = int(before.split()[-1]) if before.startswith("stage ") else -1
        last = lane == "KV cache"
        return (2 if last else 0 if before and number < 0 else 1, number, sides.index(side) if side in sides else 9)

    return sorted({span.lane for span in spans}, key=place)
