"""The Python API: plans as objects, functions on them, and results that show themselves and give their tables."""
