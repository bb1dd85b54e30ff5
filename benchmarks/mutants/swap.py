"""Puts a changed source in the place of a module: into the functions that are loaded, or at its import."""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

Key = tuple[str, int, int]
"""A piece of code in a file: its qualified name, its first line, and which of those that have both."""


class Functions:
    """All functions that are loaded from files below ``root``."""

    def __init__(self, root: Path) -> None:
        self._by_file: dict[str, list[FunctionType]] = defaultdict(list)
        prefix = str(root.resolve())
        real: dict[str, str] = {}
        gc.unfreeze()
        for found in gc.get_objects():
            if type(found) is FunctionType:
                name = found.__code__.co_filename
                path = real.setdefault(name, str(Path(name).resolve()))
                if path.startswith(prefix):
                    self._by_file[path].append(found)
        gc.freeze()

    def swap(self, file: Path, old: str, new: str) -> bool:
        """Give the functions of ``file`` the code of ``new``; False where the change is not inside a function."""
        before, after = (dict(_codes(compile(text, str(file), "exec", dont_inherit=True))) for text in (old, new))
        if before.keys() != after.keys() or any(
            _own(before[key]) != _own(code) for key, code in after.items() if not _is_function(code)
        ):
            return False
        names = {
            (code.co_qualname, code.co_firstlineno, code.co_code, _plain(code)): key for key, code in before.items()
        }
        for function in self._by_file[str(file.resolve())]:
            code = function.__code__
            key = names.get((code.co_qualname, code.co_firstlineno, code.co_code, _plain(code)))
            if key is not None and code.co_freevars == after[key].co_freevars:
                function.__code__ = after[key]
        return True


def _plain(code: CodeType) -> str:
    """The constants of a piece of code, as a key: lambdas of one line differ by them alone."""
    return repr([c for c in code.co_consts if not isinstance(c, CodeType)]) + repr(code.co_names)


def _is_function(code: CodeType) -> bool:
    return bool(code.co_flags & 0x1)  # CO_OPTIMIZED: functions, lambdas and comprehensions, but no class and no module


def _own(code: CodeType) -> tuple[object, ...]:
    """What a piece of code does itself, without the pieces in it."""
    return code.co_code, code.co_names, repr([c for c in code.co_consts if not isinstance(c, CodeType)])


def _codes(code: CodeType) -> Iterator[tuple[Key, CodeType]]:
    seen: dict[tuple[str, int], int] = defaultdict(int)
    waiting = [code]
    while waiting:
        now = waiting.pop(0)
        at = now.co_qualname, now.co_firstlineno
        yield (*at, seen[at]), now
        seen[at] += 1
        waiting += [c for c in now.co_consts if isinstance(c, CodeType)]


class Changed(MetaPathFinder):
    """Imports one module from a changed source."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's place, with a loader that reads the changed source; nothing for other modules."""
        if fullname != self._module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self._source)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._changed = source

    def get_code(self, fullname: str) -> CodeType:
        """The code of the changed source; what is compiled already is not asked."""
        return compile(self._changed, self.path, "exec", dont_inherit=True)
