"""Targets that run a verb of `planc`."""

from __future__ import annotations

from random import Random

from tests.fuzz.case import Case, Corpus, Target

PLAN = b"plan p { model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }, workload { input = 100, output = 10 } }\n"


def _check(random: Random, corpus: Corpus) -> Case:
    return Case({"p.plan": PLAN.replace(b"= 100", b"= %d" % random.randrange(200))}, ("check", "p.plan"))


VERBS: tuple[Target, ...] = (Target("check", "verb", _check),)
