"""Scenes that show one rule each."""

from __future__ import annotations

from typing import Any

from benchmarks.schedulers.scenes import Scene

_SERVER = ("blocks", "block", "caching", "stages", "guesses", "priorities")


def _vllm(tells: str, requests: str, budget: int = 100, ahead: bool = False, **others: Any) -> Scene:
    server = {name: others.pop(name) for name in _SERVER if name in others}
    return Scene(tells, {"budget": budget, "ahead": ahead, **others}, requests, **server)


def _sglang(tells: str, requests: str, chunk: int = 8192, ahead: bool = False, **others: Any) -> Scene:
    server = {name: others.pop(name) for name in ("blocks", "block", "caching") if name in others}
    return Scene(tells, {"chunk": chunk, "ahead": ahead, **others}, requests, **{"block": 1} | server)


VLLM = (
    _vllm("who runs comes first, a prompt has the rest of the budget", "a 4+4, b 10+2 @1", 8),
    _vllm("decodes behind a cut prompt have what it leaves", "a 2+3, b 9+1", 4),
    _vllm("a prompt that is not cut waits for a step that holds it", "a 8+2, b 6+1, c 1+1", 12, chunked=False),
    _vllm("the first that finds no blocks stops the scan", "a 8+4, b 12+1, c 2+1", blocks=4),
    _vllm("no more run than may", "a 2+2, b 2+2, c 2+2", max_running=2),
    _vllm("all of a prompt needs room, not its first chunk alone", "a 4+3, b 14+1 @1", 4, blocks=4),
    _vllm("without that rule its first chunk is enough", "a 4+3, b 14+1 @1", 4, blocks=4, whole_prompt=False),
    _vllm("who was admitted last goes back to the front, and nobody is admitted then", "a 6+8, b 6+4, c 2+1 @1",
          blocks=4),
    _vllm("who comes back computes what the prefix cache has lost", "a 6+4, b 6+4", blocks=4),
    _vllm("without a prefix cache all of it", "a 6+4, b 6+4", blocks=4, caching=False),
    _vllm("who comes back needs room for what it had made, too", "a 4+9, b 4+8", 5, blocks=5, caching=False),
    _vllm("a request may send itself back", "a 4+4, b 8+2", blocks=4),
    _vllm("a shared prefix is computed once", "a 10+1 [1 2 3], b 10+1 [1 2 9]"),
    _vllm("a prompt that is all known computes its last block", "a 8+1 [1 2], b 8+1 @1 [1 2]"),
    _vllm("long prompts have a limit in each step", "a 8+1, b 2+2", 10, long_prompt=3),
    _vllm("an adaptive limit is an equal share at least", "a 8+1, b 8+1", 12, long_prompt=2, adaptive=True),
    _vllm("a watermark of blocks stays free at admission", "a 16+2, b 12+1", watermark=0.25, blocks=8),
    _vllm("ahead: who is done by its own word is in one more step, with a slot", "a 4+2, b 5+4", ahead=True,
          capped=False),
    _vllm("ahead: who is done by its limit only keeps its place", "a 4+2, b 4+4, c 2+1", ahead=True, max_running=2),
    _vllm("ahead: of who goes back, a block that an answer has just filled is not known", "a 4+12, b 5+8", ahead=True,
          blocks=5),
    _vllm("of two stages each has a batch of its own", "a 4+2, b 4+2", 4, stages=2),
    _vllm("ahead: who ends by its own word may need a block for the step too many", "a 62+2 @1, b 22+3 @1, c 23+3 @1",
          117, ahead=True, whole_prompt=False, capped=False, blocks=16, block=8),
    _vllm("a watermark is rounded down", "a 10+3, b 5+3 @1, c 10+1 @1 [11]", 20, watermark=0.2, blocks=17, block=2),
    _vllm("who came back may compute its last token behind a part on its way",
          "a 15+4 [11 12 13 14], b 8+3 [21], c 16+4, d 10+1, e 15+3, f 12+4, g 11+2 [21 22 23 24 25]", 44,
          long_prompt=8, whole_prompt=False, blocks=20, block=2, caching=False, stages=2),
    _vllm("ahead: a block with an answer's newest token is known when the token is", "a 29+4 [11], b 19+3, c 30+1 @1",
          36, ahead=True, max_running=4, chunked=False, whole_prompt=False, blocks=13),
    _vllm("blocks without a key are taken before others", "a 1+5 @5, b 10+6 @5 [21 22 23 24], c 12+1 @5, d 10+1 @6",
          10, blocks=12, block=2),
    _vllm("of two equal blocks the second is found when the first is gone",
          "a 31+1 @5, b 25+1 @10 [21 22 23 24 25 26], c 7+3 @10, d 3+3 @12, e 1+2 @14, f 8+1 @14 [21 22], "
          "g 17+2 @14 [11 12 13], h 28+1 @19 [21 22 23]", 60, watermark=0.2, blocks=9),
    _vllm("of those that end together who decodes leaves first",
          "a 4+2 @1, b 11+2 @1, c 11+2 @3 [21 22], d 14+1 @3 [11 12 13 14 15 16], e 14+1 @4, f 8+1 @4 [21 22 23], "
          "g 4+4 @6 [11], h 4+2 @8", 23, ahead=True, max_running=3, whole_prompt=False, blocks=13, block=2),
    _vllm("guesses that are right shorten an answer, and count in the budget", "a 4+7, b 9+6 @1, c 6+1 @1", 12,
          guesses=(1.0, 1.0)),
    _vllm("guesses that are wrong take their blocks nevertheless", "a 6+6, b 5+4", blocks=6, guesses=(0.0, 0.0)),
    _vllm("a draft's own tokens have blocks as well, from admission on", "a 4+5, b 7+3, c 6+4", blocks=7, lookahead=2,
          guesses=(1.0, 1.0)),
    _vllm("ahead: guesses on their way may all be wrong", "a 4+5, b 6+4", ahead=True, guesses=(1.0, 1.0), block=16),
    _vllm("the lowest number first, in the order of arrival among equals", "a 4+1, b 4+1, c 4+1, d 4+1", 4,
          order="priority", priorities=(1, 0, 1, 0)),
    _vllm("a running prompt keeps its place before a more important one", "a 6+1, b 4+1 @1", 4, order="priority",
          priorities=(1, 0)),
    _vllm("who has the highest number goes back, and finds its prompt when it returns", "a 4+5, b 4+5, c 4+2",
          order="priority", priorities=(2, 0, 1), blocks=5),
    _vllm("who goes back leaves the step that it was in already", "a 4+6, b 3+6 @1", order="priority",
          priorities=(1, 0), blocks=3),
    _vllm("nobody goes back for one that is less important", "a 4+6, b 3+6 @1", order="priority", priorities=(0, 1),
          blocks=3),
    _vllm("two go back, and come again in the order of priority",
          "a 15+6 @1 [11 12 13 14 15], b 3+5 @1, c 9+4 @2, d 5+5 @2", 44, long_prompt=12, capped=False,
          order="priority", priorities=(0, 2, 1, 1), blocks=18, block=2),
    _vllm("ahead: who goes back may be in the step on its way",
          "a 3+2, b 2+6 [11], c 9+1, d 12+6 [21 22 23 24 25 26], e 13+6, f 1+6", 22, ahead=True, chunked=False,
          order="priority", priorities=(0, 0, 2, 2, 0, 2), blocks=18, block=2),
)  # fmt: skip

