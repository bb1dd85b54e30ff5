"""`planc catalog`: the models and the hardware that come with planc."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json, print_text
from plandsl.diagnostics import Diagnostic, PlanError, suggest


def run_catalog(arguments: Namespace) -> int:
    """`planc catalog`: the list, the entries with a word in their names, or the text of one entry."""
    from plandsl.grammar import catalog

    kind, name = arguments.kind, arguments.name
    if kind is not None and kind not in catalog.kinds() and name is None:
        # `planc catalog NAME` works too: people type it first
        kind, name = next((k for k in catalog.kinds() if kind in catalog.names(k)), None), kind
    elif kind is not None and kind not in catalog.kinds():
        raise PlanError([Diagnostic("E406", f"the catalog has no kind `{kind}`", hint=suggest(kind, catalog.kinds()))])
    if name is not None and kind is not None:
        made = kind == "model" and is_checkpoint(name)
        if made or name in catalog.names(kind):
            return _print_entry(kind, name, catalog.from_config(name) if made else catalog.text(kind, name), arguments)
    kinds = catalog.kinds() if kind is None else (kind,)
    listed = {k: [n for n in catalog.names(k) if name is None or _found(k, n, name)] for k in kinds}
    if name is not None and not any(listed.values()):
        known = [word for k in kinds for word in (*((k,) if kind is None else ()), *catalog.names(k))]
        from plandsl.grammar.near import hint_for_name

        what = f"{kind} `{name}`" if kind else f"kind or entry `{name}`"
        hint = hint_for_name(kind, name) if kind else suggest(name, known)
        raise PlanError([Diagnostic("E406", f"the catalog has no {what}", hint=hint)])
    listed = {k: names for k, names in listed.items() if names or name is None}
    if arguments.json:
        print_json({"plandsl": __version__, "catalog": listed})
    else:
        for one, names in listed.items():
            print_text(f"{one}\n" + "".join(_catalog_lines(one, names)))
    return OK


def is_checkpoint(name: str) -> bool:
    """Whether `hf` or `gguf` reads this: a config.json, a GGUF file, or the folder of a checkpoint."""
    return name.endswith((".json", ".gguf")) or os.path.isfile(os.path.join(name, "config.json"))


def _found(kind: str, entry: str, text: str) -> bool:
    """Whether an entry has ``text`` in its name, or is what somebody calls so: ``p5.48xlarge``."""
    from plandsl.grammar.near import catalog_name

    return re.sub(r"[^a-z0-9]+", "_", text.lower()) in entry or (kind == "node" and entry == catalog_name(kind, text))


def _catalog_lines(kind: str, names: list[str]) -> Iterator[str]:
    """A line for each entry, behind its figures the other names that it goes by."""
    from plandsl.entries import catalog_line
    from plandsl.grammar import catalog

    stands_for = catalog.aliases(kind)
    entries = {
        n: [a for a in stands_for if stands_for[a] == n] for n in dict.fromkeys(stands_for.get(n, n) for n in names)
    }
    width = max(map(len, entries), default=0)
    for name, aliases in entries.items():
        also = f"; also {', '.join(aliases)}" if aliases else ""
        yield f"  {name:<{width}}  {catalog_line(kind, name)}{also}\n"


def _print_entry(kind: str, name: str, text: str, arguments: Namespace) -> int:
    if arguments.json:
        print_json({"plandsl": __version__, "kind": kind, "name": name, "text": text})
    else:
        sys.stdout.write(text)
    return OK
