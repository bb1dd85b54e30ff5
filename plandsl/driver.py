"""The whole compiler on one page: it calls the grammar, the passes and the backends, which do not know one another.

text --grammar--> PlanSpec --passes--> Program ... --> Schedule --backends--> Estimate, picture, verdict
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import evolve

from plandsl import limits
from plandsl.answers.about import About
from plandsl.answers.estimate import Estimate
from plandsl.arguments import Arguments, Overrides, guarded, set_pairs
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.grammar.resolve import Module, load
from plandsl.ir.program import PHASES, Program
from plandsl.ir.schedule import Schedule
from plandsl.ir.types import Number
from plandsl.passes import PIPELINE, compile_phase, program_after
from plandsl.passes.legality import check as legality
from plandsl.passes.legality import check_program
from plandsl.progress import Tick, count_parts, silent
from plandsl.spec.plan import CutSpec, PlanSpec
from plandsl.units import show_percent, show_time

if TYPE_CHECKING:
    from plandsl.answers.autoscale import Autoscale
    from plandsl.answers.communication import Compared
    from plandsl.answers.comparison import Comparison
    from plandsl.answers.difference import Difference
    from plandsl.answers.explanation import Explanation
    from plandsl.answers.flows import Flows
    from plandsl.answers.rate import FoundRate
    from plandsl.answers.seeds import OverSeeds
    from plandsl.backends.cost import Deployment
    from plandsl.backends.cost.answers.simulation import Run
    from plandsl.backends.cost.deployments.deployment import Metrics
    from plandsl.backends.graphviz.picture import Picture
    from plandsl.backends.jax import Sharding
    from plandsl.backends.reference import Verdict


BenchFiles: TypeAlias = "str | PathLike[str] | Sequence[str | PathLike[str]]"
"""The path of a result file of a benchmark, or of several."""


class CompiledPlan:
    """One plan, compiled: its schedules, and on request its estimate, picture or verdict."""

    def __init__(self, spec: PlanSpec, notes: Sequence[Diagnostic]) -> None:
        self.chosen: tuple[Diagnostic, ...] = ()
        cut = spec.sharding.cut
        if cut is not None and cut.balanced and spec.shift is None and spec.split is None:  # each pool is cut alone
            spec, note = balanced(spec, cut)
            self.chosen = (note,)
        self.spec, self.notes = spec, tuple(notes)
        self.sources: Mapping[str, str] = {}  # the texts that the spans of diagnostics point into, by file
        self._pools = () if spec.split is None else tuple(CompiledPlan(pool, ()) for pool in spec.pools)
        self._modes = () if spec.shift is None else tuple(CompiledPlan(mode, ()) for mode in spec.modes)
        first, last = self._pools[:1] or self._modes[:1], self._pools[1:] or self._modes[:1]
        self.prefill: Schedule = first[0].prefill if first else compile_phase(spec, "prefill")
        self.decode: Schedule = last[0].decode if last else compile_phase(spec, "decode")
        if spec.model.stateful:
            from plandsl.passes.pages import raise_block

            self.spec = raise_block(spec, self.prefill.program)

    @cached_property
    def findings(self) -> list[Diagnostic]:
        """Findings that need the compiled programs."""
        if self._pools:
            return [d for pool in self._pools for d in pool.findings]
        found = [*self.chosen, *(d for mode in self.modes for d in check_program(mode.spec, mode.prefill.program))]
        if self.spec.shift is not None:
            from plandsl.passes.shift import check_cache

            found += check_cache(self.spec, self.spec.shift, *(mode.prefill.program for mode in self.modes))
        for beside in (self.draft, self.tower):
            found += [d for d in beside.findings if d.severity == "error"] if beside is not None else []
        return found

    @property
    def name(self) -> str:
        """The plan's name."""
        return self.spec.name

    @property
    def modes(self) -> tuple[CompiledPlan, ...]:
        """One plan for each sharding: the two plans of a `shift`, or this plan. Both schedules are of the first one."""
        return self._modes or (self,)

    @property
    def pools(self) -> tuple[CompiledPlan, ...]:
        """One plan for each pool of GPUs: the prefill pool and the decode pool, or this plan where it has no pools."""
        return self._pools or (self,)

    @cached_property
    def draft(self) -> CompiledPlan | None:
        """The plan of the draft model, which guesses tokens ahead; None without a draft model."""
        return None if self.spec.draft_plan is None else CompiledPlan(self.spec.draft_plan, ())

    @cached_property
    def tower(self) -> CompiledPlan | None:
        """The plan of the model's tower, which encodes images; None without one."""
        return None if self.spec.tower_plan is None else CompiledPlan(self.spec.tower_plan, ())

    @cached_property
    def cost(self) -> Deployment:
        """The cost model: ``cost.evaluate(batch=...)`` answers for numbers and for numpy arrays, in closed form.

        Its load, where requests arrive over time, is as many requests in flight as serve the mean rate, with the mean
        lengths. Where the compiler chooses the requests in flight, they are those of one copy of the plan.
        """
        if self.spec.workload.chosen:
            from plandsl.backends.cost.answers.fleet import build_fleet

            return build_fleet(self)
        if self.spec.workload.traffic is None:
            from plandsl.backends.cost.deployments.build import build_deployment

            return build_deployment(self)
        from plandsl.backends.cost.answers.mean_load import build_cost

        return build_cost(self)

    @cached_property
    def plain(self) -> CompiledPlan:
        """The same plan without guesses: itself where it makes none."""
        return self if self.spec.speculate is None else CompiledPlan(evolve(self.spec, speculate=None), ())

    @cached_property
    def served(self) -> CompiledPlan:
        """The plan whose requests are served one by one: with the requests in flight that the compiler chose, if any.

        Where the plan says how many are in flight, or when they arrive, it is the plan itself.
        """
        if not self.spec.workload.chosen:
            return self
        from plandsl.backends.cost.answers.fleet import with_crowd

        spec = with_crowd(self.spec, self.cost.plan.workload.concurrency or 1)
        return CompiledPlan(evolve(spec, workload=evolve(spec.workload, chosen=False)), self.notes)

    @guarded
    def estimate(self) -> Estimate:
        """Everything the report says. Where requests arrive over time, some of them are served one by one."""
        found = self.closed_form()
        if found.start is not None:
            from plandsl.backends.cost.answers.start import add_knobs

            found = add_knobs(found, self.cost, self._recompiled)
        if not self.spec.workload.over_time:
            return found
        from plandsl.backends.cost.answers.short import add_simulation

        return add_simulation(self, self.cost, found)

    @guarded
    def evaluate(
        self,
        batch: Number | None = None,
        input: Number | None = None,
        output: Number | None = None,
        concurrency: Number | None = None,
        requests: Number | None = None,
    ) -> Metrics:
        """The metrics under other loads, in closed form: each argument a number or a numpy array; arrays broadcast.

        What is left out is as in the plan. Raises `PlanError` as `Deployment.evaluate` does (E445, E447).
        """
        from plandsl.backends.cost.deployments.deployment import LoadMetrics

        load = {"batch": batch, "input": input, "output": output, "concurrency": concurrency, "requests": requests}
        asked = {name: number for name, number in load.items() if number is not None}
        return LoadMetrics.of(self.cost.evaluate(**asked), asked)

    def _recompiled(self, path: str, value: str) -> Deployment | None:
        """The cost model of the same plan with another value at ``path``, None where that plan is wrong."""
        from plandsl.show import show_plan

        try:
            return compile_text(show_plan(self.spec), overrides=[(path, value)])[0].cost
        except PlanError:
            return None

    def closed_form(self) -> Estimate:
        """The estimate without a simulation: what `cost` says of the plan's load."""
        from plandsl.backends.cost import estimate

        return estimate(self.cost, self.said)._replace(about=About(self.spec))

    @cached_property
    def said(self) -> tuple[Diagnostic, ...]:
        """The notes of the plan, about narrow GEMMs that are slow, and about what stands for requests over time."""
        from plandsl.backends.cost.answers.slower_formats import slower_notes

        notes = (*self.notes, *slower_notes(self.cost))
        if self.spec.workload.demand is not None:
            from plandsl.backends.cost.answers.fleet import fleet_notes

            notes = (*notes, *fleet_notes(self.spec, self.cost))
        if self.spec.workload.traffic is None:
            return notes
        from plandsl.backends.cost.answers.mean_load import load_notes

        return (*notes, *load_notes(self.spec, self.cost))

    @guarded
    def explain(self) -> Explanation:
        """Where the plan's time and memory go, and what would change that."""
        from plandsl.backends.cost.answers.explain import explain

        found = explain(self.cost, self.said)
        return evolve(found, estimate=found.estimate._replace(about=About(self.spec)))

    @guarded
    def diff(self, other: CompiledPlan) -> Difference:
        """What ``other`` says that this plan does not, and what comes of it, term by term."""
        call = Arguments("diff", other=other)
        return difference(
            self, call.instance("other", CompiledPlan, "a compiled plan", hint="plandsl.compile makes one")
        )

    @guarded
    def compare(self, benches: BenchFiles, *, fit: str | None = None, tick: Tick | None = None) -> Comparison:
        """Runs of a benchmark beside what this plan predicts for their loads, and the cause of the largest gap.

        ``benches`` are result files of vLLM's, SGLang's, AIPerf's, GuideLLM's or InferenceX's benchmark. With ``fit``,
        an engine of that name is fitted to the runs (`Comparison.fitted`). ``tick`` hears how much is done. Raises
        `PlanError` where a file is wrong (E560 to E563), a run cannot be simulated (E565), or nothing can be fitted
        (E566).
        """
        from plandsl.backends.compare.compare import compare_runs, read_runs
        from plandsl.entries import catalog_has

        call = Arguments("compare", benches=benches, fit=fit)
        paths = [benches] if isinstance(benches, str | PathLike) else benches
        if not (isinstance(paths, list | tuple) and paths and all(isinstance(p, str | PathLike) for p in paths)):
            raise call.wrong("benches", "the path of a result file, or a list of them")
        if fit is not None and not (isinstance(fit, str) and fit.isascii() and fit.isidentifier()):
            raise call.wrong("fit", "the name of an engine: letters, digits and _")
        runs = read_runs([fspath(path) for path in paths])
        return compare_runs(self.served, runs, catalog_has, fit, tick or silent)

    @guarded
    def simulate(self, requests: int | None = None, tick: Tick | None = None, *, keep_steps: bool = True) -> Run:
        """Serve the requests of the workload one by one; ``requests`` replaces the number that the workload states.

        ``tick`` hears how many requests are served, of how many. Without ``keep_steps``, the steps of more than a
        million requests are not kept where servers leap: a request takes some 100 bytes then. Raises `PlanError` where
        no KV cache fits (E328), or a trace is wrong.
        """
        from plandsl.backends.cost.answers.simulation import simulate_plan
        from plandsl.backends.cost.answers.spent import with_spent

        _check_run("simulate", requests=requests, tick=tick)
        Arguments("simulate", keep_steps=keep_steps).instance("keep_steps", bool, "True or False")
        return with_spent(self.cost, simulate_plan(self.served, requests, tick, keep_steps=keep_steps))

    @guarded
    def simulate_seeds(self, number: int, requests: int | None = None, tick: Tick | None = None) -> OverSeeds:
        """Serve the load once for each of so many seeds, from its own on; ``requests`` are served each time.

        ``tick`` hears how many runs are done. Raises `PlanError` where the load draws nothing (E400), and as `simulate`
        does.
        """
        from plandsl.backends.cost.answers.seeds import seeds_of, serve_seed, tell_seeds

        _check_run("simulate_seeds", number=number, requests=requests, tick=tick)
        seeds, runs = seeds_of(self.spec, number), []
        for seed in seeds:
            runs.append(serve_seed(self, seed, requests))
            if tick is not None:
                tick(len(runs), number)
        return tell_seeds(self.spec, seeds, runs)

    @guarded
    def find_rate(self, requests: int | None = None, tick: Tick | None = None) -> FoundRate:
        """The largest rate of the load at which the plan is stable and meets its requirements.

        ``requests`` and ``tick`` as in `simulate`; a closed loop has a largest concurrency instead. Raises `PlanError`
        where there is nothing to find (E329), and as `simulate` does.
        """
        from plandsl.backends.cost.answers.find_rate import find_rate

        _check_run("find_rate", requests=requests, tick=tick)
        return find_rate(self, requests, tick)._replace(about=About(self.spec))

    @guarded
    def autoscale(self, every: float = 3600.0, requests: int | None = None, least: int = 1) -> Autoscale:
        """The fewest replicas in each interval of ``every`` seconds of the load, and what they cost.

        ``requests`` are served for each replica (1,000), and ``least`` replicas always run. Raises `PlanError` where
        the load has no rate (E330), and as `simulate` does.
        """
        from plandsl.backends.cost.answers.autoscale import autoscale

        call = Arguments("autoscale", every=every, requests=requests, least=least)
        call.number("every")
        call.whole("least", 0, limits.MAX_COUNT)
        _check_run("autoscale", requests=requests)
        return autoscale(self, every, requests, least)._replace(about=About(self.spec))

    @guarded
    def program(self, phase: str = "prefill", after: str = "place-memory") -> Program:
        """The program of a phase after a pass (`planc passes` names them)."""
        call = Arguments("program", phase=phase, after=after)
        call.word("phase", PHASES)
        call.word("after", (step.name for step in PIPELINE), code="E404")
        if self._pools:
            return self._pools[phase == "decode"].program(phase, after)
        return program_after(self._taken(phase) if self._modes else self.spec, phase, after)

    def _taken(self, phase: str) -> PlanSpec:
        """The plan with the one of two shardings that the steps of a phase take under the plan's load."""
        metrics = self.cost.evaluate()
        return (metrics.prefill if phase == "prefill" else metrics.decode).main.plan

    @guarded
    def draw(self, view: str = "devices", phase: str = "prefill") -> Picture:
        """The picture of a view as DOT text. Of two pools, most views show the phase's pool, some show both."""
        from plandsl.backends.graphviz import VIEWS, WHOLE, draw
        from plandsl.backends.graphviz.picture import Picture

        call = Arguments("draw", view=view, phase=phase)
        call.word("view", VIEWS, code="E432")
        call.word("phase", PHASES, code="E432")
        if self.spec.workload.encodes and phase == "decode":
            why = "nothing comes out of this load (`output = 0`), so there is no decode step to draw"
            raise PlanError([Diagnostic("E481", why, hint="draw prefill")])
        if self._pools and view not in WHOLE:
            pool = self._pools[phase == "decode"]
            return Picture(draw(view, pool.cost, pool.closed_form(), phase))
        return Picture(draw(view, self.cost, self.closed_form(), phase))

    def __repr__(self) -> str:
        return f"<CompiledPlan {self.name}: {self.spec.model.name} on {self.spec.machine}, {self.spec.ranks} GPUs>"

    def __rich__(self) -> Any:
        return self.estimate().__rich__()

    def _repr_html_(self) -> str:
        return self.estimate()._repr_html_()

    @guarded
    def flows(self) -> tuple[Flows, ...]:
        """Who sends how much to whom: in a prefill, in a decode step, and between two pools."""
        from plandsl.backends.cost.answers.flows import flows

        return flows(self.cost)

    @guarded
    def verify(self, steps: int = 3, seed: int = 0) -> Verdict:
        """Run the sharded program on small dimensions and compare it with the unsharded one."""
        from plandsl.backends.reference import verify_plan

        call = Arguments("verify", steps=steps, seed=seed)
        call.whole("steps", 0, limits.MAX_VERIFIED)
        call.whole("seed", 0)
        return verify_plan(self.spec, programs, plain_programs, steps=steps, seed=seed)

    @guarded
    def jax_program(self, *, shrink: bool = False, room: int = 0, exact: bool = False) -> str:
        """This plan as one Python program that needs jax and numpy: a function for each stage, with its collectives.

        With ``shrink``, on small dimensions; with ``exact``, all in float64. Its cache has room for the plan's output,
        and for ``room`` steps. Raises `PlanError` for formats that jax lacks (E516).
        """
        from plandsl.backends.jax import export

        title = f"{self.name}: {self.spec.model.name}, {self.spec.ranks} devices."
        plans = {part: plan.small if shrink else plan for part, plan in self.parts.items()}
        return export(title, [s for part, plan in plans.items() for s in plan.shardings(part)], room, exact=exact)

    @cached_property
    def small(self) -> CompiledPlan:
        """This plan on small dimensions. Raises `PlanError` (E440) if it has too many ranks to run."""
        from plandsl.backends.reference import shrink

        return CompiledPlan(shrink(self.spec), ())

    @property
    def parts(self) -> dict[str, CompiledPlan]:
        """The plans of the models that run: this plan (under an empty name), its `draft` and its `tower`."""
        beside = {"draft": self.draft, "tower": self.tower}
        return {"": self, **{name: plan for name, plan in beside.items() if plan is not None}}

    def shardings(self, part: str = "") -> list[Sharding]:
        """Every sharding of every pool, as its programs are exported, of the model that is ``part`` of a plan."""
        from plandsl.backends.jax import ONLY, Sharding

        found, first = [], 0
        for number, pool in enumerate(self.pools):
            for mode, name in zip(pool.modes, ("base", "tensor"), strict=False):
                words = [part] if part else []
                words += [("prefill_pool", "decode_pool")[number]] if self._pools else []
                words += [name] if len(pool.modes) > 1 else []
                both = mode.prefill.program, mode.decode.program
                found.append(Sharding("_".join(words) or ONLY, mode.spec, *both, first, part))
            first += pool.spec.ranks
        return found

    @guarded
    def run(self, steps: int = 3, seed: int = 0) -> Verdict:
        """Run the small program in JAX, on devices of the host, and compare it with the unsharded reference.

        Every pair of shardings runs: one prefills, and the other decodes on its cache. A draft and a tower run by
        themselves too. An encoder has a prefill alone.
        """
        call = Arguments("run", steps=steps, seed=seed)
        call.whole("steps", 0, limits.MAX_VERIFIED)
        call.whole("seed", 0)
        text = self.jax_program(shrink=True, room=steps, exact=True)
        found = [_run_part(text, part, plan.small, steps, seed) for part, plan in self.parts.items()]
        return next((v for v in found if not v.ok), max(found, key=lambda v: v.worst))


