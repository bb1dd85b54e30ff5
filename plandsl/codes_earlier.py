"""Codes of values that layers take from earlier layers, and of their items: E567 to E571."""

_MODEL = (
    "model m = llama_3_1_8b with {\n  block [layers = 0..16] x[tokens, hidden] {\n    h = rms_norm(x)\n"
    "    k = h @ w_k[hidden, kv_heads, head_dim]\n    v = h @ w_v[hidden, kv_heads, head_dim]\n"
    "    a = attention(h @ w_q[hidden, heads, head_dim], k, v, window = 4096)\n"
    "    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n"
    "  block second [layers = 16..32] x[tokens, hidden] {\n    h = rms_norm(x)\n"
    "    a = attention(h @ w_q[hidden, heads, head_dim], earlier.KEYS, earlier.v, window = WINDOW)\n"
    "    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n}\n"
)
_PLAN = (
    "plan p {\n  model = m, node = h100_8, sharding { pp = 2, cut = [20, 12] }\n"
    "  workload { input = 1024, output = 128 }\n}\n"
)

EARLIER_CODES: dict[str, tuple[str, ...]] = {
    "E567": (
        "stages part layers that share values",
        "Keys that a later layer takes from an earlier one are in the memory of the GPUs that run the earlier one. So "
        "both layers are on one stage, and so are layers that share a choice of keys. What the embedding makes is sent "
        "from stage to stage.",
        _MODEL.replace("KEYS", "k").replace("WINDOW", "4096") + _PLAN,
        "leave `cut` out: stages then begin where no layer is parted from its values.",
    ),
    "E568": (
        "no such value of an earlier layer",
        "`earlier.k` is the value `k` of the last layer before this one that makes one, or of the embedding. Each "
        "layer of the block needs such a layer. Keys and values that are taken together come with their cache: an "
        "attention of the earlier layer has both under these names.",
        _MODEL.replace("KEYS", "keys").replace("WINDOW", "4096"),
        'docs/language.md, "Values of earlier layers", has the forms.',
    ),
    "E569": (
        "more keys than an earlier layer keeps",
        "A layer that takes the keys of an earlier layer sees what that layer keeps: with a window, older keys are "
        "gone. A choice of keys is made among the keys that one attention sees, and holds for the same keys only.",
        _MODEL.replace("KEYS", "k").replace("WINDOW", "8192"),
        "give both attentions the same `window` or `chunk`.",
    ),
    "E570": (
        "no such item",
        "`item(x, over = each, at = 0)` is one item of a value along a dimension. `at = layer` is the item with the "
        "number of the layer that runs: only a block has it, and the dimension has one item for each layer.",
        "model m = llama_3_1_8b with {\n  each = 16, row = 64\n  embedding e = w_embed[vocab, hidden] {\n"
        "    rows = e @ w_rows[hidden, each, row]\n  }\n  block x[tokens, hidden] {\n"
        "    x = x + item(earlier.rows, over = each, at = layer) @ w_row[row, hidden]\n  }\n}\n",
        "give the dimension as many items as the model has layers.",
    ),
    "E571": (
        "invalid streams",
        "Models with several residual streams hold them in one value, `x[tokens, streams, hidden]`. `stack`, `spread`, "
        "`mix` and `match` make such values and mix them; `excess` passes the largest elements of a value. Each has "
        "dimensions that the model declares.",
        "model m = llama_3_1_8b with {\n  streams = 3\n  embedding e = w_embed[vocab, hidden] {\n"
        "    stack(e, e, into = streams)\n  }\n  block x[tokens, streams, hidden] {\n"
        "    y = item(x, over = streams, at = 0)\n    x = x + spread(rms_norm(y), into = streams)\n  }\n"
        "  head rms_norm(item(x, over = streams, at = 0)) @ w_head[hidden, vocab]\n}\n",
        'docs/language.md, "Several residual streams", has the forms.',
    ),
}
