"""What comes after a reader: now and then a case goes on to what uses its result, and all numbers there are finite."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32


def seldom(content: bytes, of: int) -> bool:
    """Whether this is one of ``of`` contents: what takes long is done for these. The same content, the same answer."""
    return crc32(content) % of == 0


def assert_finite(value: Any, path: str = "") -> None:
    """Fail on a number of a JSON document that is not finite."""
    if isinstance(value, dict):
        for key, one in value.items():
            assert_finite(one, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for at, one in enumerate(value):
            assert_finite(one, f"{path}[{at}]")
    else:
        assert not isinstance(value, float) or math.isfinite(value), f"{path} is {value}"


@contextmanager
def copied(name: str, content: bytes, behind: int = 0) -> Iterator[Path]:
    """A file of its own folder, with ``behind`` bytes of a hole at its end; the folder is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=os.curdir) as made:
        path = Path(made).resolve() / name
        with path.open("wb") as file:
            file.write(content)
            file.truncate(len(content) + behind)
        yield path
