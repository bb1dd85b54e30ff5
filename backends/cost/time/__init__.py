"""A schedule played: when things run."""
