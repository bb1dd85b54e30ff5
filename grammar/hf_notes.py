"""Findings about fields of a config.json that the model cannot express or leaves out: none is dropped silently."""

from __future__ import annotations

import re

from plandsl.grammar.hf_config import Config, json_list
from plandsl.grammar.hf_families import Family
from plandsl.grammar.hf_shape import CHUNK

_REFUSED = {
    "is_encoder_decoder": "an encoder and a decoder",
    "add_cross_attention": "cross-attention",
    "use_bidirectional_attention": "attention in both directions",
    CHUNK: "attention in chunks for this family",
    "pruned_heads": "layers with different numbers of heads",
}
"""Fields that change the program in a way that `hf` cannot write."""

_IRRELEVANT = frozenset(
    re.findall(
        r"\w+",
        """
    _name_or_path _attn_implementation transformers_version auto_map tokenizer_class torchscript use_cache return_dict
    output_attentions output_hidden_states output_past output_router_logits id2label label2id num_labels problem_type
    finetuning_task task_specific_params is_decoder tie_encoder_decoder chunk_size_feed_forward prefix
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
    initializer_range initializer_factor rms_norm_eps layer_norm_eps hidden_dropout attention_dropout
    layer_norm_epsilon norm_eps norm_epsilon
    rope_theta rope_scaling rope_parameters rope_local_base_freq rope_interleave partial_rotary_factor
    initial_context_length query_pre_attn_scalar cache_implementation pretraining_tp
    router_aux_loss_coef router_jitter_noise aux_loss_alpha seq_aux ep_size
    attn_scale floor_scale no_rope_layer_interval for_llm_compressor
    n_group topk_group num_experts_per_tok experts_per_token
    """,
    )
)
"""Fields that change neither shapes nor time: positions, training, generation, and groups of experts."""


def refuse(config: Config, family: Family) -> None:
    """Record an error for each field that asks for a program that `hf` cannot write."""
    read = {key for field in family.fields for key in field.keys} | set(family.skipped)
    for key, what in _REFUSED.items():
        if key not in read and config.get(key):
            config.fail("E232", f'"{key}": `hf` cannot write {what}', key, "write the model as a block")


def tell(config: Config, family: Family) -> None:
    """Record a note for each feature of the file that the text of the model leaves out."""
    if config.get("audio_config"):
        config.note("only text and images are written: audio is left out", "audio_config")
    if config.assumed:
        words = ", ".join(f"{key} = {value:,}" for key, value in config.assumed.items() if value)
        if words:
            config.note(f"defaults of {family.architecture} are used: {words}")
    config.used |= _IRRELEVANT
    if unknown := config.unread():
        names = json_list(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        config.note(f"`hf` does not read {names}", unknown[0])
