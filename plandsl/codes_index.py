"""Codes of sparse attention: E530 to E534 and N510 to N514."""

_BLOCK = (
    "model m = llama_3_1_8b with {\n  index_heads = 4, index_dim = 64\n  block x[tokens, hidden] {\n"
    "    q = x @ w_iq[hidden, index_heads, index_dim]\n    k = x @ w_ik[hidden, index_dim]\n"
    "    picked = index(KEYS)\n"
    "    x = x + attention(x @ w_q[hidden, heads, head_dim], x @ w_k[hidden, kv_heads, head_dim],\n"
    "      x @ w_v[hidden, kv_heads, head_dim], among = AMONG) @ w_o[heads, head_dim, hidden]\n  }\n}\n"
)

INDEX_CODES: dict[str, tuple[str, ...]] = {
    "E530": (
        "invalid index of keys",
        "`index` takes queries with a few heads, one key of each token for all these heads, and perhaps a weight for "
        "each head of a query. `top_k` is the number of keys that a query picks.",
        _BLOCK.replace("KEYS", "q, q, top_k = 2048").replace("AMONG", "picked"),
        'docs/language.md, "Sparse attention", has the form.',
    ),
    "E531": (
        "a choice of keys in the wrong place",
        "`index` makes no tensor: its result says which keys each query sees, and only `among` of `attention` takes "
        "it. `among` takes nothing else.",
        _BLOCK.replace("KEYS", "q, k, top_k = 2048").replace("AMONG", "k"),
        "write `picked = index(q, k, w, top_k = 2048)`, and `attention(..., among = picked)` after it.",
    ),
    "N510": (
        "index keys on every rank that shares a context",
        "Each query picks among all keys of its request. Ranks that share the context of a request (`cp`, or a rule "
        "for `context`) keep its index keys whole, so that no scores travel. Keys and values of attention are split.",
        _BLOCK.replace("KEYS", "q, k, top_k = 2048").replace("AMONG", "picked")
        + "plan p {\n  model = m, node = h100_8, sharding { cp = 2 }\n  workload { input = 1024, output = 128 }\n}\n",
        "",
    ),
    "N511": (
        "no kernel of sparse attention is measured",
        "No calibration has rows of kernels that score keys and pick the best, or of attention to picked keys. Their "
        "times follow from their bytes and FLOPs, and have a band of 0.7 to 2.0, which is assumed.",
        _BLOCK.replace("KEYS", "q, k, top_k = 2048").replace("AMONG", "picked")
        + "plan p {\n  model = m, node = h100_8, sharding { tp = 8 }\n  workload { input = 1024, output = 128 }\n}\n",
        "nothing; measure your server where the difference matters.",
    ),
}
