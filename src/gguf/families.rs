//! The kinds of models that GGUF files hold, one entry of [`FAMILIES`] for each `general.architecture`.
//!
//! To add one: what transformers calls it, which keys are which fields of config.json, which tensors have which names, and
//! how its rotary pairs lie. What does not fit into tables goes into a function of `config.rs`.

use super::config::{Field, Keys, dense_llama};
use super::metadata::Metadata;
use super::names::Names;
use crate::error::{Result, quote};
use serde_json::{Map, Value};

/// What is known of a kind of models.
pub(super) struct Family {
    /// `general.architecture`, with which its keys begin.
    pub(super) name: &'static str,
    /// Whether an architecture of this name is meant, where several share it.
    pub(super) is_meant: fn(&Metadata) -> bool,
    /// config.json's `model_type` and entry of `architectures`.
    pub(super) model_type: &'static str,
    pub(super) class: &'static str,
    pub(super) fields: &'static [&'static [Field]],
    /// What of the config no table says.
    pub(super) more: fn(&Keys, &mut Map<String, Value>) -> Result<()>,
    pub(super) names: &'static Names,
    /// How the rows of queries and keys were put for rotary positions.
    pub(super) pairs: Pairs,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// As transformers has them, or none do.
    AsTransformers,
    /// The converter put them side by side.
    Neighbours,
}

/// Every kind that is read.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "llama",
        is_meant: |metadata| !has_experts(metadata, "llama"),
        model_type: "llama",
        class: "LlamaForCausalLM",
        fields: &[DECODER, RMS, ROTARY],
        more: dense_llama,
        names: &LLAMA,
        pairs: Pairs::Neighbours,
    },
    Family {
        name: "qwen2",
        is_meant: always,
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        fields: &[DECODER, RMS, ROTARY],
        more: |_, _| Ok(()),
        names: &LLAMA,
        pairs: Pairs::AsTransformers,
    },
    Family {
        name: "qwen3",
        is_meant: always,
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        fields: &[DECODER, RMS, ROTARY],
        more: |_, _| Ok(()),
        names: &LLAMA,
        pairs: Pairs::AsTransformers,
    },
    Family {
        name: "gpt2",
        is_meant: always,
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        fields: &[GPT2_SIZES],
        more: |_, _| Ok(()),
        names: &GPT2,
        pairs: Pairs::AsTransformers,
    },
];

fn always(_: &Metadata) -> bool {
    true
}

fn has_experts(metadata: &Metadata, name: &str) -> bool {
    metadata.unsigned(&format!("{name}.expert_count")).ok().flatten().is_some_and(|experts| experts > 0)
}

/// The kind of the model that these metadata describe.
pub(super) fn of(metadata: &Metadata) -> Result<&'static Family> {
    const KEY: &str = "general.architecture";
    let name = metadata.string(KEY)?.ok_or_else(|| metadata.missing(KEY))?;
    FAMILIES.iter().find(|family| family.name == name && (family.is_meant)(metadata)).ok_or_else(|| {
        let mut known: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        known.dedup();
        let of_experts = if FAMILIES.iter().any(|family| family.name == name) { " of experts" } else { "" };
        metadata.unsupported(
            format!("architecture {}{of_experts} is not supported in GGUF files", quote(name)),
            format!("GGUF files of {} are read", known.join(", ")),
        )
    })
}

/// Sizes of a decoder as most have them.
const DECODER: &[Field] = &[
    Field::Size("block_count", "num_hidden_layers"),
    Field::Size("context_length", "max_position_embeddings"),
    Field::Size("embedding_length", "hidden_size"),
    Field::Size("feed_forward_length", "intermediate_size"),
    Field::Size("attention.head_count", "num_attention_heads"),
    Field::MaybeSize("attention.head_count_kv", "num_key_value_heads"),
];

const RMS: &[Field] = &[Field::Float("attention.layer_norm_rms_epsilon", "rms_norm_eps")];

const ROTARY: &[Field] =
    &[Field::MaybeFloat("rope.freq_base", "rope_theta"), Field::HeadDim, Field::RotaryPart, Field::RopeScaling];

const GPT2_SIZES: &[Field] = &[
    Field::Size("block_count", "n_layer"),
    Field::Size("context_length", "n_positions"),
    Field::Size("embedding_length", "n_embd"),
    Field::MaybeSize("feed_forward_length", "n_inner"),
    Field::Size("attention.head_count", "n_head"),
    Field::Float("attention.layer_norm_epsilon", "layer_norm_epsilon"),
];

const LLAMA: Names = Names {
    outside: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")],
    layers: "model.layers",
    inside: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
    experts: &[],
};

const GPT2: Names = Names {
    outside: &[
        ("token_embd", "transformer.wte"),
        ("position_embd", "transformer.wpe"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    layers: "transformer.h",
    inside: &[
        ("attn_norm", "ln_1"),
        ("attn_qkv", "attn.c_attn"),
        ("attn_output", "attn.c_proj"),
        ("ffn_norm", "ln_2"),
        ("ffn_up", "mlp.c_fc"),
        ("ffn_down", "mlp.c_proj"),
    ],
    experts: &[],
};
