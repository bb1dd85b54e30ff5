"""A device whose kernels take the time of a formula, in the place of a GPU that is measured."""

from plandsl.backends.measure import cases
from plandsl.backends.measure.devices import About, Refused

PEAK, BANDWIDTH = 2e12, 1e11


class Made:
    """A device of formulas: 70 % of its peak, 80 % of its bandwidth, and 20 us for every kernel."""

    def __init__(self, refuses=lambda case: "", after=None):
        self.about = About("made up", "formulas 1.0", 16, 64e9, devices=2, host=False)
        self.refuses, self.after, self.prepared = refuses, after, []
        self.now = 0.0

    def prepare(self, case, copies):
        if self.after is not None and len(self.prepared) >= self.after:
            raise KeyboardInterrupt
        if why := self.refuses(case):
            raise Refused(why)
        self.prepared.append(case)
        share = 1.0 if case.file == cases.PEAKS else 0.8
        seconds = 2e-5 * (share < 1) + max(case.flops / PEAK / 0.7, case.moved / BANDWIDTH / share, 1e-6)
        turns = iter(range(10**6))

        def once():
            self.now += seconds * copies
            return seconds * (1 + next(turns) % 3 / 10)

        return once

    def clock(self):
        return self.now
