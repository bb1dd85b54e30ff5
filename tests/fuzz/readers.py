"""Targets that read one kind of file or text."""

from __future__ import annotations

from tests.fuzz.benches import BENCHES
from tests.fuzz.case import Target
from tests.fuzz.ggufs import GGUF
from tests.fuzz.launches import LAUNCHES
from tests.fuzz.models import MODELS
from tests.fuzz.requests import REQUESTS
from tests.fuzz.tables import TABLES
from tests.fuzz.texts import TEXTS

READERS: tuple[Target, ...] = (*TABLES, *REQUESTS, *BENCHES, *MODELS, GGUF, *LAUNCHES, *TEXTS)
