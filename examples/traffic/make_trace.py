"""Makes `service.csv`, an invented trace in the format of Azure's: no line of it was ever sent to a service.

Run it as ``python examples/traffic/make_trace.py``; the seed of the workload gives the same bytes on every machine.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.driver import open_text
from plandsl.files import write_file

SERVICE = """
workload service {
  rate = gamma(mean = 5 req/s, cv = 2), requests = 800, seed = 20
  class chat      { share = 85 %, input = lognormal(p50 = 400, p95 = 2000),  output = lognormal(p50 = 180, p95 = 600) }
  class documents { share = 15 %, input = lognormal(p50 = 4000, p95 = 9000), output = lognormal(p50 = 250, p95 = 500) }
}
"""
"""Bursts of chat, with a long document now and then."""

START = datetime(2026, 1, 5, 9, 0)


def trace() -> str:
    """The text of the file."""
    drawn = draw_requests(open_text(SERVICE).spec("workload", "service")).requests
    rows = zip(drawn.arrival_s.tolist(), drawn.input.tolist(), drawn.output.tolist(), strict=True)
    lines = [f"{START + timedelta(seconds=at):%Y-%m-%d %H:%M:%S.%f},{size_in},{out}" for at, size_in, out in rows]
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n"


if __name__ == "__main__":
    write_file(Path(__file__).with_name("service.csv"), trace())
