"""Print the questions of the field: seen, ours, and whether within the tolerance that the source supports.

python -m benchmarks.field
"""

from __future__ import annotations

from benchmarks.claim import settle, table
from benchmarks.field.cases import FIELD, SOURCES

if __name__ == "__main__":
    print(table(settle(FIELD)))
    print("\n".join(f"{case}: {source}" for case, source in SOURCES.items()))
