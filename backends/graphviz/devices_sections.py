"""The devices view of a plan with several drawings: a pool of GPUs for each phase, and two shardings on one cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl.answers.pools import Pool, Pools
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.devices import Devices, machine_drawing
from plandsl.backends.graphviz.facts import Facts
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import TOP, Key, finish
from plandsl.backends.graphviz.palette import MUTED, TRANSFER
from plandsl.ir.program import DECODE, PHASES, PREFILL
from plandsl.units import show_bytes, show_count, show_rate, show_time

ROOM, BETWEEN, APART = 24.0, 64.0, 16.0
"""Height of a title, of the arrow between the pools, and of the space between two shardings."""


class Section(NamedTuple):
    """A drawing with its title, and the pool that it belongs to, if there are two."""

    title: str
    words: str
    drawing: Devices
    pool: str = ""


def draw_sections(facts: Facts) -> str:
    """Draw every pool and every sharding, one below the other."""
    canvas, y, pool = Canvas(f"{facts.plan.name}: devices"), 0.0, ""
    keys: dict[tuple[str, str], Key] = {}
    sections, found = list(_sections(facts)), facts.estimate.pools
    width = max(section.drawing.width for section in sections)
    for at, section in enumerate(sections):
        if at and section.pool != pool and found is not None:
            _draw_transfer(canvas, found, TOP + y)
            y += BETWEEN
        elif at:
            y += APART
        pool = section.pool
        section.drawing.paint(width)
        canvas.text(0, TOP + y + 9, section.title, size=15, bold=True)
        canvas.text(text_width(section.title, 15, True) + 16, TOP + y + 9, section.words, size=12, color=MUTED)
        canvas.place(section.drawing.canvas, 0, y + ROOM, section.title)
        y += ROOM + section.drawing.canvas.bottom - TOP
        keys |= {(key.color, key.text): key for key in section.drawing.legend()}
    caption = "devices: what each GPU holds, and what is sent"
    note = "both shardings lie on the same GPUs and the same cache" if facts.estimate.shift else ""
    if found is not None:
        keys[TRANSFER, ""] = Key("arrow", TRANSFER, "KV cache from pool to pool: bytes, time of a batch")
        caption = "devices: both pools, what each GPU holds, and what is sent"
    return finish(canvas, facts, caption, list(keys.values()), note)


def _sections(facts: Facts) -> Iterator[Section]:
    """The shardings of each pool, or of the plan."""
    found, servers = facts.estimate.pools, facts.model.pools
    if found is None:
        yield from _shardings(facts, servers[0], PHASES)
        return
    for phase, pool, server in zip((PREFILL, DECODE), (found.prefill, found.decode), servers, strict=True):
        own = Facts(facts.model, pool.estimate, phase)
        title, words = f"{phase} pool", _show_pool(pool)
        if pool.estimate.shift is None:
            yield Section(title, words, machine_drawing(own), phase)
            continue
        for each in _shardings(own, server, (phase,)):
            yield each._replace(title=f"{title}, {each.title}", words=f"{each.words}; {words}", pool=phase)


def _shardings(facts: Facts, servers: Replicas, phases: tuple[str, ...]) -> Iterator[Section]:
    """Both shardings of a plan with `shift`, each in a phase that it runs, if it runs one of ``phases``."""
    shift, modes = facts.estimate.shift, servers.one.modes
    assert shift is not None, "there are two shardings"
    assert modes is not None, "there are two servers"
    sides = (
        ("base", shift.base, modes.base, f"steps of more than {shift.threshold} tokens"),
        ("tensor", shift.tensor, modes.tensor, f"steps of at most {shift.threshold} tokens"),
    )
    for name, mode, server, when in sides:
        taken = [phase for phase in phases if getattr(shift, phase) == name]
        phase = facts.phase if facts.phase in taken or not taken else taken[0]
        metrics = Replicas(servers.n, server).evaluate()
        run = (metrics.prefill if phase == PREFILL else metrics.decode).main
        which = f"here {' and '.join(taken)}" if taken else "none of this load"
        words = f"{when}, {which}; drawn: what {phase} sends"
        yield Section(mode.sharding, words, machine_drawing(Facts(facts.model, facts.estimate, phase, run)))


def _show_pool(pool: Pool) -> str:
    e = pool.estimate
    return f"{e.gpus} GPUs, batch {e.batch}, sustains {show_count(pool.requests_per_s)} requests/s"


def _draw_transfer(canvas: Canvas, found: Pools, y: float) -> None:
    """Draw the arrow from pool to pool, with the bytes and the time of a transfer."""
    sent = found.sent
    canvas.line([(60, y + 4), (60, y + BETWEEN - 6)], TRANSFER, pen=3, arrow=True, name="KV cache")
    over = sent.between or f"ports of {show_rate(sent.bandwidth)}"
    when = "after the prefill" if sent.when == "after" else "layer by layer"
    first = f"KV cache, {show_bytes(sent.request)} of each request over {over}, {when}"
    ports = f"a port sends {show_bytes(sent.sent)} of it or receives {show_bytes(sent.received)}"
    canvas.text(80, y + 20, first, size=13, bold=True, color=TRANSFER)
    canvas.text(80, y + 40, f"{ports}; a batch takes {show_time(sent.time_s)}", size=12, color=MUTED)
