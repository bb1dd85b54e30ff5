"""Our policies compose what the schedulers of the engines composed, run from their own sources.

`python -m benchmarks.schedulers` wrote `golden/schedulers/`. A step there: `a` has a token, `b4` has four, `+b4` is
admitted in it, `-c` goes back to the queue, and `=9` blocks are free behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.vllm import Vllm
from tests.serving import Steady, read

RECORDED = sorted((Path(__file__).parent / "golden" / "schedulers").glob("*.json"))
POLICIES = {"vllm": Vllm, "sglang": Sglang}


def scenes() -> Iterator[Any]:
    for path in RECORDED:
        recorded = json.loads(path.read_text())
        for scene in recorded["scenes"]:
            yield pytest.param(recorded["engine"], scene, id=f"{path.stem} {recorded['version']}: {scene['tells']}")


class Noted:
    """A policy whose steps are written down as the recorded ones are."""

    def __init__(self, policy: Policy, names: str) -> None:
        self.policy, self.names, self.steps = policy, names, list[str]()
        self.ahead = policy.ahead

    def refuses(self, live: Live, state: State) -> bool:
        return self.policy.refuses(live, state)

    def compose(self, state: State) -> Batch:
        batch = self.policy.compose(state)
        tokens = {live.index: state.queries for live in (*batch.decodes, *batch.spent)}
        tokens |= {piece.live.index: piece.tokens for piece in batch.prompts}
        joined = {live.index for live in batch.admitted}
        words = [f"{'+' * (i in joined)}{self.names[i]}{'' if n == 1 else n}" for i, n in tokens.items()]
        words += [f"-{self.names[live.index]}" for live in batch.preempted]
        if words:
            self.steps.append(" ".join([*sorted(words), f"={state.pool.free}"]))
        return batch


@pytest.mark.parametrize(("engine", "scene"), list(scenes()))
def test_a_policy_composes_what_its_engine_composed(engine: str, scene: dict[str, Any]) -> None:
    block, stages = scene.get("block", 4), scene.get("stages", 1)
    names, requests = read(scene["requests"], block)
    if "priorities" in scene:
        requests = requests._replace(priority=np.array(scene["priorities"]))
    noted = Noted(POLICIES[engine](**scene["limits"]), names)
    worker = Worker(
        policy=noted,
        clock=Steady(*[1.0] * stages),
        blocks=scene.get("blocks", 100),
        block=block,
        caching=scene.get("caching", True),
        in_flight=stages,
        acceptance=tuple(scene.get("guesses", ())),
    )
    assert simulate([worker], requests).served.all()
    assert " | ".join(noted.steps) == scene["steps"]
