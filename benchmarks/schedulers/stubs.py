"""Loads a few modules of an engine from its sources; whatever else they import is a stand-in that does nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class _Made(type):
    """A class that answers to every name, so that it serves as a base, a type, a decorator or a value."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _make(name)
        setattr(cls, name, made)
        return made

    def __or__(cls, other: object) -> Any:
        return cls

    __ror__ = __getitem__ = __or__


def _make(name: str) -> Any:
    """A class of that name, whose instances take all arguments, do nothing, and leave what they decorate as it is."""

    def attribute(self: object, wanted: str) -> Any:
        if wanted.startswith("__") or type(self) is not made:  # what the engine derives from it has to know its names
            raise AttributeError(wanted)
        return Off()

    made = _Made(
        name,
        (),
        {
            "__init__": lambda *_, **__: None,
            "__getattr__": attribute,
            "__call__": lambda _, *decorated, **__: decorated[0] if decorated else None,
            "__class_getitem__": classmethod(lambda cls, _: cls),
        },
    )
    return made


class _StandIn(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _make(name)
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    """Finds modules below ``root``: those that are ``real`` in the sources, all others as stand-ins."""

    def __init__(self, roots: Sequence[str], sources: Path, real: Sequence[str]) -> None:
        self.roots, self.sources, self.real = roots, sources, real

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.split(".")[0] not in self.roots or any(_covers(name, fullname) for name in self.real):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = [str(self.sources.joinpath(*module.__name__.split(".")))]


def _covers(name: str, module: str) -> bool:
    """Whether a name, or all below it if it ends in `.*`, is this module."""
    return module == name or (name.endswith(".*") and module.startswith(name[:-1]))


def load(sources: Path, roots: Sequence[str], real: Sequence[str]) -> None:
    """From now on ``real`` modules of the packages ``roots`` come from ``sources``; the others are stand-ins."""
    sys.path.insert(0, str(sources))
    sys.meta_path.insert(0, _Finder(roots, sources, real))


class Off:
    """A value that is false, has every name and takes every call, but for what it is ``given``."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Off()

    def __call__(self, *_: object, **__: object) -> Any:
        """What is off may be called, and stays off."""
        return self

    def __bool__(self) -> bool:
        return False
