"""A step: the work that a server does at once. All metrics of a deployment follow from how long steps take.

Each number of a step may be an array, or a number that is not known yet (`time.trace`). Whether a step has prompts, and
whether it has requests that decode, never depends on a number.
"""

from collections.abc import Sequence
from typing import NamedTuple

from plandsl.ir.types import Number
from plandsl.values import sum_up


class Prompt(NamedTuple):
    """Prompt tokens computed in a step: ``new`` tokens of each of ``requests``, behind ``cached`` tokens of each.

    With ``chunk``, the tokens are a chunk of prompts, and ``requests`` may be a fraction.
    """

    requests: Number
    new: Number
    cached: Number = 0
    chunk: bool = False

    @property
    def tokens(self) -> Number:
        """Rows of the step that are prompt tokens."""
        return self.requests * self.new

    @property
    def context(self) -> Number:
        """Tokens that the last new token of a prompt sees."""
        return self.cached + self.new

    @staticmethod
    def unlike(parts: Sequence[tuple[int, int]], chunk: bool) -> "Prompt":
        """Prompts of unlike lengths, each with ``new`` tokens behind ``cached`` ones, as so many that are alike.

        Rows, prompts and pairs of a query and a key that it sees are those of ``parts``,

            new = sum new_i / n,  cached = sum new_i (cached_i + (new_i + 1) / 2) / sum new_i - (new + 1) / 2

        so that what is linear in these is exact. The keys that are read, ``n (cached + new)``, are a mean.
        """
        first = parts[0]
        if all(part == first for part in parts):
            return Prompt(len(parts), *first, chunk)
        tokens = sum_up(new for new, _ in parts)
        pairs = sum_up(new * (cached + (new + 1) / 2) for new, cached in parts)
        mean = tokens / len(parts)
        return Prompt(len(parts), mean, pairs / tokens - (mean + 1) / 2, chunk=True)


class Decode(NamedTuple):
    """Requests that decode: each has ``queries`` tokens in the step, the last of which sees ``context`` tokens.

    Of requests with unlike contexts it is their mean: exact where the time is linear in the context, as it is between
    windows. The queries are the next token and the guesses after it. With ``steps``, times are the mean over so many
    steps: the first has ``context``, each later one a token more.
    """

    requests: Number
    context: Number
    steps: Number | None = None
    queries: Number = 1

    @property
    def tokens(self) -> Number:
        """Rows of the step that are tokens of these requests."""
        return self.requests * self.queries

    @property
    def cached(self) -> Number:
        """Tokens of each request that are in the cache before the first step."""
        return self.context - self.queries

    @property
    def middle(self) -> Number:
        """The mean context over all steps that the next token sees."""
        return self.cached + ((1 if self.steps is None else self.steps) + 1) / 2


class Step(NamedTuple):
    """What a server computes at once: prompts, requests that decode, or both mixed. Counts are of one batch.

    A server with several stages may have several batches in flight.
    """

    prompt: Prompt | None = None
    decode: Decode | None = None

    @property
    def tokens(self) -> Number:
        """All rows of the step."""
        if self.prompt is None or self.decode is None:
            return self.prompt.tokens if self.prompt else self.decode.tokens if self.decode else 0
        return self.prompt.tokens + self.decode.tokens
