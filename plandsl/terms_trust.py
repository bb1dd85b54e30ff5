"""Words of reports that rank plans, and about how far numbers can be trusted."""

from __future__ import annotations

Entries = dict[str, tuple[str, tuple[str, ...], str]]

BANDS = "docs/calibration.md#bands"
ORIGINS = "docs/calibration.md#where-constants-come-from"
SEARCH = "docs/search.md#two-services-on-one-node"

RANKINGS: Entries = {
    "front": (
        "The configurations that no other beats in all metrics together (Pareto front).",
        ("pareto front", "pareto"),
        SEARCH,
    ),
    "beaten": (
        "Meets every requirement, but one of the front is at least as good in all of its metrics.",
        ("dominated",),
        SEARCH,
    ),
    "unrated": ("Meets every requirement, but lacks one of the metrics of the front.", (), SEARCH),
    "out": (
        "Configurations that do not fit or miss a requirement; each counts once, at the first that it misses.",
        ("excluded", "simulated, and out"),
        SEARCH,
    ),
    "invalid": (
        "Plans that cannot be built: a degree does not divide, or ranks exceed GPUs. They are not evaluated.",
        (),
        SEARCH,
    ),
    "configuration": (
        "One combination of the fields that a search varies.",
        ("configurations", "candidate", "not simulated"),
        SEARCH,
    ),
    "goal": ("What a search ranks by, the first goal first.", ("maximize", "minimize"), SEARCH),
    "nearest": (
        "The configuration that misses the requirements by the smallest factor, where none meets all.",
        (),
        SEARCH,
    ),
    "knee": (
        "The point of a curve of throughput over latency from which more load costs more latency than it brings.",
        (),
        "docs/search.md#throughput-against-latency",
    ),
    "compared": (
        "The plans of a file beside one another; the best of each column is bold.",
        ("side by side", "GPU", "GPUs", "cluster", "node"),
        "docs/language.md#side-by-side",
    ),
    "term by term": (
        "The time of both plans of a `diff`, group by group, and how much each changed.",
        ("change", "what differs", "nothing"),
        "docs/language.md#diff",
    ),
    "GPU hours": (
        "Replicas * their GPUs * hours.",
        ("over the load", "scaled", "fixed", "replicas over the day", "from", "to"),
        "docs/search.md#replicas-over-the-day",
    ),
    "answered": (
        "Rows of measurements that a prediction exists for; the others are refused, with the reason.",
        ("rows", "group", "refused"),
        "docs/calibration.md#files",
    ),
    "bias": ("The mean of the signed errors: above 0, predictions are too long.", (), "docs/calibration.md#files"),
    "in band": ("The share of measured rows that lie within the band of their prediction.", (), BANDS),
}

TRUST: Entries = {
    "band": (
        "The range in which 80 % of measurements would lie. It is made from residuals of rows that fits did not "
        "see, by conformal prediction, and is wider the farther a plan is from what was fitted. Plans that lie within "
        "each other's band may come in the other order when they are measured.",
        ("no band", "within each other's band"),
        BANDS,
    ),
    "fitted here": (
        "The constants were fitted to rows of this GPU; those of an engine to rows of this GPU and this model. "
        "Bands come from rows that the fits did not see: other shapes of kernels, other sources and versions of "
        "servers.",
        (),
        ORIGINS,
    ),
    "borrowed": (
        "`borrowed from X`: the constants were fitted to rows of X, another GPU; those of an engine to rows of "
        "other GPUs or models. Bands come from whole GPUs or models that were left out, so they are wider.",
        ("borrowed from",),
        ORIGINS,
    ),
    "pooled": (
        "The constants were fitted to rows of many GPUs at once; those of an engine to rows of other engines. "
        "Bands come from GPUs or engines that were left out.",
        (),
        ORIGINS,
    ),
    "generic": (
        "Round figures between what is commonly reported, or peaks as published: nobody measured such a kernel. "
        "The band is as wide as the calibration `generic` says.",
        (),
        ORIGINS,
    ),
    "measured": (
        "A row of a table of measured kernels, or between two of its rows. The band of such an op is its time "
        "alone: a table does not say how far measurements vary.",
        ("table",),
        "docs/cost.md#measured-kernels",
    ),
    "assumed": ("A figure that nobody published or measured, and what the plan takes for it.", ("not set",), ORIGINS),
}
