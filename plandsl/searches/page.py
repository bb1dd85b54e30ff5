"""What a report page shows of a search: its tables as they are printed, and a sample of its configurations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plandsl.backends.report import Point, SearchShown
from plandsl.searches.answer import Configuration, configurations
from plandsl.searches.plot import SearchResult, caption, goal_line, latencies
from plandsl.searches.points import Points, thin
from plandsl.searches.run import Found
from plandsl.searches.show import Answer, answer_parts
from plandsl.searches.tally import Rows

MOST_POINTS = 2000
"""Most configurations in the scatter plots, beside those of the front and the best."""


def show_search(found: Found, answer: Answer, points: Points) -> SearchShown:
    """The search for a page. What is drawn does not depend on the order in which configurations were found."""
    drawn = [SearchResult(found, answer.front, points)]
    chosen = tuple(_points(found, answer, points))
    told = goal_line(drawn[0]).removeprefix(f"{found.search.name}: ")
    said = "; ".join(filter(None, (told, caption(drawn))))
    per_gpu = points.vertical == "throughput_per_gpu"
    times = [metric for metric in latencies(drawn) if any(getattr(p, metric) == getattr(p, metric) for p in chosen)]
    bounds = [(r.metric, r.bound, r.text) for r in found.search.requires if r.metric in times]
    return SearchShown(found.search.name, said, answer_parts(found, answer), chosen,
                       seen=found.tally.seen, per_gpu=per_gpu, latencies=times, requires=bounds)  # fmt: skip


def _points(found: Found, answer: Answer, points: Points) -> Iterator[Point]:
    """A sample of each plan, the front and the best; a configuration that is several of these comes once."""
    ranks = {row.number: rank for rank, row in enumerate(answer.top, 1)}
    front = {row.number for row in answer.front}
    quota = max(1, MOST_POINTS // max(1, len(points.clouds)))
    told: set[int] = set()
    for group, cloud in points.clouds.items():
        kept = set(thin(cloud, quota).numbers.tolist()) | front | set(ranks)
        own = [number in kept for number in cloud.numbers.tolist()]
        for row in configurations(found, _where(cloud, own)):
            told.add(row.number)
            yield _point(group, row, points.vertical, front, ranks)
    for row in (*answer.top, *answer.front):
        if row.number not in told:
            told.add(row.number)
            yield _point(points.group_of(row.combination), row, points.vertical, front, ranks)


def _where(rows: Rows, which: Sequence[bool]) -> Rows:
    return Rows(rows.numbers[list(which)], rows.metrics[list(which)])


def _point(group: str, row: Configuration, vertical: str, front: set[int], ranks: dict[int, int]) -> Point:
    m = row.metrics
    return Point(group, row.label, tpot=m["tpot"], ttft=m["ttft"], latency=m["latency"], throughput=m[vertical],
                 memory=m["memory"], front=row.number in front, rank=ranks.get(row.number, 0))  # fmt: skip
