"""Run exported programs in processes of their own: compare their logits with those that are expected, or time them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from plandsl.backends.jax import child
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.ir.names import RegionName
from plandsl.units import show_bytes

Array: TypeAlias = npt.NDArray[Any]
Weights: TypeAlias = Mapping[tuple[RegionName, int | None, str], Array]


QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""What XLA is told for a comparison on devices of the host, which compiles for longer than it runs."""


class Timed(NamedTuple):
    """The measured seconds of one step: on which kind of device, of which sharding and phase."""

    device: str
    sharding: str
    phase: str
    seconds: float


def python_with_jax() -> str:
    """The Python that runs programs. Raises `PlanError` (E517) where it has no jax."""
    if importlib.util.find_spec("jax") is None:
        hint = "pip install 'plandsl[run]'"
        raise PlanError([Diagnostic("E517", "`planc run` needs jax, which is not installed", hint=hint)])
    return sys.executable


def run_pairs(
    text: str, weights: Weights, ids: Array, pairs: Sequence[tuple[str, str]], devices: int, python: str = ""
) -> list[list[Array]]:
    """The logits of each pair of shardings, by step, in float64 on ``devices`` devices of the host."""
    with tempfile.TemporaryDirectory() as folder:
        program, work, out = (Path(folder) / name for name in ("program.py", "work.npz", "out.npz"))
        program.write_text(text, encoding="utf-8")
        named = {f"{r}|{'' if layer is None else layer}|{n}": a for (r, layer, n), a in weights.items()}
        np.savez(work, allow_pickle=False, ids=ids, pairs=np.array(pairs), **named)
        arguments = [python or python_with_jax(), child.__file__, str(program), str(work), str(out), "--exact"]
        run_process(arguments, devices)
        with np.load(out) as found:
            counts = [sum(key.startswith(f"{i}|") for key in found) for i in range(len(pairs))]
            return [[found[f"{i}|{step}"] for step in range(count)] for i, count in enumerate(counts)]


def run_process(arguments: Sequence[str], devices: int | None) -> str:
    """Run a process and give what it prints; on ``devices`` devices of the host, or on what the machine has (None).

    Raises `PlanError` with the last line of its errors where it fails (E518), and where the system ends it (E537).
    """
    env = dict(os.environ)
    if devices is not None:
        env |= {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": " ".join([QUICK, f"--xla_force_host_platform_device_count={devices}"]),
        }
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL:
        raise _too_large("the system ended the exported program, as it does where memory runs out")
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip() and set(line) != {"-"}]
        errors = [line for line in lines if re.match(r"[\w.]*Error\b", line)] or lines[-1:] or ["no message"]
        raise PlanError([Diagnostic("E518", f"the exported program failed: {clip(errors[-1], 300)}")])
    return done.stdout


def _too_large(why: str) -> PlanError:
    hint = "take more ranks, a smaller batch or shorter prompts, or run small sizes with --shrink"
    return PlanError([Diagnostic("E537", why, hint=hint)])


def time_program(text: str) -> list[Timed]:
    """The seconds of the steps of a program, on the devices that jax finds.

    Raises `PlanError`: E519 for too few devices, E520 for formats that the devices refuse, and E537 for too little
    memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(text, encoding="utf-8")
        answer = json.loads(run_process([python_with_jax(), str(program), "--json"], None).splitlines()[-1])
    if refused := answer.get("refused"):
        why = f"{answer['device']} refuses the format {', '.join(f'`{word}`' for word in refused)}"
        raise PlanError([Diagnostic("E520", why, hint="set these formats to others, or run small sizes with --shrink")])
    if needed := answer.get("needed"):
        why = f"the plan runs on {needed} devices, and jax has {answer['devices']} ({answer['device']})"
        hint = "run small sizes on devices of the host with --shrink"
        if answer["device"] == "cpu":
            hint += f"; XLA_FLAGS=--xla_force_host_platform_device_count={needed} makes so many of a CPU"
        raise PlanError([Diagnostic("E519", why, hint=hint)])
    if "memory" in answer:
        asked = re.search(r"(\d+) ?bytes", answer["memory"])
        more = (
            f": it was asked for {show_bytes(float(asked[1]))} at once" if asked else f": {clip(answer['memory'], 200)}"
        )
        raise _too_large(f"{answer['device']} has too little memory for the program{more}")
    return [Timed(answer["device"], *row) for row in answer["times"]]
