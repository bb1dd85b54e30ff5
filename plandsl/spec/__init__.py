"""Resolved declarations: what a `.plan` file means, with names bound, units gone and spans kept.

The grammar makes these values, the passes read them. All quantities are SI.
"""
