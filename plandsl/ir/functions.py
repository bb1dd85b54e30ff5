"""Functions of the elements of one tensor, a row each: the word, what it means, and how its kernels were measured.

The grammar knows the words from here, the reference backend the meanings, and the cost model the names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Numpy: TypeAlias = Any
"""The module itself: whoever evaluates a function has loaded it, and reading a plan does not."""

Array: TypeAlias = Any
"""An array of float64."""


class Function(NamedTuple):
    """``word(x)`` is ``of(numpy, x)``, element by element.

    ``gated`` is how a kernel was measured that also multiplies by a second tensor; where engines have none it is empty,
    and a product runs by itself. One that ``limits`` says by numbers what it does (`plandsl.ir.limits`), and is done
    by the kernel behind it.
    """

    word: str
    of: Callable[[Numpy, Array], Array]
    gated: str = ""
    limits: bool = False


def _sigmoid(np: Numpy, x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # exp(-x) would overflow for very negative x


def _gelu(np: Numpy, x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


FUNCTIONS = (
    Function("silu", lambda np, x: x * _sigmoid(np, x), gated="silu_and_mul"),
    Function("gelu", _gelu, gated="silu_and_mul"),
    Function("quick_gelu", lambda np, x: x * _sigmoid(np, 1.702 * x), gated="silu_and_mul"),
    Function("relu", lambda np, x: np.maximum(x, 0.0)),
    Function("relu2", lambda np, x: np.maximum(x, 0.0) ** 2),
    Function("tanh", lambda np, x: np.tanh(x)),
    Function("sigmoid", _sigmoid),
    Function("clamp", lambda np, x: x, limits=True),
)
"""Every function of one tensor that a block may call."""

MAPS = tuple(f.word for f in FUNCTIONS)
"""Their words."""

PLUS = "plus"
"""What `x + 1` is called: a number added to every element, said by a limit as `clamp` is."""

GATES = {f.word: f"{f.word}_mul" for f in FUNCTIONS if f.gated}
"""The kernel that also multiplies by a second tensor."""

LIMITING = (*(f.word for f in FUNCTIONS if f.limits), PLUS)
"""Functions that only limit their operand, which the kernel behind them can do as it reads it."""

_MEASURED = {"add": "residual_add"} | {GATES[f.word]: f.gated for f in FUNCTIONS if f.gated}


def measured_map(fn: str) -> str:
    """The name under which a kernel of function ``fn`` was measured, if not its own: one that moves the same bytes."""
    return _MEASURED.get(fn, fn)