SGLANG = (
    _sglang("prompts have steps of their own, for which decodes wait", "a 4+3, b 6+2 @1"),
    _sglang("the prompt that does not fit is cut, and goes on before decodes", "a 6+2, b 5+1", 8),
    _sglang("mixed: decodes are in the step, and count", "a 4+3, b 10+1 @1", 8, mixed=True),
    _sglang("prompts of a step have a limit together, which the last one may pass", "a 5+1, b 5+1, c 1+1",
            prefill_tokens=8),
    _sglang("a prompt joins that fits with its output beside 70 % of what others make", "a 3+5, b 1+3 @1", blocks=11),
    _sglang("a token more, and it waits until a request ends", "a 3+5, b 1+4 @1", blocks=11),
    _sglang("so does one behind it that would fit", "a 3+5, b 1+4 @1, c 1+1 @2", blocks=11),
    _sglang("so does one that the queue's order puts before it", "a 4+5 [1 2 3 4], b 1+6 @1, c 2+1 @2 [1 2]",
            blocks=12, order="longest_prefix"),
    _sglang("who waits is asked again when the first prompts decode", "a 2+8, b 2+2, c 2+4", blocks=16),
    _sglang("a bolder engine counts less of what others make", "a 3+5, b 1+4 @1", blocks=10, conservativeness=0.0),
    _sglang("of equals the longer prompt is retracted, and known prefixes with it", "a 3+7, b 2+5 @1", blocks=12,
            conservativeness=0.0),
    _sglang("who has made the fewest tokens is retracted", "a 3+7, b 2+5 @2", blocks=13, conservativeness=0.0),
    _sglang("ahead: the token on its way of who is retracted is thrown away",
            "a 15+22 @2, b 17+12 @2, c 22+9 @3", 8, ahead=True, blocks=77, conservativeness=0.0, caching=False),
    _sglang("prompts are charged in whole pages", "a 5+1, b 6+1", 8, block=4),
    _sglang("no more run than may", "a 2+2, b 2+1", max_running=1),
    _sglang("no more join than may", "a 2+2, b 2+2", max_joining=1),
    _sglang("a prompt that is all known computes its last token", "a 4+1 [1 2 3 4], b 4+1 @1 [1 2 3 4]"),
    _sglang("prompts of one step do not share", "a 4+2 [1 2 3 4], b 4+3 [1 2 3 4], c 5+1 @1 [1 2 3 4]"),
    _sglang("ahead: nor with a step on its way", "a 4+2 [1 2 3 4], b 4+3 [1 2 3 4], c 5+1 @2 [1 2 3 4]", ahead=True,
            max_joining=1),
    _sglang("or the longest known prefix first", "a 4+1 [1 2 3 4], b 4+1 @1, c 4+1 @1 [1 2 3 9]", max_joining=1,
            order="longest_prefix"),
    _sglang("a prompt that is all known counts as such in that order", "a 4+1 [1], b 16+1 @1, c 4+1 @1 [1]",
            max_joining=1, order="longest_prefix", block=4),
    _sglang("ahead: who is done by its limit is in no step more", "a 4+2, b 4+3", ahead=True),
    _sglang("ahead: where those that end have the room, decodes wait for it",
            "a 17+5 @1, b 22+9 @6, c 4+24 @11, d 5+16 @11, e 16+9 @11, f 12+7 @11, g 22+8 @11, h 21+24 @16", 36,
            ahead=True, blocks=91, caching=False, conservativeness=0.0, mixed=True),
    _sglang("of equal prompts that were computed side by side one is kept",
            "a 22+1 [11 12], b 12+4 [11 12 13 14 15 16 17 18 19 20], c 14+2 [11 12 13 14 15 16 17 18 19 20 21], "
            "d 22+2 @1 [11 12 13 14]", 30, ahead=True, blocks=120),
)  # fmt: skip
