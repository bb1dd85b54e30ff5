"""The base class of frozen values: equality, hash and text."""

from __future__ import annotations

from typing import Any, cast

from attrs import fields


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
