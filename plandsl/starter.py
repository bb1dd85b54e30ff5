"""A first plan to change: what `planc init` writes."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl._version import LANGUAGE
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.grammar.fmt import format_text

MODEL, NODE = "llama_3_1_8b", "h100_2"
"""What a first plan has unless told otherwise: a model that one of the GPUs holds."""

TEXT = """plandsl = {version}  # the version of the language

# A first plan. Change what you like, then run it again: planc compile {file}
plan first {{
  model = {model}  # `planc catalog model` lists those that ship
  node = {node}  # `planc catalog node`
  sharding {{ {first} }}  # tp splits tensors, dp copies the model; also pp, sp, cp, ep
  engine = vllm  # `planc catalog engine`
  workload {{
    input = 1024  # tokens of a prompt
    output = 128  # tokens of an answer
    concurrency = 16  # requests that are always in flight
  }}
  require tpot <= 50 ms  # a promise: `planc compile` says whether it holds
}}
"""

SECOND = """
# the same with another sharding, to compare
plan second = first with {{
  sharding {{ {second} }}
}}
"""


def starter(model: str = MODEL, node: str = NODE, file: str = "first.plan") -> str:
    """The text of a file with one plan, or with two if the node has two shardings to compare.

    The first has the fewest ranks of tensor parallelism that hold the model, copied over the rest of the node; the
    second splits tensors over the whole node. Raises `PlanError` where no such plan compiles.
    """
    from plandsl.driver import compile_text

    count, wrong = _count(model, node, file), None
    for tp in _halves(count):
        first, second = {"tp": tp, "dp": count // tp}, {"tp": count, "dp": 1}
        text = TEXT.format(version=LANGUAGE, file=file, model=model, node=node, first=_degrees(first))
        text += SECOND.format(second=_degrees(second, every=True)) if first != second else ""
        try:
            (plan, *_) = compile_text(text, file)
        except PlanError as error:
            wrong = wrong or error
            continue
        if plan.estimate().fits:
            return format_text(text, file)
    why = f"no tensor parallelism in `{node}` holds `{model}`"
    raise wrong or PlanError([Diagnostic("E400", why, hint="take a node with more memory: planc catalog node")])


def _count(model: str, node: str, file: str) -> int:
    """GPUs of a node. Raises `PlanError` for a model or a node that does not exist."""
    from plandsl.driver import compile_text

    text = f"plan first {{ model = {model}, node = {node}, workload {{ input = 1, output = 1 }} }}"
    return compile_text(text, file)[0].spec.node.count


def _halves(count: int) -> Iterator[int]:
    """The numbers of ranks that divide ``count``, from 1 by twos."""
    return (1 << n for n in range(count.bit_length()) if count % (1 << n) == 0)


def _degrees(degrees: dict[str, int], every: bool = False) -> str:
    """Degrees as a plan says them; those of 1 only where ``every`` one is needed, or none is larger."""
    told = {name: n for name, n in degrees.items() if every or n > 1} or {"tp": 1}
    return ", ".join(f"{name} = {n}" for name, n in told.items())
