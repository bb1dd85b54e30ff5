"""Searches: evaluate a space of plans by arrays, rank the plans, and say why the others are out."""