def _run_part(text: str, part: str, small: CompiledPlan, steps: int, seed: int) -> Verdict:
    """Run the model that is ``part`` of the program ``text`` in each pair of its shardings, beside the reference."""
    from plandsl.backends.jax import run_pairs
    from plandsl.backends.reference import expected, judge

    own = small.shardings(part)
    pairs = [(a.name, b.name) for a in own for b in own if a.first <= b.first]
    steps = 0 if small.spec.workload.encodes else steps
    known = expected(small.spec, plain_programs(evolve(small.spec, speculate=None)), steps, seed)
    found = run_pairs(text, known.weights, known.ids, pairs, small.spec.ranks)
    runs = {a if a == b else f"{a}, then {b}": logits for (a, b), logits in zip(pairs, found, strict=True)}
    return judge(runs, known, small.spec.ranks)


def _check_run(name: str, **given: Any) -> None:
    """Raise `PlanError` (E445) for numbers of requests or seeds that cannot be served, and for what hears nothing."""
    call = Arguments(name, **given)
    for argument, most in (("number", limits.MAX_SEEDS), ("requests", limits.MAX_REQUESTS)):
        if argument == "number" in given or given.get(argument) is not None:
            call.whole(argument, 1, most)
    if (tick := given.get("tick")) is not None and not callable(tick):
        raise call.wrong("tick", "a function that takes two numbers: how many are done, of how many")


