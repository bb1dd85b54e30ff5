"""Reads the tower of a model, which encodes images: `tower { ... }`, the images of a load, and where the tower runs.

Loaded by the first model that has one.
"""

from __future__ import annotations

import math
from functools import partial

from attrs import evolve

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.draws import Kind, read_distribution
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.shift import sharding_under
from plandsl.grammar.speculate import drop_stages
from plandsl.grammar.values import expect, span_of
from plandsl.spec.adapter_mix import chances_of
from plandsl.spec.model import Apply, ModelSpec, Weight
from plandsl.spec.plan import ShardingSpec, WorkloadSpec
from plandsl.spec.traffic import Distribution, Empirical
from plandsl.units import NUMBER
from plandsl.values import sum_up

TOWER = ("sharding",)


def tower_spec(model: Reader, hidden: str | None, sizes: dict[str, int]) -> ModelSpec | None:
    """The tower of a model whose hidden states have the dimension ``hidden``."""
    from plandsl.grammar.models import model_spec

    record = model.attempt(lambda: model.context.records.section(model.record, "tower", "model"))
    if record is None:
        return None
    if record.kind != "model":
        record = record.copy_as("tower", record.span, record.unit)
        record.kind = "model"
    tower = model.context.make(model_spec, record)
    model.ok &= tower is not None
    if tower is not None and hidden is not None:
        model.attempt(partial(_check_tower, model, tower, sizes[hidden], hidden))
    return tower


def _check_tower(model: Reader, tower: ModelSpec, width: int, hidden: str) -> None:
    """Raise `Wrong` (E547) unless the tower turns patches into vectors of the model's width."""
    span = model.record.fields["tower"][-1].name.span
    if not tower.reads_patches:
        hint = "its embedding is a product such as `embedding patches @ w_patch[patch, hidden]`"
        raise Wrong("E547", f"the tower `{tower.name}` reads ids of tokens, and not patches of images", span, hint=hint)
    if tower.causal:
        why = f"the tower `{tower.name}` is causal, so only its last token would come out"
        raise Wrong("E547", why, span, hint="add `causal = false` to the tower")
    extra = next((w for w in ("tower", "mtp", "lora") if getattr(tower, w) is not None), None)
    if extra is not None:
        why = f"the tower `{tower.name}` has a `{extra}` of its own, which nothing runs"
        raise Wrong("E547", why, span, hint=f"leave `{extra}` out of the tower")
    last = _last_dim(tower)
    if last is None or tower.size(last) != width:
        gives = "one number for each token" if last is None else f"`{last}`, {tower.size(last):,}"
        why = f"the tower `{tower.name}` gives vectors of {gives}, but `{hidden}` of the model is {width:,}"
        hint = f"end its head with `@ w_out[..., out]`, where `out = {width}`"
        raise Wrong("E547", why, span, hint=hint)


def _last_dim(tower: ModelSpec) -> str | None:
    """The last dimension of what the head of a tower gives; None where it has none but tokens."""
    return _dims_of(tower, tower.head)[-1] if len(_dims_of(tower, tower.head)) > 1 else None


def _dims_of(model: ModelSpec, term: object) -> tuple[str, ...]:
    """The dimensions of a term of the head."""
    if isinstance(term, Weight):
        return term.dims
    if not isinstance(term, Apply):
        return ("tokens", *model.stream)
    first = _dims_of(model, term.args[0])
    if term.fn == "matmul":
        others = _dims_of(model, term.args[1])
        return tuple(d for d in (*first, *others) if not (d in first and d in others))
    if term.fn in ("merge", "concat"):
        return (*first[:-1], str(term.option("into", first[-1])))
    return first


# ---- a plan with a tower


IMAGES = Kind(NUMBER, 0, "images", True)


def images_of(reader: Reader) -> tuple[float, int, Distribution | None]:
    """Images of a request, on average, prompt tokens of each, and what the number is drawn from.

    0, 0 and None where a load has none.
    """
    tokens = reader.whole("image_tokens")
    found = reader.read("images", partial(_images, reader))
    if found is not None and tokens is None:
        reader.report_missing("image_tokens", "image_tokens = 256")
    if tokens is None:
        return 0.0, 0, None
    return (1.0, tokens, None) if found is None else (found[0], tokens, found[1])


