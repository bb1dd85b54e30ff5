"""Writes a report page: answers about plans and searches, as one HTML file that needs no network."""

from __future__ import annotations

from plandsl.backends.report.page import write_page
from plandsl.backends.report.values import Page, PlanShown, Point, SearchShown

__all__ = ["Page", "PlanShown", "Point", "SearchShown", "write_page"]
