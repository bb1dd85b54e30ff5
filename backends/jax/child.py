"""Runs an exported program in a process of its own, which needs jax and numpy but not plandsl.

Called as ``python child.py PROGRAM WORK OUT [--exact]``. WORK is an ``.npz`` file: the weights as ``region|layer|name``
(layer empty at the ends), ``ids`` ``[batch, tokens]`` (or patches ``[batch, tokens, patch]``), and ``pairs``: a row for
each run, of the sharding that prefills, the sharding that decodes. OUT gets the logits of each run and step.
"""

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


def main(program: str, work: str, out: str) -> None:
    """Run every pair of shardings, and write the logits."""
    spec = importlib.util.spec_from_file_location("program", program)
    assert spec is not None, program
    assert spec.loader is not None, program
    made = importlib.util.module_from_spec(spec)
    sys.modules["program"] = made
    spec.loader.exec_module(made)
    given = np.load(work)

    def get(region: str, layer: int | None, name: str) -> np.ndarray:
        array: np.ndarray = given[f"{region}|{'' if layer is None else layer}|{name}"]
        return array

    pairs = given["pairs"].tolist()
    weights = {name: made.load_weights(made.SETTINGS[name], get) for name in {n for pair in pairs for n in pair}}
    found = {}
    for number, (first, second) in enumerate(pairs):
        for step, logits in enumerate(steps(made, weights, given["ids"], first, second)):
            found[f"{number}|{step}"] = np.asarray(logits, dtype=np.float64)
    np.savez(out, allow_pickle=False, **found)


def steps(made: Any, weights: Any, ids: Any, first: str, second: str) -> Iterator[Any]:
    """The logits of a prefill under the sharding ``first``, and of each decode step under ``second``."""
    past = sum(made.SETTINGS[first].parts)
    queries = made.SETTINGS[second].queries
    logits, cache = made.prefill(first, weights[first], made.empty_cache(made.SETTINGS[first]), ids[:, :past])
    yield logits
    if first != second:
        cache = made.hand_over(first, second, cache)
    while past < ids.shape[1]:
        logits, cache = made.decode(second, weights[second], cache, ids[:, past : past + queries], past)
        past += queries
        yield logits


if __name__ == "__main__":
    main(*sys.argv[1:4])
