"""Writes down what an engine's own scheduler composes: `python -m benchmarks.schedulers ENGINE SOURCES`.

SOURCES is the engine's distribution, unpacked (`pip download --no-deps vllm`, then `unzip`). Nothing of it is installed
or needs a GPU: the modules of its scheduler run, stand-ins replace the rest. They import torch (a CPU build), numpy and
msgspec. The scenes, with the steps, become `tests/golden/schedulers/ENGINE.json`, against which our policies are held.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from random import Random

from benchmarks.schedulers import picked
from benchmarks.schedulers.scenes import Scene, play, read

TARGET = Path(__file__).resolve().parents[2] / "tests" / "golden" / "schedulers"

DRAWN = 14
"""Scenes drawn at random; half of them have a request that goes back."""


def record(engine: str, sources: Path) -> str:
    """The file of an engine: its name, its version, and a line for each scene."""
    module = import_module(f"benchmarks.schedulers.{engine}")
    version = module.prepare(sources)

    def steps(scene: Scene) -> str:
        made = module.Driven(scene)
        return play(made, read(scene), made.depth, scene.stages)

    rows = [(scene, steps(scene)) for scene in getattr(picked, engine.upper())]
    wanted = [DRAWN - DRAWN // 2, DRAWN // 2]
    seed = 0
    while any(wanted):
        scene = module.draw(Random(seed))
        found = steps(scene)
        back = " -" in found or found.startswith("-")
        if wanted[back]:
            wanted[back] -= 1
            rows.append((scene._replace(tells=f"drawn with the seed {seed}"), found))
        seed += 1
    lines = [json.dumps(_changed(scene) | {"steps": found}) for scene, found in rows]
    head = f'{{"engine": "{engine}", "version": "{version}", "scenes": [\n'
    return head + ",\n".join(lines) + "\n]}\n"


def _changed(scene: Scene) -> dict[str, object]:
    """The fields of a scene that are not as they always are."""
    usual = Scene._field_defaults
    return {name: value for name, value in scene._asdict().items() if name not in usual or value != usual[name]}


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / f"{name}.json").write_text(record(name, Path(folder)))
