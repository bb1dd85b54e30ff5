"""The arguments of a call from Python: what is wrong with them is a diagnostic, with its place in the call.

A wrong argument raises `PlanError`, as a wrong plan does, with the call as the source and the caret under the argument:

    error[E445]: `batch` must be a number from 1 to 1,000,000,000,000, or an array of such numbers, found 0
     --> <call>:1:16
      |
    1 | evaluate(batch=0)
      |                ^ a number from 1 to 1,000,000,000,000, or an array of such numbers
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeAlias, TypeVar

from plandsl import limits
from plandsl.diagnostics import Diagnostic, PlanError, Span, clip, either, suggest
from plandsl.expressions import write_value

CALL = "<call>"
"""The file name in the spans of arguments."""

ASIDE = 60
"""Most characters of the arguments beside a wrong one that an excerpt shows."""

Overrides: TypeAlias = "Mapping[str, Any] | Sequence[tuple[str, Any]]"
"""Values of fields by their paths, as `set_pairs` takes them."""

P = ParamSpec("P")
T = TypeVar("T")


class Arguments:
    """The arguments ``given`` to the function ``name``, by their names; the call shows none that is None."""

    def __init__(self, name: str, /, **given: Any) -> None:
        self.name = name
        self.given = given

    def wrong(self, argument: str, expected: str, hint: str = "", code: str = "E445") -> PlanError:
        """The error for an argument that is not what is ``expected``."""
        found = describe(self.given.get(argument))
        return self.error(code, argument, f"`{argument}` must be {expected}, found {found}", label=expected, hint=hint)

    def error(self, code: str, argument: str, message: str, *, label: str = "", hint: str = "") -> PlanError:
        """An error whose caret is under the value of ``argument``."""
        given = {k: show_value(v) for k, v in self.given.items() if v is not None or k == argument}
        if argument not in given:
            return PlanError([Diagnostic(code, message, label=label, hint=hint)])
        before = [f"{name}={value}" for name, value in list(given.items())[: list(given).index(argument)]]
        after = [f"{name}={value}" for name, value in list(given.items())[len(before) + 1 :]]
        if sum(map(len, (*before, *after))) > ASIDE:  # other arguments only lead to the wrong one
            before, after = ["..."] * bool(before), ["..."] * bool(after)
        head = f"{self.name}({', '.join([*before, f'{argument}='])}"
        text = f"{', '.join([head + given[argument], *after])})"
        span = Span(CALL, 1, len(head) + 1, 1, len(head) + len(given[argument]) + 1)
        return PlanError([Diagnostic(code, message, span, label=label, hint=hint)], {CALL: text})

    def whole(self, argument: str, least: int = 1, most: int | None = None) -> int:
        """A whole number from ``least`` to ``most`` (the largest dimension)."""
        most = limits.MAX_DIMENSION if most is None else most
        value = self.given.get(argument)
        if isinstance(value, Integral) and not is_flag(value) and least <= int(value) <= most:
            return int(value)
        raise self.wrong(argument, f"a whole number from {least:,} to {most:,}")

    def number(self, argument: str, above: float = 0.0) -> float:
        """A finite number above ``above``."""
        value = self.given.get(argument)
        huge = isinstance(value, Integral) and abs(int(value)) > 10**300  # beyond what floats hold
        if isinstance(value, Real) and not is_flag(value) and not huge and isfinite(value) and float(value) > above:
            return float(value)
        raise self.wrong(argument, f"a number above {above:g}")

    def word(self, argument: str, known: Iterable[str], code: str = "E445") -> str:
        """One of the words ``known``."""
        value, words = self.given.get(argument), tuple(known)
        if isinstance(value, str) and value in words:
            return value
        hint = suggest(value, words) if isinstance(value, str) else ""
        expected = either(words) if len(words) < 8 else f"one of {len(words)} names"
        raise self.wrong(argument, expected, hint=hint, code=code)

    def text(self, argument: str) -> str:
        """A string."""
        value = self.given.get(argument)
        if isinstance(value, str):
            return value
        raise self.wrong(argument, "a string")

    def instance(self, argument: str, kinds: type | tuple[type, ...], expected: str, hint: str = "") -> Any:
        """An object of one of the types ``kinds``."""
        value = self.given.get(argument)
        if isinstance(value, kinds):
            return value
        raise self.wrong(argument, expected, hint=hint)

    def load(self, argument: str) -> Any:
        """A number or an array of numbers of at least 1: an int, a float, or a numpy array."""
        value: Any = self.given.get(argument)
        if is_plain_load(value):
            return value
        import numpy as np

        expected = f"a number from 1 to {limits.MAX_LOAD:,}, or an array of such numbers"
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            raise self.wrong(argument, expected) from None
        if array.dtype.kind not in "iuf":
            raise self.wrong(argument, expected)
        outside = array[~((array >= 1) & (array <= limits.MAX_LOAD))]
        if not outside.size:
            return value if isinstance(value, np.ndarray) else array[()] if array.ndim else array.item()
        if not array.ndim:
            raise self.wrong(argument, expected)
        first = describe(outside.ravel()[0].item())
        said = f"`{argument}` must hold numbers from 1 to {limits.MAX_LOAD:,}, found {first}"
        raise self.error("E445", argument, said, label=f"{outside.size:,} of {array.size:,} values are outside")


def is_plain_load(value: Any) -> bool:
    """Whether a value is one of Python's own numbers that a load may be, as in nearly all calls."""
    kind = type(value)
    return (kind is int or kind is float) and 1 <= value <= limits.MAX_LOAD