def balanced(spec: PlanSpec, cut: CutSpec) -> tuple[PlanSpec, Diagnostic]:
    """``spec`` with its layers cut so that the slowest stage is as quick as can be, and a note that tells the cut.

    One cut serves both phases, since weights stay where they are. It makes the following sum least: the seconds of the
    slowest stage in prefill, and ``output`` times the seconds of the slowest stage in decode. Of requests
    over time, the mean lengths count.
    """
    from plandsl.backends.cost.deployments.stages import StageCosts
    from plandsl.passes.balance import balance
    from plandsl.passes.cut_stages import split_layers
    from plandsl.spec.earlier import group_starts

    model, output = spec.model, spec.workload.output
    uncut, mean = evolve(spec.sharding, cut=None), evolve(spec.workload, traffic=None)
    costs = StageCosts(CompiledPlan(evolve(spec, sharding=uncut, workload=mean, requires=()), ()).cost)
    starts = group_starts(model)
    at = [*starts, model.layers]
    groups = balance(
        len(starts),
        costs.stages,
        lambda stage, start, stop: costs.seconds(stage, at[start], at[stop]),
        lambda stage, start, stop: costs.fits(stage, at[start], at[stop]),
    )
    ends = [at[n] for n in accumulate(groups, initial=0)]
    layers = tuple(b - a for a, b in pairwise(ends))
    even = tuple(b - a for a, b in split_layers(model.layers, costs.stages, starts))
    ours, theirs = costs.slowest(layers), costs.slowest(even)
    why = f"cut {', '.join(map(str, layers))}: slowest stage {show_time(ours)} for a prefill and {output} decode steps"
    why += f", {show_percent(1 - ours / theirs)} less than even" if ours < theirs else ""
    sharding = evolve(spec.sharding, cut=cut._replace(layers=layers))
    return evolve(spec, sharding=sharding), Diagnostic("N313", why, cut.span)


