"""The codes of `hf(...)`: title, text, a config.json that produces it, and what to do."""

from __future__ import annotations

_SIZES = (
    '  "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,\n'
    '  "intermediate_size": 256, "vocab_size": 1000, "torch_dtype": "bfloat16"'
)

HF_CODES: dict[str, tuple[str, str, str, str]] = {
    "E230": (
        "the config is not valid JSON",
        "`hf` reads one JSON object. The message points at the first place where the text is not valid JSON.",
        '{\n  "architectures": ["LlamaForCausalLM"],\n  "hidden_size": 4096,\n}\n',
        "correct the file, or fetch it again.",
    ),
    "E231": (
        "unknown architecture",
        "A config names its family in `architectures`, or by its `model_type`. The message lists the families that "
        "`hf` knows; a similar name says nothing about the layers of another.",
        '{\n  "architectures": ["MambaForCausalLM"],\n  "model_type": "mamba"\n}\n',
        "write the model as a block: `planc catalog model llama_3_1_8b` prints one to start from.",
    ),
    "E232": (
        "`hf` cannot translate this field",
        "The field changes what the model computes, and `hf` cannot express it in the language. Ignoring it would give "
        "wrong numbers.",
        '{\n  "architectures": ["LlamaForCausalLM"], "hidden_act": "mish",\n' + _SIZES + "\n}\n",
        "print a similar model with `planc catalog model FILE.json`, and change its block.",
    ),
    "N201": (
        "what `hf` leaves out or assumes",
        "The model made from this config.json differs from the checkpoint: `hf` leaves a part out, does not read a "
        "field, or assumes the default of the model's class for a field that the file does not have.",
        '{\n  "architectures": ["LlamaForCausalLM"], "some_field": 1,\n' + _SIZES + "\n}\n",
        "nothing, if it does not matter for this plan; else change the model with `with`, or write it as a block.",
    ),
}
