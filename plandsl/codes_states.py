"""Codes of layers with a state: E475 to E479, E575 and N475."""

_BLOCK = (
    "model m = llama_3_1_8b with {\n  n = 64, width = 4\n  block x[tokens, hidden] {\n    q = x @ w_q[hidden, n]\n"
    "    k = x @ w_k[hidden, n]\n    v = x @ w_v[hidden, heads, head_dim]\n    BODY\n"
    "    x = x + y @ w_o[heads, head_dim, hidden]\n  }\n}\n"
)

STATE_CODES: dict[str, tuple[str, ...]] = {
    "E475": (
        "invalid layer with a state",
        "`short_conv` takes a value, a weight with a factor for each tap and channel, and perhaps a bias. `recurrence` "
        "takes queries, keys and values, and by name what the decay, the new keys and values and the result depend on. "
        "Their dimensions must fit the state, which has heads, the last dimension of a key, and that of a value.",
        _BLOCK.replace("BODY", "y = recurrence(q, k, v, step = x @ w_s[hidden, heads])"),
        'docs/language.md, "Layers with a state", has the forms.',
    ),
    "E575": (
        "groups of a norm that make no sense",
        "`groups` of a norm names a dimension of the model: how many groups of neighbouring heads are normalised "
        "together. The heads are the dimension before the one that the norm is over, and the groups divide them.",
        _BLOCK.replace("BODY", "y = rms_norm(v, gain = none, groups = width)").replace("width = 4", "width = 5"),
        "name a dimension that divides the heads, such as `groups = state_groups`.",
    ),
    "N475": (
        "ranks that scan the same positions",
        "Ranks that share the positions of a prompt hand on what each of them does to a state. Where other ranks split "
        "the dimension of values of that state, they gather all positions instead, and each scans all of them.",
        _BLOCK.replace("BODY", "y = recurrence(q, k, v)")
        + "plan p {\n  model = m, node = h100_8\n  sharding { mesh seq = 2, values = 2\n    tokens -> seq\n"
        "    head_dim -> values }\n  workload { input = 1024, output = 128 }\n}\n",
        "split heads instead of the dimension of values, with `tp` or `sp`.",
    ),
}