def simulate(
    plans: Sequence[CompiledPlan],
    requests: int | None = None,
    tick: Tick = silent,
    *,
    keep_steps: bool = True,
) -> list[Run]:
    """`CompiledPlan.simulate` of several plans.

    What is drawn depends on the workload and its seed alone: plans with one workload serve the same requests, so that
    they differ by the plan and not by chance. ``tick`` hears how many requests are served, of how many of all plans.
    """
    ticks = (count_parts(tick, at, len(plans)) for at in range(len(plans)))
    return [plan.simulate(requests, one, keep_steps=keep_steps) for plan, one in zip(plans, ticks, strict=True)]


def find_unserved(plans: Sequence[CompiledPlan]) -> dict[str, Diagnostic]:
    """Plans on which no request can be served, with the reason (E328)."""
    from plandsl.backends.cost.answers.simulation import find_no_room

    found = {plan.name: find_no_room(plan) for plan in plans}
    return {name: why for name, why in found.items() if why is not None}


def difference(a: CompiledPlan, b: CompiledPlan) -> Difference:
    """What ``b`` says that ``a`` does not, and what comes of it, term by term."""
    from plandsl.backends.cost.answers.differ import difference
    from plandsl.fields import changes

    return evolve(difference(a.cost, b.cost), changes=changes(a.spec, b.spec))