def is_flag(value: object) -> bool:
    """Whether a number is a truth value, which Python and numpy count as 0 or 1."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def show_value(value: object) -> str:
    """A value as a call shows it, in one line."""
    try:
        text = repr(value)
    except Exception:  # a repr of somebody else's object may fail in any way
        text = object.__repr__(value)
    return clip(" ".join(text.split()), 60)


def describe(value: object) -> str:
    """A value in a message: its text, or its type where the text says nothing."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return f"a whole number of {value.bit_length() * 30103 // 100000 + 1:,} digits"
    if value is None or isinstance(value, bool | int | float | str):
        return show_value(value)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of {getattr(value, 'dtype', 'objects')}"
    if isinstance(value, Mapping | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{'an' if type(value).__name__[0] in 'aeioAEIO' else 'a'} {type(value).__name__}"


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, whose calls with arguments that it does not have, or without some that it needs, are a `PlanError`.

    Only the call itself is looked at: a `TypeError` from inside the function stays what it is. Where a method raises a
    `PlanError`, its object's ``sources`` are added to those of the error.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except PlanError as error:  # a compiled plan knows the text that spans point into
            known = getattr(args[0], "__dict__", {}) if args else {}
            for file, text in known.get("sources", {}).items():
                error.sources.setdefault(file, text)
            raise
        except TypeError as error:
            trace = error.__traceback__
            if trace is None or trace.tb_next is not None:
                raise
            found = _misfit(function, args, kwargs)
            if found is None:
                raise
        raise found

    return call


def _misfit(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> PlanError | None:
    """Why ``function`` does not take these arguments."""
    import inspect

    parameters = inspect.signature(function).parameters
    bound = next(iter(parameters), "") == "self"
    known = [name for name in parameters if name != "self"]
    named = [name for name, p in parameters.items() if name != "self" and p.kind is not p.POSITIONAL_ONLY]
    name = re.sub(r"\.__init__$", "", function.__qualname__).rpartition(".")[2]
    if function.__name__ == "__init__":
        name = type(args[0]).__name__
    positional = dict(zip(known, args[bound:], strict=False))
    call = Arguments(name, **{**positional, **kwargs})
    for argument in kwargs:
        if argument not in named:
            hint = suggest(argument, named) or f"`{name}` takes no arguments by name"
            return call.error("E446", argument, f"`{name}` has no argument `{clip(argument)}`", hint=hint)
        if argument in positional:
            return call.error("E446", argument, f"`{name}` has two values for `{argument}`", hint="remove one of them")
    takes = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(takes):
        count = len(takes) - bound
        said = f"`{name}` takes {count or 'no'} argument{'s' * (count != 1)} by position, found {len(args) - bound}"
        return PlanError([Diagnostic("E446", said, hint=f"name the others: {', '.join(known)}" if known else "")])
    for parameter in parameters.values():
        lacks = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL
        )  # fmt: skip
        if parameter.name not in ("self", *positional, *kwargs) and lacks:
            said = f"`{name}` needs the argument `{parameter.name}`"
            return PlanError([Diagnostic("E446", said, hint=f"{name}({parameter.name}=...)")])
    return None


def set_pairs(overrides: Any, call: str = "compile") -> list[tuple[str, str]]:
    """Overrides as pairs of a path and the text of a value.

    ``overrides`` is a mapping of paths, or of names to such mappings (``{"sharding": {"tp": 4}}``), or a sequence of
    pairs. A value is a number, a truth value, a list of values, or text as a plan has it (``"50 ms"``).
    """
    given = Arguments(call, overrides=overrides)
    if overrides is None:
        return []
    if isinstance(overrides, Mapping):
        return [pair for path, value in overrides.items() for pair in _pairs(given, path, value, 0)]
    hint = 'such as {"workload.batch": 8} or {"sharding": {"tp": 4}}'
    if isinstance(overrides, str | bytes) or not isinstance(overrides, Iterable):
        raise given.wrong("overrides", "a mapping of paths to values", hint=hint)
    try:
        items = list(overrides)
    except TypeError:  # such as an array of no dimensions
        raise given.wrong("overrides", "a mapping of paths to values", hint=hint) from None
    if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        raise given.wrong("overrides", "a mapping of paths to values, or pairs of both", hint=hint)
    return [pair for path, value in items for pair in _pairs(given, path, value, 0)]


def _pairs(given: Arguments, path: object, value: object, depth: int) -> Iterable[tuple[str, str]]:
    if not isinstance(path, str) or not path.strip():
        said = f"a path in `overrides` must be a string such as 'workload.batch', found {describe(path)}"
        raise given.error("E445", "overrides", said)
    if isinstance(value, Mapping) and depth < 8:
        for name, inner in value.items():
            if not isinstance(name, str):
                raise given.error("E445", "overrides", f"a name in `{path}` must be a string, found {describe(name)}")
            yield from _pairs(given, f"{path}.{name}", inner, depth + 1)
        return
    text = write_value(value)
    if text is None:
        said = f"the value of `{path}` must be a number, a list of values or text, found {describe(value)}"
        raise given.error("E445", "overrides", said, label="a value as in a plan, such as 8 or '50 ms'")
    yield path.strip(), text
