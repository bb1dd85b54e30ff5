"""Words of reports that `planc explain WORD` defines, and how to find them.

A report prints no label without an entry in one of the tables; `tests/test_terms.py` holds them to that.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from plandsl.terms_load import LOADS, MEMORY, TIMES
from plandsl.terms_trust import RANKINGS, TRUST
from plandsl.terms_work import SPREAD, WORK


class Term(NamedTuple):
    """What a word means, other words that mean the same or stand beside it, and the page that tells more."""

    text: str
    also: tuple[str, ...]
    page: str


TERMS: dict[str, Term] = {
    name: Term(*parts)
    for table in (TIMES, LOADS, MEMORY, WORK, SPREAD, RANKINGS, TRUST)
    for name, parts in table.items()
}
"""Every term, by the spelling that reports use."""


@cache
def spellings() -> dict[str, str]:
    """Each spelling of each term, as `plain_word` has it, and the name of the term."""
    found = {plain_word(word): name for name, term in TERMS.items() for word in term.also}
    return found | {plain_word(name): name for name in TERMS}


def plain_word(word: str) -> str:
    """A word without capitals, dashes and underscores, so that ``KV_cache`` and ``kv cache`` are one."""
    return " ".join(re.sub(r"[-_\s]+", " ", word.lower()).split())


def find_term(word: str) -> str | None:
    """The name of the term that a word is a spelling of."""
    return spellings().get(plain_word(word))
