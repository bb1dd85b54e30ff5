"""Timelines for other tools: Trace Event JSON for Perfetto, and Chakra execution traces for simulators of networks."""
