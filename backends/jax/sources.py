"""The arithmetic of ops as the text of functions over `jax.numpy`, printed from where the reference has it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache

from plandsl.ir.functions import FUNCTIONS, GATES
from plandsl.ir.meaning import adapters, attention, elementwise, experts, states, streams

MODULES = (elementwise, attention, experts, states, adapters, streams)
"""Where the functions stand, in the order in which a program prints them."""


@cache
def meanings() -> str:
    """Every function, class and constant of `MODULES`, with ``jnp`` for ``np``."""
    return "\n\n\n".join(_as_jnp(inspect.getsource(module)) for module in MODULES)


def _as_jnp(text: str) -> str:
    """The text of a module without its docstring and imports, for ``jax.numpy``."""
    parts = [
        node
        for node in ast.parse(text).body
        if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node)
    ]
    made = [_Renamer().visit(node) for node in parts]
    return "\n\n\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in made)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class _Renamer(ast.NodeTransformer):
    """Writes ``jnp`` for ``np``, and a block under `np.errstate`, which `jax.numpy` lacks, without it."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name("jnp", node.ctx) if node.id == "np" else node

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.body


def _infix(sign: str) -> Callable[[object, object], Text]:
    return lambda left, right: Text(f"({_text(left)} {sign} {_text(right)})")


def _reflected(sign: str) -> Callable[[object, object], Text]:
    """As `_infix`, for Python's reflected operators, which get the right operand first."""
    return lambda right, left: Text(f"({_text(left)} {sign} {_text(right)})")


class Text:
    """Text of an array in a program: what is computed with it is text again."""

    def __init__(self, text: str) -> None:
        self.text = text

    __add__, __radd__ = _infix("+"), _reflected("+")
    __sub__, __rsub__ = _infix("-"), _reflected("-")
    __mul__, __rmul__ = _infix("*"), _reflected("*")
    __truediv__, __rtruediv__ = _infix("/"), _reflected("/")
    __pow__ = _infix("**")

    def __neg__(self) -> Text:
        return Text(f"(-{self.text})")


def _text(value: object) -> str:
    return value.text if isinstance(value, Text) else repr(value)


class Namespace:
    """An array namespace whose functions give text: ``jnp.tanh(x)`` for ``tanh``."""

    def __getattr__(self, name: str) -> object:
        if name == "pi":
            return Text("jnp.pi")
        return lambda *values: Text(f"jnp.{name}({', '.join(map(_text, values))})")


def functions_of_one(words: set[str]) -> str:
    """The functions of `FUNCTIONS` that a program calls, among ``words``, as text."""
    rows = [one for one in FUNCTIONS if not one.limits and (one.word in words or GATES.get(one.word) in words)]
    texts = [(one.word, _text(one.of(Namespace(), Text("x")))) for one in rows]
    return "\n\n\n".join(f"def {word}(x: Array) -> Array:\n    return {_bare(text)}" for word, text in texts)


def _bare(text: str) -> str:
    """``text`` without parentheses around the whole of it."""
    return ast.unparse(ast.parse(text, mode="eval"))
