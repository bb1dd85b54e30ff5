"""The base class of frozen values: equality, hash and text; what keeps what was found of a value; and their sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, lru_cache, wraps
from operator import attrgetter
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast

from attrs import fields

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


def sum_up(values: Iterable[T], start: T | int = 0) -> T:
    """``start`` and ``values``, numbers or arrays, added from left to right.

    The builtin `sum` corrects the rounding of floats from Python 3.12 on, and so a plan would get other last digits
    there than on 3.11. It is left for what is whole beyond doubt, such as counts.
    """
    total: Any = start
    for value in values:
        total = total + value
    return cast(T, total)


class once(Generic[T]):
    """A property that is computed at its first use and then kept.

    Ops are asked for their operands all the time. `functools.cached_property` of Python 3.11 also takes a lock, which
    costs more than what an op computes.
    """

    def __init__(self, read: Callable[[Any], T]) -> None:
        self.read, self.__doc__ = read, read.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, value: Any, owner: type | None = None) -> T:
        found: T = self.read(value)
        value.__dict__[self.name] = found
        return found


class _Object:
    """A value that is compared as an object."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def kept(most: int) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[T, P], R]]:
    """Keeps what a function of a value, and of more arguments, returned for the last ``most`` that it was asked about.

    The value counts as an object, so that no hash of its parts is taken: the compiler keeps the programs of equal
    plans, and their ops. The other arguments count as values.
    """

    def keep(find: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
        @lru_cache(most)
        def known(held: _Object, *args: Any, **more: Any) -> R:
            return find(cast(T, held.value), *args, **more)

        @wraps(find)
        def ask(value: T, /, *args: P.args, **more: P.kwargs) -> R:
            return known(_Object(value), *args, **more)

        return ask

    return keep


class FrozenValue:
    """A class with ``@frozen(eq=False, repr=False)`` inherits these, and they are as those that attrs makes.

    They are written here once: attrs would write and compile them anew for each of many classes, whenever planc starts.
    They take longer to run, so a class whose values are compared all the time has those of attrs.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        kind = type(self)
        if kind is not type(other):
            return False
        read = _compared(kind).read
        return self is other or read(self) == read(other)

    def __hash__(self) -> int:
        kind = type(self)
        return hash((kind, _compared(kind).read(self)))

    def __repr__(self) -> str:
        names, read = _compared(type(self))
        return f"{type(self).__name__}({', '.join(map('{}={!r}'.format, names, read(self)))})"


class _Compared(NamedTuple):
    """The names of the fields of a class that are compared, and what reads them of a value."""

    names: tuple[str, ...]
    read: Callable[[object], tuple[object, ...]]


@cache
def _compared(kind: type) -> _Compared:
    names = tuple(a.name for a in fields(cast(Any, kind)) if a.eq)
    if len(names) > 1:
        return _Compared(names, attrgetter(*names))  # which gives a tuple
    return _Compared(names, lambda value: tuple(getattr(value, name) for name in names))
