"""The fuzzer: inputs for every reader and every verb, drawn or mutated, each run within bounds of time and memory.

`python -m tests.fuzz --minutes 5` (`make fuzz MINUTES=5`) runs it; CONTRIBUTING.md has a section about it.
"""
