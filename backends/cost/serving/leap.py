"""One server with vLLM's scheduler that leaps: steps between two events are taken at once.

Between two events the same requests decode, and each context grows by a token a step: the time of k steps is an
arithmetic series. An event is an arrival that can be admitted, the last token of a request, a missing block, and a mean
context at which the table of times bends. What it says equals what `replica.Replica` says step by step.

Prompts share nothing here, so that blocks are counted: a request that decodes needs a new one every ``size`` steps, and
``hist`` counts by residue how many do so in a step. Only a request that was preempted finds blocks again, its own.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from math import ceil, inf
from typing import NamedTuple

from plandsl.backends.cost.serving.blocks import Freed
from plandsl.backends.cost.serving.clock import Tabled
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import OFTEN
from plandsl.backends.cost.serving.table import Pieces
from plandsl.backends.cost.serving.vllm import Vllm

RUN = 7
"""Numbers that are written down for steps taken at once: see `Track`."""


class Track:
    """What is written down of one server, whose requests have places 0, 1, ... in the order of their arrival.

    ``runs`` has for steps taken at once: how many, seconds of the first, by how much each is longer than the one
    before, start of the first, when it was composed, how many decode, tokens of prompts. ``changes`` has four numbers
    for a step in which they change: its number, and by how much blocks (those of decodes aside), requests that run, and
    requests that are gone change. ``lives`` has place, first and last step, and tokens before the first one, of each
    stay of a request that was preempted; ``gaps`` step, place and seconds of gaps around such stays; in each of
    the ``late`` steps one of those that decode has such a gap.
    """

    def __init__(self, n: int) -> None:
        nan = float("nan")
        self.admitted, self.first, self.finish = [nan] * n, [nan] * n, [nan] * n
        self.joined, self.target, self.last = [0] * n, [0] * n, [0] * n
        self.preemptions = [0] * n
        self.runs = array("d")
        self.changes, self.lives = array("q"), array("q")
        self.gaps: list[tuple[int, int, float]] = []
        self.late: list[int] = []


def end_of_steps(start: float, seconds: float, more: float, steps: int) -> float:
    """When so many steps are over, of which the first takes ``seconds`` and each further one ``more`` than before."""
    return start + (steps * seconds + more * (0.5 * steps * (steps - 1)))


class Load(NamedTuple):
    """Requests of one server: place by place ``input`` and ``output``, and ``times`` of arrival, in order.

    Where a request may wait for the end of another, ``first`` has pairs of a time and a place of those that do not, and
    ``follow(place, end)`` has the same of who follows a request that ends; ``times`` is written then. ``tick``
    hears how many requests are over.
    """

    times: list[float]
    input: list[int]
    output: list[int]
    first: list[tuple[float, int]]
    follow: Callable[[int, float], tuple[float, int] | None] | None = None
    tick: Callable[[int], None] | None = None


class Leaper:
    """Serves requests on one server."""

    def __init__(self, worker: Worker, load: Load) -> None:
        assert isinstance(worker.policy, Vllm), "checked before"
        assert isinstance(worker.clock, Tabled), "checked before"
        self.policy, self.clock = worker.policy, worker.clock
        self.blocks, self.size, self.caching = worker.blocks, worker.block, worker.caching
        self.input, self.output = load.input, load.output
        self.load = load
        self.track = Track(len(self.input))
        self.memory = Freed(self.blocks)
        self.order: dict[int, None] = {}
        self.made: dict[int, int] = {}
        self.shown: dict[int, float] = {}
        self.front: list[int] = []
        self.ends: dict[int, list[int]] = {}
        self.hist = [0] * (2 * self.size)
        self.late = -1
        self.turned: set[int] = set()
        self.streams = False
        self.over = self.told = 0
        self.delays = [0.0] * len(self.input)

    def serve(self) -> Track:
        """Serve all requests.

        It is one function since each event reads and writes some twenty numbers, which are fastest as its variables.
        Parts of it would take them from the object and put them back, several times for each request.
        """
        policy, clock, track, size, total = self.policy, self.clock, self.track, self.size, self.blocks
        budget, most, whole, ahead = policy.budget, policy.max_running, policy.whole_prompt, policy.ahead
        spare = int(policy.watermark * (total + 1))
        input_, output, order, hist, ends, front = self.input, self.output, self.order, self.hist, self.ends, self.front
        made, memory, caching = self.made, self.memory, self.caching
        joined, target_of, last_of, times = track.joined, track.target, track.last, self.load.times
        runs, changes = track.runs, track.changes
        admitted_s = track.admitted
        pieces_of, prompt_seconds = clock.decode_pieces, clock.prompt_seconds
        engine_first, engine_each = clock.delay(0), clock.delay(1) - clock.delay(0)
        pieces: dict[int, Pieces] = {}
        queue: list[int] = []  # steps in which requests have their last token
        n = contexts = running = 0
        free = total
        step = head = there = 0  # requests from head up to there wait
        now = end = 0.0
        cut, cut_done, late = -1, 0, -1
        blocked = False
        ending: list[int] = []  # have their last token in the step before; the others in the step before that
        ended: list[int] = []
        over: list[int] = []  # the same as ending, as long as nobody was told
        fresh: list[int] = []  # have their first token in the step before
        later, follow = self.load.first, self.load.follow
        came: list[int] = []
        line: Sequence[int] = came if follow else range(sys.maxsize)
        if follow:
            coming = later[0][0] if later else inf
        else:
            times.append(inf)
            coming = times[0]
        while True:
            if now >= end and (fresh or ending):
                if fresh:
                    self._show_first(fresh, step - 1, end, engine_first + engine_each * running)
                    fresh = []
                if over:
                    coming = self._follow(over)
                    over = []
                ended += ending
                ending = []
            if ended:
                gone = len(order)
                back = self._leave(ended)
                gone -= len(order)
                free += back
                running -= gone
                changes.extend((step, -back, -gone, len(ended)))
                ended = []
                blocked = False
            while coming <= now:
                there += 1
                if follow:
                    place = heappop(later)[1]
                    times[place] = coming
                    came.append(place)
                    coming = later[0][0] if later else inf
                else:
                    coming = times[there]
                    if coming == inf and self.streams:
                        head, there, cut, late = self._refill((head, there, cut, late), (fresh, ending, ended))
                        coming = times[there]
            waits = head < there or front
            if not waits and not n and cut < 0:
                if now < end:
                    now = end if end <= coming else coming
                elif coming == inf:
                    if not follow:
                        times.pop()
                    return track
                else:
                    now = coming
                continue
            start = end if end > now else now
            # ---- steps in which the same requests decode
            if cut < 0 and n and late < 0 and (blocked or not waits) and hist[step % size] <= free:
                if fresh:
                    self._show_first(fresh, step - 1, start, engine_first + engine_each * running)
                    fresh = []
                if over:
                    coming = self._follow(over)
                    over = []
                found = pieces.get(n)
                if found is None:
                    found = pieces[n] = pieces_of(n)
                mean = contexts / n
                cuts, base, slope = found
                at = bisect_right(cuts, mean)
                more = slope[at - 1]
                seconds = base[at - 1] + more * mean
                k = queue[0] - step + 1
                if at < len(cuts):
                    bend = ceil(cuts[at] - mean)
                    if bend < k:
                        k = bend
                if not waits:
                    if coming < inf:
                        # Steps that start before the request comes, and `ahead` one more, composed before that.
                        # Without `ahead` one is left too: `start` is then `now`, and the request comes after `now`.
                        over_at = partial(end_of_steps, start, seconds, more)
                        k = min(k, bisect_left(range(k), coming, key=over_at) + ahead)
                elif ending:
                    k = 1
                residue = step % size
                rounds, rest = divmod(k, size)
                grown = rounds * n + sum(hist[residue : residue + rest])
                if grown > free:
                    k = grown = 0
                    while k < size and grown + hist[residue + k] <= free:
                        grown += hist[residue + k]
                        k += 1
                runs.extend((k, seconds, more, start, now, n, 0))
                before = (k - 1) * seconds + more * (0.5 * (k - 1) * (k - 2))
                end = end_of_steps(start, seconds, more, k)
                now = start + before if ahead else end
                contexts += n * k
                free -= grown
                step += k
                if ending:
                    if k > 1:
                        memory.take(hist[residue])
                        grown -= hist[residue]
                        back = self._leave(ending)
                        free += back
                        running -= len(ending)
                        changes.extend((step - k + 1, -back, -len(ending), len(ending)))
                    else:
                        ended = ending
                    ending = []
                memory.take(grown)
                if queue[0] < step:
                    ending = ends.pop(heappop(queue))
                    n -= len(ending)
                    contexts -= self._end(ending, step - 1, end)
                    if follow:
                        over = ending
                continue
            # ---- a step with prompts, or one that lacks blocks
            left, parts, joining, all_last = budget, [], 0, True
            lasting: list[int] = []
            changed = 0
            preempted = False
            if n:
                grown = hist[step % size]
                if grown > free:
                    preempted = True
                    had_running = len(order)
                    gone_n, gone_contexts, free, lost = self._preempt(step, end, free, (cut, cut_done), ending)
                    n -= gone_n
                    contexts -= gone_contexts
                    changed -= lost
                    running -= had_running - len(order)
                    joining -= had_running - len(order)
                    if cut >= 0 and cut not in order:
                        cut = -1
                else:
                    free -= grown
                    memory.take(grown)
                left -= n
            admitted = 0
            if cut >= 0:
                target = input_[cut] + made.get(cut, 0)
                tokens = target - cut_done
                if tokens > left:
                    tokens = left
                held = -(-cut_done // size)
                needed = -(-(cut_done + tokens) // size) - held
                if needed > free:
                    preempted = True
                    del order[cut]
                    self._send_back(cut, held, cut_done // size)
                    free += held
                    changed -= held
                    running -= 1
                    joining -= 1
                    cut = -1
                else:
                    free -= needed
                    memory.take(needed)
                    changed += needed
                    parts.append((tokens, cut_done))
                    left -= tokens
                    cut_done += tokens
                    if cut_done == target:
                        lasting.append(cut)
                        cut = -1
                    else:
                        all_last = False
            blocked = False
            if not preempted:
                while left > 0 and (front or head < there):
                    if running >= most:
                        blocked = True
                        break
                    if front:
                        place = front[-1]
                        hits = memory.found(place) if caching else 0
                        known = hits * size
                        target = input_[place] + made.get(place, 0)
                    else:
                        place = line[head]
                        known = hits = 0
                        target = input_[place]
                    tokens = target - known
                    if tokens > left:
                        tokens = left
                    needed = -(-(target if whole else known + tokens) // size)
                    if needed + (spare if running else 0) > free:
                        blocked = whole
                        break
                    held = -(-(known + tokens) // size)
                    if front:
                        front.pop()
                        if caching:
                            memory.claim(place, hits)
                    else:
                        head += 1
                        admitted_s[place] = now
                    free -= held
                    memory.take(held - hits)
                    changed += held
                    order[place] = None
                    running += 1
                    joining += 1
                    admitted += 1
                    parts.append((tokens, known))
                    left -= tokens
                    if known + tokens == target:
                        lasting.append(place)
                    else:
                        all_last = False
                        cut, cut_done = place, known + tokens
            if changed or joining:
                changes.extend((step, changed, joining, 0))
            if not n and not parts:  # nobody is in a step until blocks come back: of one whose last token is on its way
                now = coming if preempted and coming < end else end
                late = self.late = -1
                continue
            if parts:
                seconds = prompt_seconds(parts, all_last and len(parts) == admitted, admitted, n, contexts)
                tokens = budget - left - n
            else:
                tokens = 0
                seconds = pieces_of(n).at(contexts / n)
            runs.extend((1, seconds, 0.0, start, now, n, tokens))
            if fresh:
                self._show_first(fresh, step - 1, start, engine_first + engine_each * running)
                fresh = []
            if over:
                coming = self._follow(over)
                over = []
            ended, ending = ending, []
            end = start + seconds
            now = start if ahead else end
            contexts += n
            if queue and queue[0] == step:
                ending = ends.pop(heappop(queue))
                n -= len(ending)
                contexts -= self._end(ending, step, end)
            if late >= 0:
                if late in order:
                    track.gaps.append((step, late, end - self.shown[late]))
                    track.late.append(step)
                late = self.late = -1
            for place in lasting:
                had = made.get(place, 0) if made else 0
                self.turned.discard(place)
                if had:
                    track.gaps.append((step, place, end - self.shown[place]))
                else:
                    fresh.append(place)
                tokens = input_[place] + had
                joined[place] = step
                target_of[place] = tokens
                stop = last_of[place] = step + output[place] - had - 1
                if stop == step:
                    ending.append(place)
                    if had:
                        self._count(1)
                        track.finish[place] = end + self.delays[place]
                    continue
                n += 1
                contexts += tokens + 1
                self._start_decoding(place, step, tokens, queue)
            if follow:
                over = ending
            if cut in made and input_[cut] + made[cut] == cut_done + 1:  # one token is missing: from now on it decodes
                late = self.late = cut
                self.turned.add(cut)
                had = made[cut] = made[cut] - 1
                joined[cut], target_of[cut] = step, cut_done
                stop = last_of[cut] = step + output[cut] - had - 1
                n += 1
                contexts += cut_done + 1
                self._start_decoding(cut, step, cut_done, queue)
                cut = -1
            step += 1

    def _start_decoding(self, place: int, step: int, tokens: int, queue: list[int]) -> None:
        """A request decodes behind ``step``, with ``tokens`` before that: it needs blocks, and ends some time."""
        residue, stop = (step + 1 - tokens) % self.size, self.track.last[place]
        self.hist[residue] += 1
        self.hist[residue + self.size] += 1
        if stop in self.ends:
            self.ends[stop].append(place)
        else:
            self.ends[stop] = [place]
            heappush(queue, stop)

    def _refill(self, places: tuple[int, int, int, int], lists: Sequence[list[int]]) -> tuple[int, int, int, int]:
        """Fetch more requests, where they come in parts: then the ``places`` and ``lists`` of the others change."""
        raise AssertionError("all requests are there")

    def _show_first(self, fresh: list[int], step: int, end: float, delay: float) -> None:
        """Requests have their first token in ``step``, some also their last, after a ``delay``."""
        track, delays = self.track, self.delays
        over = 0
        for place in fresh:
            delays[place] = delay
            track.first[place] = end + delay
            if track.last[place] == step:
                over += 1
                track.finish[place] = end + delay
        if over:
            self._count(over)

    def _end(self, ending: list[int], step: int, end: float) -> int:
        """Requests have their last token in ``step``. What they had added to the contexts of the next step."""
        track, size, hist, delays, finish = self.track, self.size, self.hist, self.delays, self.track.finish
        contexts = 0
        for place in ending:
            since, tokens = track.joined[place], track.target[place]
            contexts += tokens + step + 1 - since
            residue = (since + 1 - tokens) % size
            hist[residue] -= 1
            hist[residue + size] -= 1
            finish[place] = end + delays[place]
        self._count(len(ending))
        return contexts

    def _count(self, over: int) -> None:
        """So many requests more are over."""
        self.over += over
        if self.load.tick and self.over // OFTEN > self.told:
            self.told = self.over // OFTEN
            self.load.tick(self.told * OFTEN)

    def _follow(self, over: list[int]) -> float:
        """What waited for the end of requests comes. When the next request comes."""
        load = self.load
        assert load.follow is not None, "requests wait for others"
        for place in over:
            if following := load.follow(place, self.track.finish[place]):
                heappush(load.first, following)
        return load.first[0][0] if load.first else inf

    def _preempt(
        self, step: int, end: float, free: int, cut: tuple[int, int], ending: list[int]
    ) -> tuple[int, int, int, int]:
        """Compose a step whose decodes lack blocks: as `Vllm` does, in the order of admission.

        Returns how many of those that decode go, their contexts in this step, blocks that are free then, and blocks
        that were given back.
        """
        order, joined, target, size = self.order, self.track.joined, self.track.target, self.size
        over, residue = set(ending), step % size
        gone = contexts = lost = 0
        for place in list(order):
            if place not in order or place == cut[0]:
                break
            if place in over or (joined[place] + 1 - target[place] - residue) % size:
                continue
            while not free:
                last, _ = order.popitem()
                if last == cut[0]:
                    held, full = -(-cut[1] // size), cut[1] // size
                else:
                    computed = target[last] + step - 1 - joined[last]
                    held, full = -(-computed // size), self._known(last, step - 1) // size
                    if last not in over:
                        gone += 1
                        contexts += computed + 1
                        self._stop(last, step, end)
                self._send_back(last, held, full)
                free += held
                lost += held
                if last == place:
                    return gone, contexts, free, lost
            free -= 1
            self.memory.take(1)
        return gone, contexts, free, lost

    def _known(self, place: int, step: int) -> int:
        """Tokens of a request whose content was known when ``step`` was composed, the last one that it was in."""
        since, tokens = self.track.joined[place], self.track.target[place]
        if not self.policy.ahead:
            return tokens + step - since
        return tokens + max(step - 1 - since, int(place in self.turned and step > since), 0)

    def _leave(self, ended: list[int]) -> int:
        """Requests that have their last token leave, wherever they are. Blocks that are free then."""
        size, input_, output, order, memory = self.size, self.input, self.output, self.order, self.memory
        back = 0
        for place in ended:
            if place in order:
                del order[place]
                tokens = input_[place] + output[place] - 1
                held = -(-tokens // size)
                back += held
                memory.put(held, tokens // size)
            else:
                self.front.remove(place)
        return back

    def _stop(self, place: int, step: int, end: float) -> None:
        """A request that decodes is not in ``step``; its last token is there at ``end``."""
        track, size = self.track, self.size
        since, tokens, stop = track.joined[place], track.target[place], track.last[place]
        track.lives.extend((place, since, step - 1, tokens))
        self.made[place] = self.made.get(place, 0) + step - since
        if place != self.late:
            self.shown[place] = end
        self.ends[stop].remove(place)
        residue = (since + 1 - tokens) % size
        self.hist[residue] -= 1
        self.hist[residue + size] -= 1

    def _send_back(self, place: int, held: int, full: int) -> None:
        """A request gives its blocks back, ``full`` of them with content, and waits in front of all others."""
        self.track.preemptions[place] += 1
        self.front.append(place)
        self.memory.keep(place, held, full)
