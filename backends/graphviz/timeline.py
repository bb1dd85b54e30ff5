"""The timeline view: in-flight batches as they pass the stages, or one pass of a plan of one stage."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.backends.cost.time.pipeline import Run, play_pipeline, play_sends
from plandsl.backends.graphviz.axis import Axis
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.facts import Facts, stage_words
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import DOT, TOP, Key, finish
from plandsl.backends.graphviz.palette import BATCHES, COMM, HOP, IDLE, INK, MUTED, ink_on
from plandsl.backends.graphviz.pass_view import one_pass
from plandsl.units import show_percent, show_time
from plandsl.values import sum_up

MOST_BATCHES, MOST_STAGES = 16, 12
"""Most batches and stages that are drawn; a note counts the rest."""

LEFT, WIDTH = 192.0, 1000.0
COMPUTE_H, LINK_H, ROW = 34.0, 13.0, 66.0
WARM_UP = 3
"""Rounds of decode before the round that is drawn, which is in the steady state."""


def timeline(facts: Facts) -> str:
    """Draw when each stage works, in the phase of ``facts``."""
    if len(facts.program.stages) == 1:
        return one_pass(facts)
    return Pipeline(facts).draw()


class Pipeline:
    """The drawing of a pipeline: each stage has a lane for its batches and a lane for its links."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.canvas = facts, Canvas(f"{facts.plan.name}: timeline")
        self.seconds = [seconds for _, seconds in facts.stages()]
        self.hop = float(facts.times.hop)
        hops = [float(h) for h in facts.phase_model.hop_seconds(facts.times)]
        self.decode = facts.phase == "decode"
        self.parts = int(facts.times.parts)
        self.word = "part" if self.parts > 1 else "batch"
        self.flights = facts.estimate.in_flight * self.parts
        stages, flights = len(self.seconds), self.flights
        # this many batches fill every stage; more would look the same
        self.batches = min(flights, max(MOST_BATCHES, 2 * stages)) if self.decode else min(flights, MOST_BATCHES)
        self.runs = play_pipeline(self.seconds, hops, self.batches, WARM_UP + 3 if self.decode else 1)
        self.sends = play_sends(self.runs, hops)
        self.shown = list(range(stages)) if stages <= MOST_STAGES else [*range(MOST_STAGES - 1), stages - 1]
        self.axis = self._axis()

    def _axis(self) -> Axis:
        if not self.decode:
            return Axis(0.0, max(r.end for r in self.runs), LEFT, WIDTH)
        first = next(r.start for r in self.runs if r.round == WARM_UP)
        after = next(r.start for r in self.runs if r.round == WARM_UP + 1)
        drawn = min(MOST_BATCHES / self.batches, 1.0)
        return Axis(first, (after - first) * drawn, LEFT, WIDTH)

    def _visible_runs(self, runs: Sequence[Run], stage: int) -> list[tuple[Run, float, float]]:
        """The runs of a stage that the axis shows, with the x of both ends."""
        first, last = self.axis.start, self.axis.start + self.axis.span
        out = []
        for run in runs:
            if run.stage == stage and run.end > first and run.start < last:
                out.append((run, self.axis.x(run.start), self.axis.x(run.end)))
        return out

    def draw(self) -> str:
        """The whole picture."""
        top = TOP + 34
        bottom = top + len(self.shown) * ROW
        self.axis.draw(self.canvas, top - 4, bottom)
        for row, stage in enumerate(self.shown):
            self._draw_lane(stage, top + row * ROW)
        self._draw_marks(top - 4, bottom)
        what = "one step in the steady state" if self.decode else f"one prefill of {self._show_batches()}"
        return finish(self.canvas, self.facts, f"timeline: {what}", self._keys(), self._note())

    def _show_batches(self) -> str:
        flights = self.facts.estimate.in_flight
        many = f"{flights} batches in flight" if flights > 1 else "one batch"
        return f"{many}, {'each ' if flights > 1 else ''}in {self.parts} parts" if self.parts > 1 else many

    def _draw_lane(self, stage: int, y: float) -> None:
        canvas, runs = self.canvas, self._visible_runs(self.runs, stage)
        name = f"stage {stage}"
        canvas.text(0, y + 11, name, size=14, bold=True, width=LEFT - 54)
        canvas.text(0, y + 29, stage_words(self.facts, stage), size=11, color=MUTED, width=LEFT - 54)
        canvas.text(
            LEFT - 8, y + COMPUTE_H / 2, self.word + ("s" if self.parts > 1 else "es"), color=MUTED, align="r", width=46
        )
        canvas.text(LEFT - 8, y + COMPUTE_H + 3 + LINK_H / 2, "links", color=MUTED, align="r", width=46)
        canvas.box(LEFT, y, WIDTH, COMPUTE_H, IDLE, name=f"{name} idle")
        canvas.box(LEFT, y + COMPUTE_H + 3, WIDTH, LINK_H, "#f3f5f7", name=f"{name} links")
        share = self._share(stage)
        at = LEFT
        for run, x, end in runs:
            self._draw_wait(name, at, x, y)
            self._draw_run(run, x, end, y)
            if share > 0.001:
                self._draw_collectives(run, x, end, y + COMPUTE_H + 3, share)
            at = end
        self._draw_wait(name, at, LEFT + WIDTH, y)
        for send, x, end in self._visible_runs(self.sends, stage):
            label = f"{self.word} {self._number(send.batch)} to stage {stage + 1}"
            x = min(x, LEFT + WIDTH - 1.5)
            canvas.box(x, y + COMPUTE_H + 3, max(end - x, 1.5), LINK_H, HOP, name=label)
        busy = sum_up(end - x for _, x, end in runs) / WIDTH
        canvas.text(LEFT + WIDTH + 10, y + COMPUTE_H / 2, f"busy {show_percent(busy)}", color=MUTED, width=80)

    def _share(self, stage: int) -> float:
        """The share of a stage's time in which collectives run."""
        busy = sum_up(t.seconds for t in self.facts.traffic(stage))
        return min(1.0, busy / self.seconds[stage]) if self.seconds[stage] else 0.0

    def _draw_run(self, run: Run, x: float, end: float, y: float) -> None:
        batch = self._number(run.batch)
        fill = BATCHES[batch % len(BATCHES)]
        name = f"stage {run.stage}: {self.word} {batch}, {show_time(run.end - run.start)}"
        self.canvas.box(x, y, end - x, COMPUTE_H, fill=fill, stroke="#ffffff", pen=0.75, name=name)
        width, middle = end - x, (x + end) / 2
        time, words = show_time(run.end - run.start), f"{self.word} {batch}"
        wide = max(text_width(words, 12, True), text_width(time, 11))
        if self._is_struck(middle, wide):
            return
        if width > wide + 4:
            self.canvas.text(middle, y + 11, words, size=12, bold=True, align="c", width=width)
            self.canvas.text(middle, y + 25, time, size=11, align="c", color=ink_on(fill), width=width)
        elif width > text_width(str(batch), 12, True) + 6:
            self.canvas.text(middle, y + 17, str(batch), size=12, bold=True, align="c", width=width)

    def _number(self, batch: int) -> int:
        """The batch's number among all in flight. Where fewer are played, the later half gets the last numbers."""
        missing = self.flights - self.batches
        return batch + missing if self.decode and 2 * batch >= self.batches else batch

    def _draw_collectives(self, run: Run, x: float, end: float, y: float, share: float) -> None:
        """Draw the collectives between kernels as stripes, in proportion to their time but fewer than they are."""
        n = max(1, min(16, int((end - x) / 14)))
        on, off = share / n, (1 - share) / n
        fill = ":".join([f"#f3f5f7;{off:.4f}", f"{COMM};{on:.4f}"] * n)
        name = f"stage {run.stage}: collectives of {self.word} {self._number(run.batch)}"
        self.canvas.box(x, y, end - x, LINK_H, COMM if share > 0.995 else fill, style="striped", name=name)

    def _draw_wait(self, name: str, x: float, end: float, y: float) -> None:
        words = f"idle {show_time((end - x) / WIDTH * self.axis.span)}"
        wide = text_width(words, 11)
        if end - x > wide + 6 and not self._is_struck((x + end) / 2, wide):
            self.canvas.text(
                (x + end) / 2, y + COMPUTE_H / 2, words, align="c", color=MUTED, width=end - x - 4,
                name=f"{name} {words}",
            )  # fmt: skip

    def _first_tokens(self) -> float:
        """Where the line of TTFT stands. With a transfer between pools this may be inside the run of another batch."""
        return self.axis.x(self.facts.estimate.ttft_s - float(self.facts.times.drafted))

    def _is_struck(self, middle: float, width: float) -> bool:
        """Whether the line of TTFT would cross a text."""
        return not self.decode and abs(self._first_tokens() - middle) < width / 2 + 3

    def _draw_marks(self, top: float, bottom: float) -> None:
        e, axis = self.facts.estimate, self.axis
        if self.decode:
            y = top - 14
            words = f"one {'verifying ' if e.speculate else ''}step of every batch: {show_time(axis.span)}"
            if self.batches > MOST_BATCHES:
                words = f"{show_time(axis.span)} of a step of {show_time(e.tpot_s or 0.0)}"
            self.canvas.line([(LEFT, y), (LEFT + WIDTH, y)], INK, pen=1.5, name=words)
            for x in (LEFT, LEFT + WIDTH):
                self.canvas.line([(x, y - 4), (x, y + 4)], INK, pen=1.5, name=words)
            self.canvas.text(LEFT + WIDTH / 2, y - 11, words, size=12, bold=True, align="c", width=WIDTH)
            return
        x = self._first_tokens()
        words = f"TTFT {show_time(e.ttft_s)}: batch 0 has its first tokens"
        self.canvas.line([(x, top - 12), (x, bottom)], INK, pen=1.5, style="dashed", name=words)
        left = x - LEFT > WIDTH / 2
        self.canvas.text(x - 5 if left else x + 5, top - 10, words, size=12, bold=True, align="r" if left else "l")

    def _keys(self) -> list[Key]:
        keys = [Key("box", BATCHES[b], f"{self.word} {b}") for b in range(min(self.batches, len(BATCHES)))]
        if self.batches > len(BATCHES):
            keys[-1] = keys[-1]._replace(text=f"{self.word} {len(BATCHES) - 1}; colours repeat")
        keys.append(Key("box", IDLE, "idle"))
        if any(self._share(s) > 0.001 for s in self.shown):
            keys.append(Key("box", COMM, "collectives, in proportion"))
        mixed = len(set(self.facts.phase_model.boundaries)) > 1
        keys.append(Key("box", HOP, f"to the next stage, {'at most ' if mixed else ''}{show_time(self.hop)}"))
        return keys

    def _note(self) -> str:
        flights, notes = self.flights, []
        if flights > MOST_BATCHES:
            what = "parts of batches" if self.parts > 1 else "batches"
            notes.append(f"{MOST_BATCHES} of {flights} {what} in flight are drawn")
        stages = len(self.seconds)
        if stages > len(self.shown):
            notes.append(f"stages {MOST_STAGES - 1} to {stages - 2} are not drawn")
        if drafted := float(self.facts.times.drafted):
            notes.append(f"the {self.facts.times.ahead} is not drawn, {show_time(drafted)} before each batch enters")
        if self.facts.estimate.replicas > 1:
            notes.append(f"one of {self.facts.estimate.replicas} replicas is drawn")
        return DOT.join(notes)
