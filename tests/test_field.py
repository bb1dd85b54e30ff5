"""Questions of people who deploy: what they saw, beside what plandsl says (`make field`)."""

import pytest

from benchmarks.claim import settle, table
from benchmarks.field.cases import FIELD, FOLDER, SOURCES


@pytest.mark.parametrize("claim", [c for c in FIELD if c.gated], ids=lambda c: c.name)
def test_answer_agrees_with_what_was_seen(claim):
    ours = claim.ours()
    assert claim.holds(ours), f"{claim.what}: {claim.printed} seen, {ours} here"


def test_every_case_has_a_source():
    assert {c.name.partition(".")[0] for c in FIELD} == set(SOURCES)


def test_every_plan_is_asked_by_a_case():
    asked = {c.name.partition(".")[0] for c in FIELD}
    assert {f"F{int(path.stem[1:3])}" for path in FOLDER.glob("*.plan")} <= asked


def test_the_table_has_a_line_for_each_row():
    rows = [c for c in FIELD if c.name.startswith("F31")]
    lines = table(settle(rows)).splitlines()
    assert [line.split()[0] for line in lines[1 : len(rows) + 1]] == [c.name for c in rows]
