"""Words of reports that `planc explain WORD` defines."""

TERMS = {
    "fitted here": (
        "The constants were fitted to rows of this GPU; those of an engine to rows of this GPU and this model. "
        "Bands come from rows that the fits did not see: other shapes of kernels, other sources and versions of "
        "servers."
    ),
    "borrowed": (
        "`borrowed from X`: the constants were fitted to rows of X, another GPU; those of an engine to rows of "
        "other GPUs or models. Bands come from whole GPUs or models that were left out, so they are wider."
    ),
    "pooled": (
        "The constants were fitted to rows of many GPUs at once; those of an engine to rows of other engines. "
        "Bands come from GPUs or engines that were left out."
    ),
    "generic": (
        "Round figures between what is commonly reported, or peaks as published: nobody measured such a kernel. "
        "The band is as wide as the calibration `generic` says."
    ),
    "measured": (
        "A row of a table of measured kernels, or between two of its rows. The band of such an op is its time "
        "alone: a table does not say how far measurements vary."
    ),
    "band": (
        "The range in which 80 % of measurements would lie. It is made from residuals of rows that fits did not "
        "see, by conformal prediction, and is wider the farther a plan is from what was fitted "
        "(docs/calibration.md). Plans that lie within each other's band may come in the other order when they are "
        "measured."
    ),
}
