"""Resolved declarations of a `.plan` file: names are bound, quantities are in SI units, spans are kept.

The grammar makes these values, and the passes read them.
"""
