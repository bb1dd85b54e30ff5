"""A model as `.plan` text; `plandsl.show` writes the rest of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from plandsl.show_words import declaration, nested, show_flag, show_number
from plandsl.spec.model import (
    ADAPTERS,
    AMONG,
    LORA_RANK,
    Apply,
    BlockSpec,
    LoraSpec,
    ModelSpec,
    Statement,
    Term,
    Var,
    Weight,
)

_OPERATORS = {"matmul": "@", "add": "+", "sub": "-", "mul": "*"}


def show_model(model: ModelSpec) -> str:
    """A model as text."""
    return declaration("model", model.name, _model_lines(model))


def _model_lines(model: ModelSpec) -> list[str]:
    lines = [f"layers = {model.layers}", *(f"{name} = {size}" for name, size in _dimensions(model))]
    if model.max_context is not None:
        lines.append(f"max_context = {model.max_context}")
    lines += [
        f"weights = {model.weights}",
        f"activations = {model.activations}",
        f"kv_cache = {model.kv_cache}",
    ]
    if model.state_cache:
        lines.append(f"state_cache = {model.state_cache}")
    if model.index_cache:
        lines.append(f"index_cache = {model.index_cache}")
    if model.compute is not None:
        lines.append(f"compute = {model.compute}")
    if not model.causal:
        lines.append("causal = false")
    lines += nested([(f"stored.{path}", word) for path, word in model.stored])
    if model.lora is not None:
        held = f"adapters = {model.size(ADAPTERS)}, rank = {model.size(LORA_RANK)}"
        targets = f"targets = [{', '.join(model.lora.targets)}], active = {model.lora.active}"
        lines.append(f"lora {{ {', '.join((held, targets, *_behind(model.lora)))} }}")
    if model.tower is not None:
        lines += ["tower {", *(f"  {line}" for line in _model_lines(model.tower)), "}"]
    lines += _embedding(model)
    for block in model.blocks:
        lines += _block(block, model)
    if model.mtp is not None:
        lines += _mtp(model.mtp, model)
    lines.append(f"head {show_term(model.head)}")
    return lines


def _embedding(model: ModelSpec) -> Iterator[str]:
    entry = show_term(model.entry or model.embedding)
    if not model.prelude:
        yield f"embedding {entry}"
        return
    first, *others = model.prelude
    yield f"embedding {first.target} = {show_term(first.term)} {{"
    yield from (f"  {s.target} = {show_term(s.term)}" for s in others)
    yield f"  {entry}"
    yield "}"


def _behind(lora: LoraSpec) -> Iterator[str]:
    """Where adapters are that are on no GPU."""
    if lora.host_bandwidth is not None:
        yield f"host_bandwidth = {show_number(lora.host_bandwidth)} B/s"
    if lora.load_time:
        yield f"load_time = {show_number(lora.load_time)} s"
    if lora.host_adapters is not None:
        yield f"host_adapters = {lora.host_adapters}"
    if lora.disk_bandwidth is not None:
        yield f"disk_bandwidth = {show_number(lora.disk_bandwidth)} B/s"


def _dimensions(model: ModelSpec) -> Iterator[tuple[str, int]]:
    """The dimensions that the model declares; those of adapters follow from `lora`."""
    hidden = (ADAPTERS, LORA_RANK) if model.lora is not None else ()
    return ((name, size) for name, size in model.sizes if name not in hidden)


def _block(block: BlockSpec, model: ModelSpec) -> Iterator[str]:
    split = ""
    if len(model.blocks) > 1 or block.name != "block":
        first, last = block.layers
        uneven = len(block.every.at) > 1
        if uneven and sum(len(other.every.at) > 1 for other in model.blocks) > 1:
            split = f" {block.name} [layers = [{', '.join(map(str, block.every.select(block.layers)))}]]"
        else:  # one uneven block can do without `layers`: it covers all that no other block names
            split = f" {block.name}" + ("" if uneven else f" [layers = {first}..{last}{block.every}]")
    yield f"block{split} {block.arg}[{', '.join(('tokens', *model.stream))}] {{"
    for statement in block.statements:
        yield f"  {statement.target} = {show_term(statement.term)}"
    yield "}"


def _mtp(mtp: BlockSpec, model: ModelSpec) -> Iterator[str]:
    dims = ", ".join(("tokens", *model.stream))
    yield f"mtp {mtp.arg}[{dims}] with {mtp.token}[{dims}] {{"
    for statement in mtp.statements:
        yield f"  {statement.target} = {show_term(statement.term)}"
    yield "}"


def show_term(term: Term) -> str:
    """A term in the block language."""
    match term:
        case Var():
            return term.name
        case Weight():
            return f"{term.name}[{', '.join(term.dims)}]"
        case Apply() if term.fn in _OPERATORS:
            return f" {_OPERATORS[term.fn]} ".join(_operand(a) for a in term.args)
        case Apply(fn="scale"):
            return f"{_operand(term.args[0])} * {show_number(float(term.option('by', 1.0)))}"
        case Apply(fn="earlier"):
            return f"earlier.{term.option('name', '')}"
        case Apply(fn="plus"):
            return f"{_operand(term.args[0])} + {show_number(float(term.option('by', 0.0)))}"
        case Apply(fn="recurrence"):
            return f"recurrence({', '.join(_recurrence_arguments(term))})"
        case Apply(fn="attention") if term.option(AMONG, False):
            *args, among = map(show_term, term.args)
            options = (f"{name} = {_option(value)}" for name, value in term.options if name != AMONG)
            return f"attention({', '.join([*args, *options, f'{AMONG} = {among}'])})"
        case Apply():
            options = (f"{name} = {_option(value)}" for name, value in term.options)
            call = f"{term.fn}({', '.join([*map(show_term, term.args), *options])})"
            return f"{call} {{ {', '.join(map(_expert_statement, term.body))} }}" if term.body else call
        case _:
            assert_never(term)


def _recurrence_arguments(term: Apply) -> Iterator[str]:
    """The arguments of a `recurrence`: three tensors, those that the option ``named`` names, and the other options."""
    names = str(term.option("named", "")).split()
    yield from map(show_term, term.args[:3])
    yield from (f"{name} = {show_term(arg)}" for name, arg in zip(names, term.args[3:], strict=True))
    yield from (f"{name} = {_option(value)}" for name, value in term.options if name != "named")


def _expert_statement(statement: Statement) -> str:
    """A statement in the block of `experts`; weights lose the dimension of the experts."""
    text = show_term(_drop_expert_dim(statement.term))
    return f"{statement.target} = {text}" if statement.target else text


def _drop_expert_dim(term: Term) -> Term:
    match term:
        case Weight():
            return term._replace(dims=term.dims[1:])
        case Apply():
            return term._replace(args=tuple(map(_drop_expert_dim, term.args)))
        case Var():
            return term
        case _:
            assert_never(term)


def _operand(term: Term) -> str:
    text = show_term(term)
    return f"({text})" if isinstance(term, Apply) and term.fn in (*_OPERATORS, "scale", "plus") else text


def _option(value: float | str) -> str:
    return show_flag(value) if isinstance(value, bool) else value if isinstance(value, str) else show_number(value)
