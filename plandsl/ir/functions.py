"""Elementwise functions of one tensor, a row each: its word, its meaning in numpy, and the name of its measurements.

The grammar reads the words here, the reference backend the meanings, and the cost model the names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Numpy: TypeAlias = Any
"""The numpy module. The caller that evaluates a function passes it in, so that reading a plan need not load it."""

Array: TypeAlias = Any
"""An array of float64."""


class Function(NamedTuple):
    """``word(x)`` is ``of(numpy, x)``, element by element.

    ``gated`` names the measurements of the kernel that also multiplies by a second tensor. It is empty where engines
    have no such kernel; the product then runs by itself. A function that ``limits`` is stated by numbers
    (`plandsl.ir.limits`), and the kernel after it applies them.
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
    Function("exp", lambda np, x: np.exp(x)),
    Function("softplus", lambda np, x: np.logaddexp(x, 0.0)),
    Function("clamp", lambda np, x: x, limits=True),
)
"""Every function of one tensor that a block may call."""

MAPS = tuple(f.word for f in FUNCTIONS)
"""Their words."""

PLUS = "plus"
"""The word for `x + 1`: a number added to every element, stated as a limit like `clamp`."""

GATES = {f.word: f"{f.word}_mul" for f in FUNCTIONS if f.gated}
"""The kernel that also multiplies by a second tensor."""

LIMITING = (*(f.word for f in FUNCTIONS if f.limits), PLUS)
"""Functions that only limit their operand. The kernel after them can do this as it reads the operand."""

_MEASURED = {"add": "residual_add"} | {GATES[f.word]: f.gated for f in FUNCTIONS if f.gated}


def measured_map(fn: str) -> str:
    """The name under which kernels of function ``fn`` were measured, or ``fn``. Such a kernel moves the same bytes."""
    return _MEASURED.get(fn, fn)
