"""The base class of frozen values: equality, hash and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from attrs import fields

T = TypeVar("T")


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


class FrozenValue:
    """A class with ``@frozen(eq=False, repr=False)`` inherits these, and they are as those that attrs makes.

    They are written here once: attrs would write and compile them anew for each of many classes, whenever planc starts.
    They take longer to run, so a class whose values are compared all the time has those of attrs.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenValue) and type(self) is type(other) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((type(self), *self._compared().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._compared().items())})"

    def _compared(self) -> dict[str, object]:
        """The fields that are compared, by name."""
        return {a.name: getattr(self, a.name) for a in fields(cast(Any, type(self))) if a.eq}
