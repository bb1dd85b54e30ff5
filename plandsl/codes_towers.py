"""Codes of towers, which encode images, and of loads with images: E545 to E549, E576 and N525."""

_VIT = (
    "model vit {\n  layers = 2, hidden = 64, heads = 4, head_dim = 16, patch = 588, merged = 256, out = OUT\n"
    "  weights = bf16, causal = false\n  embedding patches @ w_patch[patch, hidden]\n"
    "  block x[tokens, hidden] {\n    h = rms_norm(x)\n    k = h @ w_k[hidden, heads, head_dim]\n"
    "    v = h @ w_v[hidden, heads, head_dim]\n"
    "    x = x + attention(h @ w_q[hidden, heads, head_dim], k, v) @ w_o[heads, head_dim, hidden]\n  }\n"
    "  head merge(rms_norm(x), tokens = 4, into = merged) @ w_out[merged, out]\n}\n"
)
_SEES = _VIT.replace("OUT", "4096") + "model sees = llama_3_1_8b with { tower = vit }\n"
_PLAN = "plan serve {\n  model = sees, node = h100_8, sharding { tp = 4 }\n  workload { LOAD }\n}\n"
_LOAD = "input = 1000, output = 100, images = 2, image_tokens = 256"

TOWER_CODES: dict[str, tuple[str, ...]] = {
    "E545": (
        "images for a model without a tower",
        "`images` and `image_tokens` of a load, and `tower` of a plan, are about a model that has a `tower { }`: an "
        "encoder that turns images into vectors, which take the places of prompt tokens.",
        _PLAN.replace("sees", "llama_3_1_8b").replace("LOAD", _LOAD),
        "leave them out, or choose a model with a tower.",
    ),
    "E546": (
        "images that no prompt can hold",
        "`input` counts all tokens of a prompt, those of its images too. The images of a prompt cannot have more "
        "tokens than the prompt, nor an image more patches than the tower has positions.",
        _SEES + _PLAN.replace("LOAD", "input = 1000, output = 100, images = 5, image_tokens = 256"),
        "make `input` larger, or `images` or `image_tokens` smaller.",
    ),
    "E547": (
        "invalid tower",
        "A tower is a model with `causal = false` whose embedding multiplies patches of an image, as in "
        "`patches @ w_patch[patch, hidden]`, and whose head gives vectors as wide as the embedding of the model.",
        _VIT.replace("OUT", "1024") + "model sees = llama_3_1_8b with { tower = vit }\n",
        "give the last weight of the tower's head the width of the model.",
    ),
    "E548": (
        "invalid `merge`",
        "`merge(x, tokens = 4, into = merged)` makes one token of each four neighbours, whose rows it joins; without "
        "`into` it takes their mean. It stands once, in the head of a model with `causal = false`.",
        _VIT.replace("OUT", "4096").replace("merged = 256", "merged = 512"),
        "`merged` is as many times `hidden` as `tokens` says.",
    ),
    "E549": (
        "invalid sharding of a tower",
        "A tower runs on the GPUs of each stage of its plan, so the ranks of its sharding divide those of a stage. It "
        "has no stages or replicas of its own.",
        _SEES + _PLAN.replace("LOAD", _LOAD).replace("workload", "tower { sharding { tp = 2, pp = 4 } }\n  workload"),
        "split its dimensions, or its images: `tower { sharding { mesh gpu = 4  batch -> gpu } }`.",
    ),
    "E576": (
        "images of a file",
        "The number of images of a prompt is drawn from a distribution, whose mean the closed form needs. A file of "
        "numbers is not read for it.",
        _SEES
        + _PLAN.replace("LOAD", 'input = 1000, output = 100, images = empirical("images.csv"), image_tokens = 256'),
        "write a distribution of numbers, such as `images = uniform(0, 4)`.",
    ),
    "N525": (
        "the images of a load are spread evenly",
        "A load says how many images a prompt has on average. The estimate and the simulation spread them evenly over "
        "the prompt tokens: a longer prompt has more images, and a chunk of a prompt has its share of them.",
        _SEES + _PLAN.replace("LOAD", _LOAD),
        "where prompts differ much, say how: with `images = uniform(0, 4)` the simulation draws those of each prompt.",
    ),
}