def _images(reader: Reader, layer: Layer) -> tuple[float, Distribution | None]:
    """``images``: a mean, which need not be whole, or a distribution of whole numbers from 0."""
    drawn = read_distribution(reader, layer, IMAGES, used=False) if isinstance(layer.value, s.Call) else None
    if drawn is None:
        value = float(expect(reader.value(layer), NUMBER, layer).value)
    else:
        if isinstance(drawn, Empirical):
            why = "`images` of a file are not read: the closed form needs to know how many there are on average"
            raise Wrong(
                "E576", why, span_of(layer), hint="`images = uniform(0, 4)`, or another distribution of numbers"
            )
        value = mean_images(drawn, limits.MAX_IMAGES)
    if not 0 < value <= limits.MAX_IMAGES:
        why = f"`images` must be above 0 and at most {limits.MAX_IMAGES:,}, found {value:g}"
        hint = "`images = 2`; without images, leave `image_tokens` out too"
        if value > 0:
            hint = limits.MAX_IMAGES.hint(f"at most `images = {limits.MAX_IMAGES:d}`", math.ceil(value))
        raise Wrong("E546", why, span_of(layer), hint=hint)
    return value, drawn


def mean_images(drawn: Distribution, most: int) -> float:
    """The mean number of images of a prompt that holds at most ``most``."""
    chances = chances_of(drawn, 0, limits.MAX_IMAGES)
    assert chances is not None, "a file has no images"
    return sum_up(min(number, most) * chance for number, chance in chances.items())


def tower_sharding(
    plan: Reader, model: ModelSpec | None, own: ShardingSpec | None, workload: WorkloadSpec | None
) -> ShardingSpec | None:
    """The sharding of the tower: that of the plan's `tower`, else the plan's own, as far as it fits the tower."""
    section = plan.section("tower")
    tower = None if model is None else model.tower
    if model is not None and workload is not None:
        plan.attempt(partial(_check_images, plan, model, workload))
    if model is None or own is None:
        return None
    if tower is None:
        if section is not None:
            why = f"model `{model.name}` has no tower, so `tower` says nothing"
            plan.fail(Wrong("E545", why, section.span, hint="leave `tower` out, or choose a model that reads images"))
        return None
    found: ShardingSpec | None = drop_stages(own, tower)
    if section is not None:
        reader = Reader(plan.context, section, TOWER)
        found = sharding_under(reader, "sharding", plan.record, tower)
        plan.ok &= reader.ok
    if found is not None and found.name == own.name:
        found = evolve(found, name=f"{own.name}_tower")
    return found


def _check_images(plan: Reader, model: ModelSpec, load: WorkloadSpec) -> None:
    """Raise `Wrong` where a load has images that the model cannot read (E545), or that no prompt can hold (E546)."""
    if not load.images:
        return
    span = plan.record.fields["workload"][-1].name.span
    labels = (Label(load.span, "the load"),) if load.span else ()
    if model.tower is None:
        why = f"requests have images, but model `{model.name}` has no tower that reads them"
        hint = "leave `images` and `image_tokens` out, or choose a model with a `tower`"
        raise Wrong("E545", why, span, labels=labels, hint=hint)
    tokens = load.images * load.image_tokens
    if tokens > load.input:
        why = f"{load.images:g} images of {load.image_tokens:,} tokens are {tokens:,.0f}, of {load.input:,} of a prompt"
        hint = f"`input` counts the tokens of images too: at least {tokens:,.0f}".replace(",", "_")
        raise Wrong("E546", why, span, labels=labels, hint=hint)
    patches, table = load.image_tokens * model.tower.merged, model.tower.longest_position
    if table is not None and patches > table[0]:
        why = f"an image of {load.image_tokens:,} tokens has {patches:,} patches, but `{table[1]}` of the tower has "
        why += f"{table[0]:,} positions"
        hint = f"`image_tokens` of at most {table[0] // model.tower.merged}"
        raise Wrong("E546", why, span, labels=labels, hint=hint)