def compare_communication(plans: Sequence[CompiledPlan], names: Sequence[str] = ()) -> list[Compared]:
    """What each plan sends, by phase and axis, under ``names`` or its own name."""
    from plandsl.answers.communication import Compared

    out = []
    for name, plan in zip(names or [plan.name for plan in plans], plans, strict=True):
        e = plan.closed_form()
        meshes = (e.mesh,) if e.pools is None else (e.pools.prefill.estimate.mesh, e.pools.decode.estimate.mesh)
        out.append(Compared(name, meshes, e.gpus, ttft_s=e.ttft_s, tpot_s=e.tpot_s, sent=e.communication))
    return out


def programs(plan: PlanSpec) -> tuple[Program, Program]:
    """Prefill and decode of ``plan``, final form."""
    return compile_phase(plan, "prefill").program, compile_phase(plan, "decode").program


def plain_programs(plan: PlanSpec) -> tuple[Program, Program]:
    """Prefill and decode of ``plan`` as written, unsharded and on one device."""
    return program_after(plan, "prefill", "build"), program_after(plan, "decode", "build")


def open_text(text: str, file: str = "<text>", overrides: Overrides = (), *, reads_files: bool = True) -> Module:
    """Parse a plan that is in memory; ``use`` is resolved against the folder of ``file``.

    Without ``reads_files``, whatever names a file gives a finding (E597).
    """
    return load(text, file, overrides=set_pairs(overrides), reads_files=reads_files)


