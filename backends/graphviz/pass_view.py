"""The timeline view of a plan of one stage: the parts of one pass, and the ops of one layer in order."""

from __future__ import annotations

from plandsl.answers.phases import OpTime
from plandsl.backends.cost.time.phase import play_slots
from plandsl.backends.graphviz.axis import Axis
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.facts import Facts
from plandsl.backends.graphviz.fonts import text_width
from plandsl.backends.graphviz.header import TIMES, TOP, Key, finish
from plandsl.backends.graphviz.palette import FAINT, FRAME, IDLE, INK, KIND_NAMES, KINDS, LOOKS, MUTED, ink_on
from plandsl.ir.base import LINK
from plandsl.ir.names import EMBEDDING, HEAD, RegionName
from plandsl.units import show_percent, show_time
from plandsl.values import sum_up

LEFT, WIDTH, LANE = 90.0, 1090.0, 36.0
PARTS = {EMBEDDING: "#2f6f60", HEAD: "#8a6d1c"}
DRAFT = "#b58bb8"
LAYERS = ("#c9d6e4", "#dbe4ee")
"""Alternating colours of layers that are wide enough to see."""

LINE_H, MOST_OPS = 20.0, 45
APART, BESIDE = 30.0, 228.0
"""Points between two columns of the list, and of a column beside the names: number, bar, time and share."""


def one_pass(facts: Facts) -> str:
    """Draw the pass as one bar, and below it, enlarged, a layer of its longest block."""
    canvas = Canvas(f"{facts.plan.name}: timeline")
    top = TOP + 52
    drafted = float(facts.times.drafted)
    span = drafted + float(facts.times.stages[0].span)
    axis = Axis(0.0, span, LEFT, WIDTH)
    axis.draw(canvas, top - 6, top + LANE, above=True)
    canvas.text(0, top + LANE / 2, "one pass", size=13, bold=True, width=LEFT - 8)
    zoom = _draw_pass(canvas, facts, axis, top)
    prefill = facts.phase == "prefill"
    step = "one step" if facts.estimate.speculate else "one step, TPOT"
    words = f"{'TTFT' if prefill else step} {show_time(span)}"
    canvas.line([(LEFT + WIDTH, top - 42), (LEFT + WIDTH, top + LANE)], INK, pen=1.5, style="dashed", name=words)
    canvas.text(LEFT + WIDTH - 5, top - 38, words, size=12, bold=True, align="r")
    lower = top + LANE + 70
    region, x0, x1 = zoom
    for a, b in ((x0, LEFT), (x1, LEFT + WIDTH)):
        canvas.line([(a, top + LANE), (b, lower - 8)], FAINT, pen=0.75, style="dashed", name=f"{region} drawn out")
    bottom, kinds = _draw_layer(canvas, facts, region, lower)
    _draw_list(canvas, facts, region, bottom + 40)
    keys = [Key("box", KINDS[k], KIND_NAMES[k]) for k in KINDS if k in kinds]
    if any(s.stream == LINK for s in facts.schedule.slots_of(region)):
        keys.append(Key("box", IDLE, "idle"))
    regions = [p.region for p in facts.program.stages[0]]
    keys += [Key("box", fill, f"{name}, whole") for name, fill in PARTS.items() if name in regions]
    keys.append(Key("box", LAYERS[0], "layers"))
    if drafted:
        keys.append(Key("box", DRAFT, f"the {facts.times.ahead}, {show_time(drafted)}"))
    many = facts.estimate.replicas
    note = f"one of {many} replicas is drawn" if many > 1 else ""
    return finish(canvas, facts, f"timeline: one {facts.phase} {'pass' if prefill else 'step'}", keys, note)


def _draw_pass(canvas: Canvas, facts: Facts, axis: Axis, y: float) -> tuple[RegionName, float, float]:
    """Draw the bar of the whole pass; returns the region to enlarge and both ends of its first layer."""
    at, best = float(facts.times.drafted), (EMBEDDING, 0.0, 0.0, -1.0)
    if at:
        canvas.box(LEFT, y, axis.x(at) - LEFT, LANE, DRAFT, name=f"{facts.times.ahead}: {show_time(at)}")
    for part in facts.program.stages[0]:
        each = float(facts.times.regions[part.region].span)
        whole = each * part.repeats
        x, end = axis.x(at), axis.x(at + whole)
        if part.layers is None:
            fill = PARTS.get(part.region, LAYERS[0])
            name = f"{part.region}: {show_time(whole)}"
            canvas.box(x, y, max(end - x, 1.5), LANE, fill, name=name)
            if end - x > text_width(part.region, 12) + 8:
                canvas.text((x + end) / 2, y + LANE / 2, part.region, size=12, align="c", color=ink_on(fill))
        else:
            canvas.box(x, y, end - x, LANE, LAYERS[0], name=f"{part}: {show_time(whole)}")
            step = (end - x) / part.repeats
            for i, layer in list(enumerate(part.every.select(part.layers)))[1::2]:
                if step >= 2:
                    canvas.box(x + i * step, y, step, LANE, LAYERS[1], name=f"layer {layer}")
            words = f"{part.repeats} {TIMES} {show_time(each)} = {show_time(whole)}"
            _draw_layers_label(canvas, (x, end), y, part.region, (words, show_time(whole)))
            if whole > best[3]:
                best = (part.region, x, max(x + step, x + 1), whole)
        at += whole
    return best[:3]


