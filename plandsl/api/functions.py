"""The functions of `plandsl`: each takes a plan in any form, and returns a typed answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from plandsl.api.plans import Plan, Search
from plandsl.api.searching import SearchAnswer, run_search
from plandsl.api.sources import Plans, Source, compile_each, compile_source, each_source, open_source
from plandsl.arguments import Arguments, Overrides, guarded
from plandsl.diagnostics import Diagnostic
from plandsl.driver import BenchFiles, CompiledPlan, check_module
from plandsl.driver import simulate as simulate_each
from plandsl.ir.types import Number
from plandsl.progress import Tick, silent

if TYPE_CHECKING:
    from plandsl.answers.comparison import Comparison
    from plandsl.answers.difference import Difference
    from plandsl.answers.estimate import Estimate
    from plandsl.answers.explanation import Explanation
    from plandsl.backends.cost.answers.simulation import Run
    from plandsl.backends.cost.deployments.deployment import Metrics
    from plandsl.backends.graphviz.picture import Picture
    from plandsl.backends.reference import Verdict


@guarded
def compile(
    source: Source, plan: str | None = None, overrides: Overrides | None = None, *, file: str = ""
) -> CompiledPlan:
    """Compile a plan: a `Plan`, the path of a file, or a text. ``plan`` names one of several plans.

    ``overrides`` sets fields: ``{"workload.batch": 8, "sharding": {"tp": 4}}``. A text has no folder in which to find
    the files that it names, unless ``file`` says where it is. Raises `PlanError` with everything that is wrong.
    """
    return compile_source("compile", source, plan, overrides, file)


@guarded
def compile_all(
    source: Source | Sequence[Plan | CompiledPlan], overrides: Overrides | None = None, *, file: str = ""
) -> Plans:
    """Compile every plan of a file or a text, or of a list. Raises `PlanError` with everything that is wrong."""
    return compile_each(source, overrides, file)


@guarded
def check(source: Source | Search, overrides: Overrides | None = None, *, file: str = "") -> list[Diagnostic]:
    """All findings about a file, a text or a plan: errors, warnings and notes. Nothing is raised for them."""
    return check_module(open_source("check", source, overrides, file))


@guarded
def estimate(source: Source, plan: str | None = None, overrides: Overrides | None = None) -> Estimate:
    """Everything that the report of a plan says (arguments as for `compile`)."""
    return compile_source("estimate", source, plan, overrides).estimate()


@guarded
def evaluate(
    source: Source,
    plan: str | None = None,
    overrides: Overrides | None = None,
    *,
    batch: Number | None = None,
    input: Number | None = None,
    output: Number | None = None,
    concurrency: Number | None = None,
    requests: Number | None = None,
) -> Metrics:
    """The metrics of a plan under other loads, each a number or a numpy array (as `CompiledPlan.evaluate`)."""
    made = compile_source("evaluate", source, plan, overrides)
    return made.evaluate(batch, input, output, concurrency, requests)


@guarded
def explain(source: Source, plan: str | None = None, overrides: Overrides | None = None) -> Explanation:
    """Where the time and memory of a plan go, and what would change that."""
    return compile_source("explain", source, plan, overrides).explain()


@guarded
def compare(
    source: Source, benches: BenchFiles, plan: str | None = None, overrides: Overrides | None = None, *,
    fit: str | None = None, tick: Tick | None = None,
) -> Comparison:  # fmt: skip
    """Results of benchmarks beside the predictions of a plan, and the cause of the largest gap.

    ``benches`` are result files of vLLM's, SGLang's, AIPerf's, GuideLLM's or InferenceX's benchmark. With ``fit``, an
    engine of that name is fitted to the runs. ``tick`` hears how much is done.
    """
    return compile_source("compare", source, plan, overrides).compare(benches, fit=fit, tick=tick)


@guarded
def diff(a: Source, b: Source, overrides: Overrides | None = None) -> Difference:
    """What ``b`` says that ``a`` does not, and what comes of it, term by term. ``overrides`` are laid on both."""
    first = compile_source("diff", a, None, overrides, argument="a")
    return first.diff(compile_source("diff", b, None, overrides, argument="b"))


@guarded
def verify(
    source: Source, plan: str | None = None, overrides: Overrides | None = None, *, steps: int = 3, seed: int = 0
) -> Verdict:
    """Run a plan's sharded program on small dimensions against the unsharded one."""
    return compile_source("verify", source, plan, overrides).verify(steps, seed)


@guarded
def run(
    source: Source, plan: str | None = None, overrides: Overrides | None = None, *, steps: int = 3, seed: int = 0
) -> Verdict:
    """Run a plan as a program in JAX, on small dimensions and devices of the host, against the unsharded program.

    Raises `PlanError` where jax is not installed (E517), and as `CompiledPlan.run` does.
    """
    return compile_source("run", source, plan, overrides).run(steps, seed)


@guarded
def draw(
    source: Source, view: str = "devices", phase: str = "prefill", *, plan: str | None = None,
    overrides: Overrides | None = None,
) -> Picture:  # fmt: skip
    """A picture of a plan, which notebooks show, and ``save`` writes as SVG, PNG, PDF or DOT."""
    return compile_source("draw", source, plan, overrides).draw(view, phase)


@overload
def simulate(
    source: Source, requests: int | None = None, tick: Tick | None = None, *, plan: str | None = None,
    overrides: Overrides | None = None, keep_steps: bool = True,
) -> Run: ...  # fmt: skip
@overload
def simulate(
    source: Sequence[Plan | CompiledPlan], requests: int | None = None, tick: Tick | None = None, *,
    plan: str | None = None, overrides: Overrides | None = None, keep_steps: bool = True,
) -> list[Run]: ...  # fmt: skip
@guarded
def simulate(
    source: Any, requests: int | None = None, tick: Tick | None = None, *, plan: str | None = None,
    overrides: Overrides | None = None, keep_steps: bool = True,
) -> Run | list[Run]:  # fmt: skip
    """Serve the requests of a plan's load one by one; of several plans, those with one load serve the same requests.

    ``requests`` replaces the number that the load states; ``tick`` hears how many are served, of how many.
    """
    if isinstance(source, list | tuple):
        plans = list(each_source("simulate", source, overrides))
        return simulate_each(plans, requests, tick or silent, keep_steps=keep_steps)
    made = compile_source("simulate", source, plan, overrides)
    return made.simulate(requests, tick, keep_steps=keep_steps)


@guarded
def search(
    source: Source | Search, name: str | None = None, overrides: Overrides | None = None, *, top: int = 10,
    simulate: int | None = None, requests: int | None = None, scheduler: str | None = None, tick: Tick | None = None,
) -> SearchAnswer:  # fmt: skip
    """Run a search: a `Search`, or a file or text with one, or with the one called ``name``.

    A plan is searched over its degrees and batches. The answer has the ``top`` best and the front. Of a search over
    requests, ``simulate`` candidates are simulated, with ``requests`` requests each. ``scheduler`` is the address of a
    Dask cluster; ``tick`` hears how many configurations are done, of how many.
    """
    call = Arguments("search", source=source, name=name, top=top, simulate=simulate, requests=requests, tick=tick)
    if name is not None:
        call.text("name")
    if scheduler is not None:
        Arguments("search", scheduler=scheduler).text("scheduler")
    if isinstance(source, CompiledPlan):
        source = Plan.of(source)
    if isinstance(source, Plan):
        source, name = Search(plan=source), None
    module = open_source("search", source, overrides)
    if isinstance(source, Search):
        name = source.name
    return run_search(call, module, name, scheduler, tick)