def open_file(path: str | Path, overrides: Overrides = ()) -> Module:
    """Parse a plan file."""
    return load(None, str(path), overrides=set_pairs(overrides))


def check_plan(module: Module, name: str) -> tuple[PlanSpec | None, list[Diagnostic]]:
    """A plan of ``module``, None if it is wrong, and the findings about its sharding and its tables of measurements."""
    spec = module.plan(name)
    if spec is None:
        return None, []
    return spec, check_spec(spec)


def check_spec(spec: PlanSpec) -> list[Diagnostic]:
    """Findings about a plan before it is compiled: about its sharding, and about its tables of measurements."""
    found = [d for mode in spec.modes for d in legality(mode)]
    for pool in spec.pools:
        if pool.shift is not None:
            from plandsl.passes.shift import check_cut

            found += check_cut(pool.sharding, pool.shift)
    return [*found, *(d for pool in spec.pools for d in _tables(pool)), *_traces(spec)]


def _traces(spec: PlanSpec) -> list[Diagnostic]:
    """What is wrong with the files that the load of a plan names."""
    if spec.workload.traffic is None:
        return []
    from plandsl.traces import findings

    return findings(spec.workload)


def _tables(spec: PlanSpec) -> list[Diagnostic]:
    kinds = [kind for kind in spec.kinds if kind.measured or kind.node.gpu.measured]
    if not kinds:
        return []
    from plandsl.backends.cost.machine.tables import findings

    return _unique([found for kind in kinds for found in findings(kind)])