def _draw_layers_label(
    canvas: Canvas, ends: tuple[float, float], y: float, region: str, times: tuple[str, ...]
) -> None:
    """Write how long layers take on a ground of their colour: the first of ``times`` that fits between ``ends``."""
    for line in (*(f"{region}: {time}" for time in times), region):
        width = text_width(line, 13, True) + 8
        if width <= ends[1] - ends[0] - 4:
            middle = (ends[0] + ends[1]) / 2
            canvas.box(middle - width / 2, y + LANE / 2 - 9, width, 18, LAYERS[0], name=f"{region} label")
            canvas.text(middle, y + LANE / 2, line, size=13, bold=True, align="c", width=width)
            return


def _draw_layer(canvas: Canvas, facts: Facts, region: RegionName, y: float) -> tuple[float, set[str]]:
    """Draw one layer on two lanes; returns its lower edge and the kinds of its ops."""
    slots = facts.schedule.slots_of(region)
    times = play_slots(slots, [float(s) for s in facts.times.seconds[region]])
    span = float(facts.times.regions[region].span)
    axis = Axis(0.0, span, LEFT, WIDTH)
    linked = any(s.stream == LINK and b > a for s, (a, b) in zip(slots, times, strict=True))
    lanes = ["kernels", "links"] if linked else ["kernels"]
    bottom = y + len(lanes) * (LANE + 6) + 4
    first = next(p.layers for p in facts.program.stages[0] if p.region == region)
    title = f"layer {first[0] if first else 0} of {region}: {show_time(span)}"
    canvas.text(LEFT + WIDTH / 2, y - 20, title, size=14, bold=True, align="c", width=WIDTH / 2)
    axis.draw(canvas, y - 6, bottom)
    for i, lane in enumerate(lanes):
        canvas.text(0, y + i * (LANE + 6) + LANE / 2, lane, size=13, bold=True, width=LEFT - 8)
        canvas.box(LEFT, y + i * (LANE + 6), WIDTH, LANE, IDLE, name=f"{lane} idle")
    kinds = set()
    numbers = number_ops(facts, region)
    for slot, (start, end) in zip(slots, times, strict=True):
        op = facts.ops[region][slot.op]
        if op.time_s <= 0:
            continue
        kinds.add(kind := LOOKS[op.op])
        x, right = axis.x(start), axis.x(end)
        top = y + (LANE + 6 if slot.stream == LINK else 0)
        name = f"{op.op} {op.name}: {show_time(op.time_s)}"
        canvas.box(x, top, right - x, LANE, fill=KINDS[kind], stroke="#ffffff", pen=0.75, name=name)
        _draw_label(canvas, op, numbers[slot.op], (x, right), top)
    return bottom + 18, kinds


def _draw_label(canvas: Canvas, op: OpTime, n: int, ends: tuple[float, float], y: float) -> None:
    """Write the op's name where it fits, else its number in the list below."""
    width, middle = ends[1] - ends[0], (ends[0] + ends[1]) / 2
    color = ink_on(KINDS[LOOKS[op.op]])
    if width > text_width(op.name, 12, True) + 8:
        time = show_time(op.time_s)
        both = width > text_width(time, 11) + 4
        at = y + (12 if both else LANE / 2)
        canvas.text(middle, at, op.name, size=12, bold=True, align="c", color=color, width=width)
        if both:
            canvas.text(middle, y + 26, time, size=11, align="c", color=color, width=width)
    elif width > 15:
        canvas.text(middle, y + LANE / 2, str(n), size=11, align="c", color=color, width=width)


def number_ops(facts: Facts, region: RegionName) -> dict[int, int]:
    """Numbers from 1 for the ops of a layer that take time, by index of the op."""
    taking = [i for i, op in enumerate(facts.ops[region]) if op.time_s > 0]
    return {i: n for n, i in enumerate(taking, 1)}


def _list_name(op: OpTime) -> str:
    """The name of an op, and what it is where the name does not tell."""
    plain = op.op == op.name or op.op in ("norm", "elementwise", "embedding")
    return op.name if plain else f"{op.name}, {op.op}"


def _draw_list(canvas: Canvas, facts: Facts, region: RegionName, y: float) -> None:
    """List every op of the layer with its time, in columns."""
    numbers = number_ops(facts, region)
    ops = [(n, facts.ops[region][i]) for i, n in numbers.items()]
    total = sum_up(op.time_s for _, op in ops) or 1.0
    most = max((op.time_s for _, op in ops), default=1.0)
    shown = ops[:MOST_OPS]
    longest = max((text_width(_list_name(op), 12) for _, op in shown), default=0.0)
    columns = 3 if 3 * (longest + BESIDE) + 2 * APART <= LEFT + WIDTH else 2
    rows = -(-len(shown) // columns)
    w = (LEFT + WIDTH - (columns - 1) * APART) / columns
    for k, (n, op) in enumerate(shown):
        column, row = divmod(k, rows)
        x, middle = column * (w + APART), y + row * LINE_H
        fill, bar = KINDS[LOOKS[op.op]], x + w - 196
        canvas.text(x + 18, middle, str(n), color=MUTED, align="r", width=18)
        canvas.text(x + 26, middle, _list_name(op), size=12, width=w - BESIDE)
        canvas.box(bar, middle - 6, 70, 12, FRAME, name=f"{op.name} share")
        canvas.box(bar, middle - 6, max(70 * op.time_s / most, 1), 12, fill, name=f"{op.name} time")
        canvas.text(x + w - 56, middle, show_time(op.time_s), size=12, align="r", width=66)
        words = f"{show_percent(op.time_s / total)}"
        canvas.text(x + w, middle, words, size=11, color=MUTED, align="r", width=50)
    if len(ops) > len(shown):
        more = f"and {len(ops) - len(shown)} more"
        canvas.text(0, y + rows * LINE_H, more, color=MUTED)
