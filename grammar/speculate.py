"""Reads speculative decoding: `speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 80 % }`.

Loaded by the first plan that has one.
"""

from __future__ import annotations

from functools import partial

from attrs import evolve

from plandsl import limits
from plandsl.diagnostics import Label, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import Value
from plandsl.grammar.models import model_spec
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.sharding import EVERY_MODEL, SUGAR
from plandsl.grammar.shift import sharding_under
from plandsl.grammar.values import expect, span_of
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import RuleSpec, ShardingSpec, SpeculateSpec
from plandsl.units import NUMBER, Quantity

SPECULATE = ("draft", "tokens", "acceptance", "sharding")
NOBODY, OWN = "none", "mtp"
"""Values of `draft` that are not models: guesses are looked up in earlier tokens, at no cost; and the model's `mtp`."""


def speculate_spec(plan: Reader, model: ModelSpec | None, plan_sharding: ShardingSpec | None) -> SpeculateSpec | None:
    """The speculative decoding of a plan, on the GPUs of ``plan_sharding``."""
    section = plan.section("speculate")
    if section is None:
        return None
    reader = Reader(plan.context, section, SPECULATE)
    acceptance = _acceptance(reader)
    draft = reader.read("draft", partial(_draft, reader, model))
    sharding = None
    layer = reader.layer("sharding")
    if draft is not None and model is not None:
        reader.attempt(partial(_check_vocabulary, reader, draft, model))
        sharding = (
            sharding_under(reader, "sharding", plan.record, draft) if layer else drop_stages(plan_sharding, draft)
        )
    elif layer and reader.ok and model is not None:
        hint = f"leave it out, or name a draft model: `draft = {model.name}`"
        reader.fail(Wrong("E225", "`sharding` needs a draft model", layer.name.span, hint=hint))
    if sharding is not None and plan_sharding is not None and sharding.name == plan_sharding.name:
        sharding = evolve(sharding, name=f"{plan_sharding.name}_draft")
    plan.ok &= reader.ok
    if not reader.ok or acceptance is None:
        return None
    own = draft is not None and model is not None and draft == model.predictor
    return SpeculateSpec(acceptance, draft, sharding, own, section.span)


# ---- acceptance


def _acceptance(reader: Reader) -> tuple[float, ...] | None:
    """The acceptance of each guess: the same for all ``tokens``, or a list."""
    tokens = reader.whole("tokens", most=limits.MAX_DRAFTED)
    found = reader.read("acceptance", partial(_chances, reader), "acceptance = 80 %")
    if found is None or (tokens is None and "tokens" in reader.record.fields):
        return None
    chances, listed = found
    if not listed and tokens is None:
        reader.report_missing("tokens", "tokens = 3")
        return None
    if not listed:
        return chances * (tokens or 1)
    if tokens is not None and tokens != len(chances):
        reader.fail(_wrong_count(reader, tokens, len(chances)))
        return None
    return chances


def _chances(reader: Reader, layer: Layer) -> tuple[tuple[float, ...], bool]:
    """The values of ``acceptance``, and whether it is a list."""
    value = reader.value(layer)
    if isinstance(value, Quantity | bool | str):
        return (_chance(value, layer),), False
    if not 1 <= len(value) <= limits.MAX_DRAFTED:
        hint = "`acceptance = [85 %, 70 %, 55 %]`"
        why = f"`acceptance` must be a list of 1 to {limits.MAX_DRAFTED} shares"
        raise Wrong("E224", why, span_of(layer), hint=limits.MAX_DRAFTED.hint(hint, len(value)))
    return tuple(_chance(item, layer) for item in value), True


def _chance(value: Value, layer: Layer) -> float:
    chance = float(expect(value, NUMBER, layer).value)
    if not 0 <= chance <= 1:
        message = f"`acceptance` must be from 0 to 100 %, found {100 * chance:g} %"
        raise Wrong("E224", message, span_of(layer), hint="`acceptance = 80 %`")
    return chance


def _wrong_count(reader: Reader, tokens: int, rates: int) -> Wrong:
    listed, counted = reader.record.fields["acceptance"][-1], reader.record.fields["tokens"][-1]
    labels = (Label(span_of(counted), f"{tokens} tokens"),)
    message = f"`acceptance` has {rates} shares for {tokens} guessed token{'s' * (tokens > 1)}"
    hint = "give one share for each token, or one share for all; a list needs no `tokens`"
    return Wrong("E224", message, span_of(listed), labels=labels, hint=hint)


# ---- the draft


def _draft(reader: Reader, model: ModelSpec | None, layer: Layer) -> ModelSpec | None:
    """The draft model; None if guesses are looked up."""
    word = layer.value.name if isinstance(layer.value, s.Ref) else ""
    if word == NOBODY or (word == OWN and model is None):
        return None
    if word == OWN and model is not None:
        if model.predictor is None:
            hint = (
                "declare one beside its blocks, `mtp x[tokens, hidden] with e[tokens, hidden] { ... }`, or name a model"
            )
            raise Wrong("E225", f"model `{model.name}` has no `mtp`", span_of(layer), hint=hint)
        return model.predictor
    record = reader.context.records.section(reader.record, "draft", "model")
    if record is None or record.kind != "model":
        hint = "`draft = llama_3_2_1b`, or `draft = none` if guesses are looked up"
        raise Wrong("E210", "`draft` must name a model", span_of(layer), hint=hint)
    spec = reader.context.make(model_spec, record)
    reader.ok &= spec is not None
    return spec


def _check_vocabulary(reader: Reader, draft: ModelSpec, model: ModelSpec) -> None:
    ours, theirs = (m.size(m.embedding.dims[0]) for m in (model, draft))
    if ours != theirs:
        why = f"the draft `{draft.name}` has a vocabulary of {theirs:,} tokens, but `{model.name}` has {ours:,}"
        hint = "choose a draft with the vocabulary of the model, such as a smaller model of its family"
        raise Wrong("E225", why, _value_span(reader, "draft"), hint=hint)


def _value_span(reader: Reader, name: str) -> Span:
    return span_of(reader.record.fields[name][-1])


def drop_stages(plan_sharding: ShardingSpec | None, draft: ModelSpec) -> ShardingSpec | None:
    """The sharding of a draft or a tower, derived from the sharding of the plan.

    Every stage and every replica runs the whole of it. Rules lose the dimensions that the draft lacks. Rules of a
    degree regain dimensions that `fit` removed because the model of the plan lacks them.
    """
    if plan_sharding is None:
        return None
    stages = {a for rule in plan_sharding.rules if "layers" in rule.dims for a in rule.axes}
    rules = (_keep_known_dims(rule, draft) for rule in plan_sharding.rules if "layers" not in rule.dims)
    axes = tuple(a for a in plan_sharding.axes if a.name not in stages and a.name not in plan_sharding.replica_axes)
    placed = tuple(p for p in plan_sharding.placed if p.axis in {a.name for a in axes})
    return evolve(
        plan_sharding, axes=axes, rules=tuple(r for r in rules if r.dims), replica_axes=(), placed=placed, cut=None
    )


def _keep_known_dims(rule: RuleSpec, draft: ModelSpec) -> RuleSpec:
    """A rule without the dimensions that ``draft`` lacks."""
    meant = (dims for region, dims, _ in SUGAR[rule.sugar].rules if region == rule.region) if rule.sugar else ()
    dims = next((dims for dims in meant if set(rule.dims) <= set(dims)), rule.dims)
    have = {*EVERY_MODEL, *(name for name, _ in draft.sizes)}
    return rule._replace(dims=tuple(dim for dim in dims if dim in have))