def compile_module(module: Module, plan: str | Sequence[str] | None = None, tick: Tick = silent) -> list[CompiledPlan]:
    """Compile one plan of ``module``, several of them, or all. Raises `PlanError` with everything that is wrong.

    ``tick`` hears how many plans are done, of how many.
    """
    names = module.plans if plan is None else [plan] if isinstance(plan, str) else list(dict.fromkeys(plan))
    if len(names) > limits.MAX_PLANS:
        why = f"{module.path} has {len(names)} plans, and at most {limits.MAX_PLANS} are compiled at once"
        hint = limits.MAX_PLANS.hint("pick one with --plan NAME", len(names))
        raise PlanError([Diagnostic("E408", why, module.end, hint=hint)], module.sources)
    found = [(name, *check_plan(module, name)) for name in names]
    if plan is None:
        module.check()
    problems = [*module.diagnostics, *(d for _, _, ds in found for d in ds)]
    errors = [d for d in problems if d.severity == "error"]
    if not errors and not names:
        searches = ", ".join(f"`{name}`" for name in module.searches[:3])
        hint = f"it has the search {searches}: `planc search {module.path}` finds its plans" if searches else NO_PLAN
        errors = [Diagnostic("E401", f"{module.path} has no plan to compile", module.end, hint=hint)]
    if errors:
        raise PlanError(_unique([d for d in problems if d.severity != "note"] or errors), module.sources)
    warnings = [d for d in module.diagnostics if d.severity != "error"]
    compiled = []
    for _, spec, notes in found:
        assert spec is not None, "a plan without errors has a meaning"
        one = CompiledPlan(spec, notes)
        one.sources = module.sources
        if bad := [d for d in one.findings if d.severity == "error"]:
            raise PlanError(bad, module.sources)
        said = _unique([*warnings, *notes, *one.findings])
        one.notes = tuple(said if len(spec.modes) == 1 else _said_once(said))
        compiled.append(one)
        tick(len(compiled), len(found))
    return compiled


NO_PLAN = "add `plan NAME { model = ..., node = ..., sharding { tp = 8 }, workload { input = ..., output = ... } }`"


def _unique(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    return list(dict.fromkeys(diagnostics))


def _said_once(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """Each finding once: where two shardings cause the same one, the finding about the first sharding stays."""
    return list({(d.code, d.message): d for d in reversed(diagnostics)}.values())[::-1]


def check_module(module: Module, plan: str | None = None) -> list[Diagnostic]:
    """All findings about a module. Its plans are compiled too, unless one is wrong already."""
    names = module.plans if plan is None else [plan]
    found = [d for name in names for d in check_plan(module, name)[1]]
    if plan is None:
        module.check()
    diagnostics = _unique([*module.diagnostics, *found])
    if not any(d.severity == "error" for d in diagnostics) and names:
        try:
            diagnostics += [d for one in compile_module(module, plan) for d in one.notes]
        except PlanError as error:
            diagnostics += error.diagnostics
    return _unique(diagnostics)


def compile_file(path: str | Path, plan: str | None = None, overrides: Overrides = ()) -> list[CompiledPlan]:
    """Compile every plan of a file (or one by name). Raises `PlanError` on wrong input."""
    return compile_module(open_file(path, overrides), plan)


def compile_text(
    text: str, file: str = "<text>", plan: str | None = None, overrides: Overrides = ()
) -> list[CompiledPlan]:
    """Compile every plan of a text (or one by name). Raises `PlanError` on wrong input."""
    return compile_module(open_text(text, file, overrides), plan)


def compile_cost(text: str) -> Deployment:
    """The cost model of the only plan of a text. Raises `PlanError` on wrong input."""
    return compile_text(text)[0].cost


def pass_lines() -> list[tuple[str, str, str]]:
    """Name, first line and reason for its place, of every pass in order."""
    return [(step.name, step.line, step.why) for step in PIPELINE]
