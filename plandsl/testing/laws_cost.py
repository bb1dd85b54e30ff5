"""Laws about numbers: better hardware helps, more load costs time, and every way to evaluate gives one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isclose

import numpy as np
import numpy.typing as npt
from attrs import evolve

from plandsl import limits
from plandsl.backends.cost import Metrics
from plandsl.backends.cost.answers.figures import FIGURES, Figure, change_calibrations, change_gpus, change_pools
from plandsl.backends.cost.answers.responses import Followed, responses
from plandsl.backends.cost.answers.sensitivities import (
    BEST,
    SPECK,
    Variations,
    perfect_figure,
    remaining_seconds,
    seconds_by_bound,
)
from plandsl.backends.cost.answers.terms import terms
from plandsl.backends.cost.deployments.deployment import HOT
from plandsl.driver import CompiledPlan
from plandsl.ir.base import LINK
from plandsl.ir.collectives import Recv, Ring, Send
from plandsl.ir.names import axes_of, group_of
from plandsl.ir.program import DECODE, PREFILL, Program
from plandsl.ir.types import Number
from plandsl.passes import SIZELESS, finish, program_after, structure
from plandsl.spec.hardware import CalibrationSpec
from plandsl.spec.plan import AxisSpec, PlanSpec, RuleSpec, ShardingSpec
from plandsl.testing.compare import SLACK, compiled
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.values import sum_up

BATCHES = (1, 2, 3, 4, 7, 8, 16, 33, 256)
LENGTHS = (1, 2, 3, 8, 64, 1000)

NOTHING = 1e-4
"""A share of a time that counts as zero."""

Array = npt.NDArray[np.float64]

NO_STEPS = "nothing comes out of its requests, so no step decodes"


# ---- hardware


def better_hardware_is_never_slower(plan: CompiledPlan) -> None:
    """More FLOP/s, power or bandwidth, and less latency, launch or engine time never lengthen a phase.

    Nor do they lower the throughput. The bandwidth is that of memories, links, networks and of the transfer between two
    pools. Only the throughput is compared where requests are always in flight, and what is faster sends more of them to
    what is not: one of two pools, or an engine whose steps are then shared by more prompts.
    """
    model = plan.cost.on(plan.spec)  # models that are made of one another share what a figure leaves alone
    before = model.evaluate()
    flows, engine = plan.spec.workload.concurrency is not None, {_twice(FIGURES[key]) for key in ("engine", "ranks")}
    for what, better in _improved_plans(plan.spec).items():
        after = model.on(better).evaluate()
        sends = flows and (len(plan.spec.pools) > 1 or what in engine)
        for name in () if sends else _times(plan):
            was, now = getattr(before, name), getattr(after, name)
            assert now <= was * SLACK, f"with {what}, {name} goes from {was} to {now}"
        was, now = before.throughput, after.throughput
        assert now * SLACK >= was, f"with {what}, throughput goes from {was} to {now}"


def _twice(figure: Figure) -> str:
    return f"twice as good {figure.name}"


def _times(plan: CompiledPlan) -> tuple[str, ...]:
    """The times of a request that a plan has; of an encoder no step decodes."""
    return ("ttft",) if plan.spec.workload.encodes else ("ttft", "tpot")


def _improved_plans(spec: PlanSpec) -> dict[str, PlanSpec]:
    def tuned(word: str) -> PlanSpec:
        def is_share(name: str) -> bool:
            first, *inner = name.split(".")
            return first.startswith(word) and (len(inner) < 2 or inner[-1] in ("compute", "memory"))

        def better(calibration: CalibrationSpec) -> CalibrationSpec:
            return evolve(calibration, values=tuple((n, v * 1.5 if is_share(n) else v) for n, v in calibration.values))

        return change_pools(spec, lambda one: change_calibrations(one, better))

    limitless = change_pools(spec, lambda one: change_gpus(one, lambda gpu: evolve(gpu, power_max=None)))
    found = {_twice(figure): figure.improved(spec, 2.0) for figure in FIGURES.values()}
    found |= {
        "no power limit": limitless,
        "better GEMMs": tuned("gemm"),
        "better use of the memory": tuned("hbm"),
        "better use of the links": tuned("link"),
    }
    return {what: better for what, better in found.items() if better != spec}


# ---- load


def more_load_is_never_faster(plan: CompiledPlan) -> None:
    """More requests, longer inputs or outputs never shorten a phase; more requests or output never free memory.

    Where attention has chunks, a longer context may begin a new chunk, which has few keys.
    """
    load = plan.spec.workload
    chunks = bool(plan.cost.pools[0].main.decode.chunks)
    made = {} if load.encodes else {"output": load.output}
    for what, values, fixed in (
        ("batch", BATCHES, {"input": load.input, **made}),
        ("input", LENGTHS, {"batch": load.batch, **made}),
        ("output", LENGTHS, {"batch": load.batch, "input": load.input}),
    ):
        if what == "output" and load.encodes:
            continue
        asked = np.array(values, dtype=float)
        metrics = plan.cost.evaluate(**{what: asked, **fixed})
        # with a longer input a step of `step_tokens` has fewer requests, and rounding may free memory
        times = () if chunks and what != "batch" else (*_times(plan), "latency")
        for name in (*times, *(() if what == "input" else ("memory",))):
            found = np.broadcast_to(getattr(metrics, name), asked.shape)
            assert np.all(np.diff(found) >= -1e-7 * found[1:]), f"{name} over {what} {values}: {found}"


def larger_batches_never_lower_throughput(plan: CompiledPlan) -> None:
    """Twice the batch brings at least as many tokens per second.

    Fitted kernels have tiles and thresholds, and may lose a little: `more_requests_hardly_lower_throughput` says how
    much.
    """
    if any("." in name for kind in plan.spec.kinds for name, _ in kind.calibration.values):
        raise DoesNotApply("fitted kernels may lose a little; more-requests-hardly-lower-throughput says how much")
    batches = np.array(BATCHES)
    one, two = plan.cost.evaluate(batch=batches), plan.cost.evaluate(batch=2 * batches)
    kept = np.broadcast_to(two.throughput / one.throughput, batches.shape)
    at = int(kept.argmin())
    assert kept[at] * SLACK >= 1, f"a batch of {2 * batches[at]} has {kept[at]} of the throughput of {batches[at]}"


MOST_STEPS = 20_000
"""Most decode steps whose mean is taken: each of them is timed at nine contexts."""


def tpot_is_the_mean_step(plan: CompiledPlan) -> None:
    """TPOT is the mean over all decode steps of the output, each at its own context."""
    load, model = plan.spec.workload, plan.cost.pools[0]
    if load.encodes:
        raise DoesNotApply(NO_STEPS)
    if load.output > MOST_STEPS:
        raise DoesNotApply(f"each of {load.output:,} steps would be timed, and this law times at most {MOST_STEPS:,}")
    contexts = load.input + np.arange(max(load.output, 2) + 1.0)  # and one on either side
    bind = {"batch": load.batch, "context": load.input, "queries": 1}

    def periods(at: Array) -> Array:
        played = model.main.decode.at(bind, model.in_flight, [(1.0, at)]).period
        return np.broadcast_to(played, at.shape)

    each = periods(contexts)
    mean, tpot, steps = float(each[1:-1].mean()), float(model.evaluate().tpot), len(each) - 2
    # where a step's slope changes by d, an integral between its neighbours is off by d / 8, and three points of
    # Gauss on a stretch of w steps by at most 0.0175 d w
    bends = float(np.abs(np.diff(each, 2)).sum())
    # where a chunk of attention begins, time may bend twice between two steps: an integral counts the area between
    # the bends, and a point of Gauss up to four times that area more
    within = periods(contexts[1:-1, None] + (np.arange(8) + 0.5) / 8 - 0.5).mean(axis=1)
    hidden = float(np.abs(within - each[1:-1]).sum())
    slack = 1e-6 * mean + bends * (1 / 8 / steps + 0.0175 * steps) + 5 * hidden / steps
    assert abs(tpot - mean) <= slack, f"TPOT {tpot}, mean of the steps {mean}"


# ---- one answer


def arrays_equal_numbers(plan: CompiledPlan) -> None:
    """An array of configurations gets the same numbers as each configuration alone."""
    load = plan.spec.workload
    batch = np.array([1, load.batch, 2 * load.batch + 1])[:, None, None]
    input_ = np.array([1, load.input, load.input + 5])[None, :, None]
    output = np.array([None] if load.encodes else [1, load.output])[None, None, :]
    at_once = plan.cost.evaluate(batch=batch, input=input_, output=None if load.encodes else output.astype(int))
    shape = np.broadcast_shapes(batch.shape, input_.shape, output.shape)
    whole = _all_numbers(at_once, shape)
    for b, i, o in np.ndindex(*shape):
        one = plan.cost.evaluate(int(batch[b, 0, 0]), int(input_[0, i, 0]), output[0, 0, o])
        alone = _all_numbers(one, ())
        shifts = any(pool.shift for pool in plan.spec.pools)
        assert shifts or alone.keys() == whole.keys()  # with two shardings, arrays leave out times of ops
        for name, values in whole.items():
            many, value = float(values[b, i, o]), float(alone[name])
            assert isclose(many, value, rel_tol=1e-12), f"{name}: {many} in an array, {value} alone"


def straight_code_equals_the_model(plan: CompiledPlan) -> None:
    """A model that was evaluated often answers from straight code, with exactly the same numbers."""
    load = plan.spec.workload
    outputs = (None,) if load.encodes else (1, load.output + 1)
    asked = [(b, i, o) for b in (1, load.batch) for i in (load.input, load.input + 3) for o in outputs]
    model = plan.cost.on(plan.spec)
    expected = [model.evaluate(*one) for one in asked]
    for _ in range(HOT):
        model.evaluate(*asked[0])
    assert [model.evaluate(*one) for one in asked] == expected


def one_structure_serves_all_sizes(plan: CompiledPlan) -> None:
    """A program that was compiled for larger axes also serves this plan, with other sizes of the axes.

    More ranks may use GPUs that multiply in fewer formats, and may have parts of the groups of heads that a norm takes
    together; the law excludes both.
    """
    if plan.spec.model.norm_groups:
        raise DoesNotApply("whether a rank has whole groups of heads for a norm depends on the number of ranks")
    spec = plan.spec
    cut = {axis for rule in spec.sharding.rules if "layers" in rule.dims for axis in rule.axes}
    axes = tuple(a if a.size == 1 or a.name in cut else a._replace(size=2 * a.size) for a in spec.sharding.axes)
    node = evolve(spec.node, gpu=spec.common_gpu, gpus=())
    larger = evolve(spec, name="larger", node=node, cluster=None, sharding=evolve(spec.sharding, axes=axes))
    assert structure(larger) == structure(spec), "doubled axes are another structure"
    for phase, schedule in (("prefill", plan.prefill), ("decode", plan.decode)):
        again = finish(program_after(larger, phase, SIZELESS), spec)
        assert again.program == schedule.program
        assert again.slots == schedule.slots


def _all_numbers(metrics: Metrics, shape: tuple[int, ...]) -> dict[str, Array]:
    """Every number of ``metrics`` by name."""
    found: dict[str, Number] = {n: v for n, v in metrics._asdict().items() if v is not None}
    found = {n: v for n, v in found.items() if n not in ("phases", "served")}
    for phase in ("prefill", "decode"):
        times = getattr(metrics, phase)
        found |= {f"{phase}.{n}": getattr(times, n) for n in ("hop", "through", "period")}
        found |= {f"{phase}.stage{i}": s.span for i, s in enumerate(times.stages)}
        found |= {f"{phase}.compute{i}": s.compute for i, s in enumerate(times.stages)}
        found |= {f"{phase}.{n}{i}": t for n, ts in times.seconds.items() for i, t in enumerate(ts)}
    return {n: np.broadcast_to(np.asarray(v, dtype=float), shape) for n, v in found.items()}


# ---- memory


def _resident_batches(plan: CompiledPlan) -> int:
    return plan.cost.pools[0].in_flight if plan.spec.kv_residency == "all_batches" else 1


def largest_batch_is_tight(plan: CompiledPlan) -> None:
    """The largest batch fits on every stage, and a batch with one more request does not, unless nothing bounds it.

    This is about bytes. With an engine that does not start no batch fits, whatever its share of memory would hold.
    """
    load, memory, rounds = plan.spec.workload, plan.cost.pools[0].memory, _resident_batches(plan)
    length = load.input + load.output
    most = memory.max_batch(length, load.input, rounds)

    def fits(batch: Number) -> bool:
        stages = range(len(memory.weights))
        held = [memory.held(s, batch, length, load.input, rounds).total for s in stages]
        totals = list(zip(held, memory.capacities, strict=True))
        room = all(total <= capacity for total, capacity in totals)
        assert bool(memory.fit(totals)) == (room and memory.starts), f"a batch of {batch} has room: {room}"
        return room

    assert most == int(most) >= 0
    assert not most or fits(most), f"a batch of {most} does not fit"
    assert most >= limits.MAX_DIMENSION or not fits(most + 1), (
        f"a batch of {most} is said to be the largest, and one more fits"
    )


def cache_capacity_is_tight(plan: CompiledPlan) -> None:
    """The KV capacity in tokens fits on every stage, and on one stage not a single token more per rank fits."""
    load, memory, rounds = plan.spec.workload, plan.cost.pools[0].memory, _resident_batches(plan)
    if not any(memory.caches):
        raise DoesNotApply("it keeps nothing of a request")
    length = load.input + load.output
    room = memory.kv_capacity(load.batch, length, load.input, rounds)
    tight = False
    for stage, caches in enumerate(memory.caches):
        if not caches:
            continue
        own = room / memory.extents.ways(caches[0].batch.axes)  # ranks that share requests share their tokens
        held = memory.held(stage, load.batch, length, load.input, rounds)
        each = memory.kv_per_request(stage, length) / length
        free = memory.capacities[stage] - held.total + held.kv_cache
        assert own == 0 or own * each <= free * SLACK, f"stage {stage} has {free} bytes for {own * each} of cache"
        tight |= (own + 1) * each * SLACK > free
    assert tight, f"{room} tokens are said to fit, and more would"
    if plan.cost.evaluate().fits and load.prefix != "shared":
        assert room >= load.batch * length * rounds, f"it fits, and {room} tokens are said to"


# ---- reports


def parts_add_up(plan: CompiledPlan) -> None:
    """In each phase, compute, communication, draft and bubble add up to the time, and ops add up to the first two.

    MFU and MBU are shares: neither is more than 100 %.
    Where a decode step yields several tokens, its ops count for all of them. Where a hop is slower than any stage, ops
    of the micro-batches behind the first are hidden behind hops.
    """
    estimate, metrics, encodes = plan.closed_form(), plan.cost.evaluate(), plan.spec.workload.encodes
    assert encodes or estimate.decode.time_s == estimate.tpot_s
    assert estimate.prefill.time_s == estimate.ttft_s
    if plan.spec.chunked_prefill is None and all(pool.micro_batches == 1 for pool in plan.spec.pools):
        bubble = estimate.prefill.bubble_s
        assert bubble <= 1e-9 * estimate.ttft_s, "one batch in an empty pipeline waits for nobody"
    for phase, tokens, ran in (
        (estimate.prefill, 1 if metrics.served is None else float(metrics.joined), metrics.prefill),
        (estimate.decode, plan.cost.pools[0].gain, metrics.decode),
    )[: 1 if encodes else 2]:
        parts = phase.compute_s + phase.communication_s + phase.bubble_s + phase.draft_s + phase.tower_s
        parts += phase.engine_s + phase.waiting_s + phase.mixed_s
        assert isclose(parts, phase.time_s, rel_tol=1e-8), f"{parts} of {phase.time_s} s"
        computing = sum_up(op.time_s for op in phase.ops if not op.communicates) / tokens
        linked = sum_up(op.time_s for op in phase.ops if op.communicates) / tokens
        times = ran.main.times
        if len(times.stages) == 1:
            assert isclose(computing, phase.compute_s, rel_tol=1e-9), f"ops {computing} of {phase.compute_s} s"
            exposed = phase.communication_s + phase.overlapped_s
            assert isclose(linked, exposed, rel_tol=1e-6, abs_tol=1e-8 * phase.time_s), f"{linked} of {exposed} s"
        else:
            hidden = max(float(stage.span) for stage in times.stages) < float(times.hop)
            seen = computing / float(times.parts) if hidden else computing
            assert seen <= phase.compute_s * SLACK, f"ops {seen} of {phase.compute_s} s"
        assert 0 <= phase.mfu <= SLACK, f"{phase.mfu} of the FLOP/s there are"
        assert 0 <= phase.mbu <= SLACK, f"{phase.mbu} of the bytes/s there are"


def communication_is_complete(plan: CompiledPlan) -> None:
    """Every collective of every stage, and every hop, is in the table of communication, with the time that it takes."""
    estimate, metrics = plan.closed_form(), plan.cost.evaluate()
    asked = (
        (PREFILL, plan.prefill.program, metrics.prefill, estimate.prefill),
        (DECODE, plan.decode.program, metrics.decode, estimate.decode),
    )
    for phase, program, times, told in asked[: 1 if plan.spec.workload.encodes else 2]:
        rows, main = estimate.communication.of(phase), times.main
        wanted = _calls(program)
        found: Counter[tuple[str, str]] = Counter()
        for row in rows:
            found[row.op, row.axis] += row.calls
        passes = round(float(main.steps) * float(times.parts))
        if plan.spec.chunks == 1:  # else an empty chunk is not sent
            assert found == Counter({key: n * passes for key, n in wanted.items()}), f"{phase}: {found} of {wanted}"
        total, exposed = estimate.communication.total(phase), told.communication_s
        along = total.share * told.time_s
        if float(times.parts) == 1:  # what is exposed is a difference of times, as exact as they are
            assert exposed <= along * SLACK + 1e-12 * told.time_s, f"{phase}: {exposed} s of {along} s are exposed"
        if len(estimate.stages) == 1:
            all_ = exposed + told.overlapped_s
            assert isclose(all_, along, rel_tol=1e-6, abs_tol=1e-8 * told.time_s), f"{phase}: {along} of {all_} s"
        assert all(row.wire > 0 and row.payload > 0 for row in rows), f"{phase}: a call sends nothing: {rows}"


def _calls(program: Program) -> Counter[tuple[str, str]]:
    """How often one pass calls each collective along each axis, over all stages; a hop counts where it is sent."""
    found: Counter[tuple[str, str]] = Counter()
    for parts in program.stages:
        for part in parts:
            for op in program.region(part.region).ops:
                if op.facts.stream != LINK or isinstance(op, Recv):
                    continue
                axes = program.stage_axes if isinstance(op, Send) else axes_of(getattr(op, "axis", ""))
                wide = [axis for axis in axes if program.mesh.size(axis) > 1]
                each = op.tensors if isinstance(op, Send) else 1
                each = program.mesh.size(op.axis) - 1 if isinstance(op, Ring) else each
                if wide:
                    found[op.facts.word, group_of(wide)] += part.repeats * each
    return found


def terms_add_up(plan: CompiledPlan) -> None:
    """TTFT, TPOT and the seconds of a token are the sums of their terms, none of which is negative."""
    for whole in terms(plan.cost, plan.cost.evaluate()).all:
        found = sum_up(term.value for term in whole.terms)
        assert isclose(found, whole.total, rel_tol=1e-12), f"{whole.metric}: {found} of {whole.total} s"
        assert all(term.value >= 0 for term in whole.terms), (
            f"{whole.metric}: {min(whole.terms, key=lambda t: t.value)}"
        )


def shares_follow_their_figures(plan: CompiledPlan) -> None:
    """What an op follows shortens it, and a perfect figure gains its share, but for what was hidden behind others.

    Nothing follows a figure that is perfect, and what bounds the rest of its share then is named. A wait for other
    requests follows what lengthens it.
    """
    asking = Variations(plan.cost)
    own, follow = asking.own, responses(asking.model, asking.metrics).ops
    waits = {term.name for times in (own.ttft, own.tpot) for term in times.terms if term.bound in ("wait", "mixed")}
    assert all(own.waits.get(name) for name in waits), f"of {waits} some follow nothing: {own.waits}"
    for metric, whole in (("ttft", own.ttft), ("tpot", own.tpot)):
        loose = sum_up(t.value for t in whole.terms if t.bound not in FIGURES and not own.waits.get(t.name))
        followed = sum_up(seconds_by_bound(own, metric).values())
        assert isclose(followed + loose, whole.total, rel_tol=1e-9), f"{metric}: {followed} and {loose} s of {whole}"
    for key, figure in FIGURES.items():
        if figure.improved(asking.model.plan, BEST) == asking.model.plan:
            continue  # nothing in this plan has it
        _check_follow(figure, follow, asking.metrics, asking.at(figure, 0.99**figure.better)[1])
        best = asking.terms(figure, BEST)
        for metric in ("ttft", "tpot"):
            before, after = (getattr(times, metric).total for times in (own, best))
            share, still = (seconds_by_bound(times, metric).get(key, 0.0) for times in (own, best))
            assert still <= NOTHING * before, f"{still} of {before} s of {metric} follow perfect {figure.name}"
            sure = share - sum_up(remaining_seconds(own, best, metric, key).values()) - NOTHING * before
            assert before - after >= sure, f"perfect {figure.name} gains {before - after} s of {metric}, not {sure}"
            found = perfect_figure(asking, own, metric, key)
            assert (found.behind is not None) == (found.hidden > SPECK), f"{found} of {metric}, {figure.name}"


def _check_follow(figure: Figure, follow: Mapping[str, Sequence[Followed]], before: Metrics, worse: Metrics) -> None:
    """All ops that follow a figure take longer where it is worse."""
    for phase, was, now in ((PREFILL, before.prefill, worse.prefill), (DECODE, before.decode, worse.decode)):
        for bounds, *programs in zip(follow[phase], was.ran, now.ran, strict=True):
            for region, figures in bounds.items():
                seconds = (program.times.seconds[region] for program in programs)
                for bound, time, longer in zip(figures, *seconds, strict=True):
                    held = bound != figure.key or not time or longer > time
                    assert held, f"an op of {region} in {phase} is said to follow {figure.name}, and does not: {time} s"


def degrees_of_one_are_free(plan: CompiledPlan) -> None:
    """`dp = 1, pp = 1, cp = 1, sp = 1, ep = 1, tp = 1` is no sharding at all."""
    names = tuple(n for n, _ in plan.spec.model.sizes)
    degrees = [("data", "dp"), ("stage", "pp"), ("context", "cp"), ("seq", "sp"), ("expert", "ep"), ("tensor", "tp")]
    degrees = [d for d in degrees if d[1] != "ep" or "experts" in names]
    axes = tuple(AxisSpec(n, 1, None, s) for n, s in degrees)
    everywhere = tuple(d for d in ("heads", "kv_heads", "ffn", "expert_ffn", "vocab") if d in names)
    experts = (RuleSpec(("experts",), ("expert",)), RuleSpec(("batch",), ("expert",))) if "experts" in names else ()
    rules = (
        *experts,
        RuleSpec(("layers",), ("stage",)),
        RuleSpec(("tokens",), ("context", "seq")),
        RuleSpec(("context",), ("context",)),
        RuleSpec(tuple(d for d in everywhere if "heads" in d) or ("tokens",), ("tensor", "seq"), "attention"),
        RuleSpec(everywhere or ("tokens",), ("tensor",)),
    )
    unsharded = compiled(evolve(plan.spec, sharding=ShardingSpec("none", (), ())))
    unit = compiled(evolve(plan.spec, sharding=ShardingSpec("unit", axes, rules, ("data",))))
    before, after = unsharded.cost.evaluate(), unit.cost.evaluate()
    for name in Metrics._fields[:9]:
        was, now = getattr(before, name), getattr(after, name)
        # `overlap` may order ops otherwise around collectives of one rank, so that sums round otherwise
        assert isclose(was, now, rel_tol=1e-12), f"{name} is {was} unsharded, {now} with degrees of 1"
