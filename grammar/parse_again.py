"""The tree of a text that differs in some lines from one that was parsed before: only what is around them is parsed."""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Span
from plandsl.grammar import syntax as s
from plandsl.grammar.parse import parse


def parse_again(tree: s.File, before: str, text: str) -> s.File | None:
    """What `parse` gives for ``text``, from the ``tree`` of ``before``, in which nothing was wrong.

    None where that cannot be told: the texts have unlike numbers of lines, or something is wrong with the new one.
    """
    old, new = before.split("\n"), text.split("\n")
    if len(old) != len(new) or len(text) > limits.MAX_FILE_BYTES or not tree.items or old == new:
        return tree if old == new else None
    first = next(at for at in range(len(old)) if old[at] != new[at]) + 1
    last = len(old) - next(at for at in range(len(old)) if old[-1 - at] != new[-1 - at])
    # the items beside the change are parsed again, too: a line may go on with the item before it
    start = max(0, sum(item.span.end_line < first for item in tree.items) - 1)
    stop = len(tree.items) - max(0, sum(item.span.line > last for item in tree.items) - 1)
    head, tail = tree.items[:start], tree.items[stop:]
    begin = tree.items[start].span.line if start else 1
    end = tree.items[stop - 1].span.end_line if tail else len(new)
    if (head and head[-1].span.end_line >= begin) or (tail and tail[0].span.line <= end):
        return None  # they share a line
    piece = "\n" * (begin - 1) + "\n".join(new[begin - 1 : end])
    middle, found = parse(piece, tree.span.file)
    if found:
        return None
    whole = Span(tree.span.file, 1, 1, len(new), len(new[-1]) + 1)
    return s.File((*head, *middle.items, *tail), whole)
