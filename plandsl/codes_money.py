"""Codes of money and energy."""

_PLAN = """plan p {{
  model = llama_3_1_8b
  node = {node}
  workload {{ input = 1024, output = 128{more} }}
}}
"""

MONEY_CODES = {
    "E463": (
        "the power of the GPU is not known",
        "Energy is computed from what a GPU may draw and what it draws without work, and neither the plan nor the "
        "catalog says both.",
        _PLAN.format(node="h20_8", more="").rstrip().removesuffix("}") + "  require energy <= 2 J\n}\n",
        "state them: `node = h20_8 with { gpu { power_idle = 75 W } }`.",
    ),
    "N463": (
        "the price of the node counts",
        "The node has a price of its own, by which it is rented whole. Its GPUs have prices too, and those change "
        "nothing.",
        _PLAN.format(node="h100_8 with { price = 20 USD/h, gpu { price = 2 USD/h } }", more=""),
        "nothing, if the node is rented whole; else leave out its price.",
    ),
    "N464": (
        "the requests in flight that the compiler chose",
        "The load has a `demand`, and neither a `batch`, a `concurrency` nor a `rate`. Each copy of the plan gets the "
        "most requests in flight with which it keeps the bounds on times; the demand is then dealt evenly to the "
        "fewest copies that bear it.",
        "",
        "nothing, if that is intended; a `concurrency` states the requests in flight.",
    ),
    "N465": (
        "no reserved price",
        "The plan pays by `pricing = reserved`, and a GPU has no price of that kind. A price that the plan states "
        "takes the place of the catalog's prices of both kinds.",
        _PLAN.format(node="l40s_1", more="").rstrip().removesuffix("}") + "  pricing = reserved\n}\n",
        "state it: `node = l40s_1 with { gpu { price_reserved = 1 USD/h } }`.",
    ),
    "W463": (
        "the power of some nodes leaves out their hosts",
        "A goal compares the energy of nodes, and only for some of them is it known what hosts, fans and network cards "
        "draw.",
        "search greenest {\n  model = llama_3_1_8b, workload { input = 1000, output = 100, batch = 8 }\n"
        "  vary node in [h100_8, b200_8], tp in [1, 2]\n  minimize energy\n}\n",
        "state `overhead`, W beside each GPU, for the others: `b200_8 with { overhead = 350 W }`.",
    ),
}
