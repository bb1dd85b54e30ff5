"""Notes where a load is too small for the ranks of a plan, or its engine was fitted on GPUs of another vendor."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.diagnostics import Diagnostic
from plandsl.spec.origins import vendor_of
from plandsl.spec.plan import PlanSpec
from plandsl.units import counted


def check_load(plan: PlanSpec, shards: int) -> Iterator[Diagnostic]:
    """A note (N468) where there are fewer requests than places for them; ``shards``: the parts of a batch."""
    load, replicas = plan.workload, plan.sharding.replicas
    if load.concurrency is not None:
        requests, places = load.concurrency, replicas * shards
        what = f"{replicas} replicas" if shards == 1 else f"{places} ranks that share requests"
    else:
        requests, places, what = load.batch, shards, f"{shards} ranks that share a batch"
    if load.concurrency is None and load.traffic is not None:  # how many there are at once, the simulation finds
        return
    if requests < places:
        some = f"{counted(requests, 'request')}{' in flight' if load.concurrency is not None else ''}"
        none = f"{places - requests} of them {'have' if places - requests > 1 else 'has'} none"
        hint = "more requests, or a smaller `dp`" if shards == 1 else "more requests, or fewer ranks on that axis"
        yield Diagnostic("N468", f"{some} for {what}: {none}", load.span or plan.span, hint=hint)


def check_engine(plan: PlanSpec) -> Iterator[Diagnostic]:
    """A note (N469) where all GPUs that the engine was fitted on are of other vendors than a GPU of the plan."""
    engine = plan.engine
    if engine is None or engine.bands is None or not engine.bands.gpus:
        return
    fitted = {vendor_of((name,)) for name in engine.bands.gpus}
    kinds = {kind.node.gpu.name: vendor_of((kind.node.gpu.name, *kind.node.gpu.bases)) for kind in plan.kinds}
    for name, vendor in kinds.items():
        if vendor and "" not in fitted and vendor not in fitted:
            known = " and ".join(sorted(fitted))
            why = f"engine `{engine.name}` was fitted on GPUs of {known} alone, and {name} is of {vendor}"
            hint = "its times there are a guess: `planc catalog engine` lists the others"
            yield Diagnostic("N469", why, plan.span, hint=hint)
            return
