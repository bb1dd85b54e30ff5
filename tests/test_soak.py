"""Long runs in small: what `make soak` asks at length."""

from __future__ import annotations

import sys
import threading

import pytest

from benchmarks import soak
from plandsl.driver import compile_text

LOAD = {"input": 99, "output": 9, "batch": 4}


def told(layers: int) -> str:
    text = soak.DENSE.format(layers=layers, hidden=64, ffn=64, tp=2, pp=2, **LOAD)
    return repr(compile_text(text)[0].estimate().as_json())


def test_threads_that_ask_at_once_have_the_answers_of_one() -> None:
    found: list[tuple[int, str]] = []
    start = threading.Barrier(4)

    def ask(own: int) -> None:
        start.wait()
        found.extend((layers, told(layers)) for layers in (7001 + own % 2, 7003))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asking = [threading.Thread(target=ask, args=(own,)) for own in range(4)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    finally:
        sys.setswitchinterval(before)
    wanted = {layers: told(layers) for layers in (7001, 7002, 7003)}
    assert len(found) == 8
    assert [layers for layers, text in found if text != wanted[layers]] == []


@pytest.mark.slow
@pytest.mark.parametrize("part", ["threads", "plans", "layers"])
def test_a_long_run_finds_what_must_hold(part: str) -> None:
    assert soak.main([part]) == 0
