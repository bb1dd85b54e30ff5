"""The one place that names the version; pyproject.toml reads it from here."""

__version__ = "0.1.0"

LANGUAGE = 1
"""The version of the language that this compiler reads: the number of a file's `plandsl = 1` line."""
