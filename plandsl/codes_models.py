"""The codes of what a model does with tokens and a load asks of it: title, text, an example and what to do."""

from __future__ import annotations

MODEL_CODES: dict[str, tuple[str, str, str, str]] = {
    "E480": (
        "requests longer than the positions that a model knows",
        "`lookup(w[positions, hidden], by = position)` has a row for each position. A token behind the last row has no "
        "position, and such a model cannot be asked about it.",
        "model tiny {\n  layers = 4, hidden = 64, positions = 512, vocab = 1000, weights = bf16\n"
        "  embedding w_embed[vocab, hidden] + lookup(w_positions[positions, hidden], by = position)\n"
        "  block x[tokens, hidden] { x = x + rms_norm(x) }\n  head rms_norm(x) @ w_embed[vocab, hidden]\n}\n"
        "plan serve { model = tiny, node = h100_1, workload { input = 1000, output = 100 } }\n",
        "shorten the requests: texts that are longer are cut before the model sees them.",
    ),
    "E481": (
        "a figure of output where nothing comes out",
        "With `output = 0` a load is of texts that an encoder reads: there are no decode steps, so no TPOT, no tokens "
        "of a KV cache, no cost of output, nothing to guess, nothing for a decode pool and no decode step to draw.",
        "model tiny {\n  layers = 4, hidden = 64, vocab = 1000, weights = bf16\n"
        "  embedding w_embed[vocab, hidden]\n"
        "  block x[tokens, hidden] { x = x + rms_norm(x) }\n  head rms_norm(x)\n}\n"
        "plan serve {\n  model = tiny, node = h100_1, workload { input = 500, output = 0 }\n"
        "  require tpot <= 10 ms\n}\n",
        "ask for `latency`, `throughput` (of input tokens), `request_throughput` or `cost_request`.",
    ),
}
