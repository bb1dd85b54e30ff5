"""The backend `jax`: writes a plan as one Python program with `jax.shard_map` and explicit collectives.

It prints text and imports neither jax nor another backend. What ops mean on the arrays of a device stands in
`plandsl.ir.meaning` and `plandsl.ir.functions`, and is printed from there.
"""

from plandsl.backends.jax.export import ONLY, Sharding, export
from plandsl.backends.jax.run import run_pairs, time_program

__all__ = ["ONLY", "Sharding", "export", "run_pairs", "time_program"]
